"""Graphs of an encoder, with a stand-in for CUDA's: what is recorded, replayed and copied. No GPU is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from msformer_deploy.backends import cuda_graphs
from msformer_deploy.backends.cuda_graphs import MAX_SHAPES, EncoderGraphs


class Encoder:
    """Counts its calls; the outputs are of the pixels."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return 2 * images, images.sum(dim=(1, 2, 3))


class Graph:
    """A replay computes again, from the tensor that was recorded and into those that were."""

    replays = 0
    graphs: EncoderGraphs

    def replay(self) -> None:
        Graph.replays += 1
        (own,) = (each for each in self.graphs._recorded.values() if each.graph is self)
        for output, fresh in zip(own.outputs, Encoder()(own.inputs), strict=True):
            output.copy_(fresh)


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    @contextmanager
    def captured(graph: object, stream: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(cuda_graphs, "captured", captured)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(Graph, "replays", 0)
    return monkeypatch


def made(encoder: Encoder) -> EncoderGraphs:
    graphs = Graph.graphs = EncoderGraphs(encoder)
    return graphs


def check(outputs: object, images: Tensor) -> None:
    for output, expected in zip(outputs, Encoder()(images), strict=True):  # type: ignore[call-overload]
        torch.testing.assert_close(output, expected, rtol=0, atol=0)


@pytest.mark.usefixtures("capture")
def test_from_the_second_call_of_a_shape_on_it_is_replayed() -> None:
    graphs = made(encoder := Encoder())
    for batch, calls, replays in ((2, 1, 0), (2, 2, 1), (2, 2, 2), (1, 3, 2), (2, 3, 3), (1, 4, 4)):
        images = torch.rand(batch, 3, 4, 4)
        check(graphs(images), images)
        assert (encoder.calls, Graph.replays) == (calls, replays)


@pytest.mark.usefixtures("capture")
def test_a_result_is_not_written_over_by_the_next() -> None:
    graphs, pictures = made(Encoder()), torch.rand(3, 1, 3, 4, 4)
    results = [graphs(images) for images in pictures]
    for images, outputs in zip(pictures, results, strict=True):
        check(outputs, images)


@pytest.mark.usefixtures("capture")
def test_few_shapes_have_a_graph() -> None:
    graphs = made(Encoder())
    for batch in [*range(1, MAX_SHAPES + 3)] * 2:
        images = torch.rand(batch, 3, 2, 2)
        check(graphs(images), images)
    assert Graph.replays == len(graphs._recorded) == MAX_SHAPES


def test_what_cannot_be_recorded_runs_as_it_is(capture: pytest.MonkeyPatch) -> None:
    @contextmanager
    def captured(graph: object, stream: object) -> Iterator[None]:
        yield
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    capture.setattr(cuda_graphs, "captured", captured)
    graphs, images = made(encoder := Encoder()), torch.rand(1, 3, 2, 2)
    graphs(images)
    with pytest.warns(UserWarning, match="without a CUDA graph, which is slower: operation not permitted when"):
        check(graphs(images), images)
    check(graphs(images), images)
    assert (encoder.calls, Graph.replays) == (4, 0), "it is tried once"
