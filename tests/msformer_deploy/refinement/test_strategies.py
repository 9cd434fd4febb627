"""Which strategy a request means, and what runs it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from msformer_deploy import EncoderOptions, RefineSettings, UsageError
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.bundle.shipped import shipped_bundle
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.foreground.prompts import Box, Point, Prompts
from msformer_deploy.foreground.view import View
from msformer_deploy.images.read import image_from_array
from msformer_deploy.refinement import strategies
from msformer_deploy.refinement.strategies import (
    Full,
    Head,
    Prepared,
    Strategy,
    WholeGraph,
    open_strategy,
    runs_whole,
    suffices,
)
from msformer_deploy.registry import find_system

FULL = RefineSettings(mode="full", steps=1, stop_labels=0)


def opened(bundle: Bundle, settings: RefineSettings | None = None, seed: int = 0, **options: object) -> Strategy:
    return open_strategy(bundle, settings or bundle.refinement, seed, EncoderOptions(**options))


@pytest.mark.parametrize(
    ("settings", "options", "kind", "ran"),
    [
        (None, {"backend": "onnxruntime", "whole_graph": False}, Head, "onnxruntime"),
        (RefineSettings(mode="none", steps=0), {"backend": "torch"}, Head, "torch"),
        (FULL, {}, Full, "torch"),
        (None, {"whole_graph": True, "backend": "onnxruntime"}, WholeGraph, "onnxruntime"),
    ],
    ids=["head", "none", "full", "whole graph"],
)
def test_a_request_means_one_strategy(tiny_bundle, picture, settings, options, kind, ran):
    strategy = opened(tiny_bundle, settings, device="cpu", **options)
    assert type(strategy) is kind
    assert (strategy.backend_name, strategy.precision, strategy.max_batch) == (ran, "fp32", None)
    assert (strategy.on_gpu, strategy.on_cuda, strategy.kernels) == (False, False, "reference")
    side = tiny_bundle.sizes.side
    pixels = np.random.default_rng(0).random((3, side, side), np.float32)
    prepared = [Prepared(image_from_array(picture), pixels, View(pixels), seconds) for seconds in (1.0, 2.0)]
    first, second = strategy.learn(prepared)
    assert [first.prepared, second.prepared] == prepared
    assert (first.seconds["preprocess"], second.seconds["preprocess"]) == (1.0, 2.0)
    found = first.refinement
    assert (type(found.labels), found.labels.dtype, found.labels.shape) == (np.ndarray, np.uint8, (side, side))
    np.testing.assert_array_equal(found.counts, np.bincount(found.labels.ravel(), minlength=6))
    np.testing.assert_array_equal(found.labels, second.refinement.labels)
    assert found.scores is None
    labels, probability = strategy.at_size(found, found.labels, 60, 80)
    assert labels.shape == probability.shape == (60, 80)
    assert probability.dtype == np.float32
    assert 0 <= probability.min() < probability.max() <= 1


@pytest.mark.parametrize(
    ("changes", "options", "torch", "whole"),
    [
        ({}, {}, True, True),
        ({}, {}, False, True),
        ({"steps": 1}, {}, True, False),
        ({"mode": "none"}, {}, False, False),
        ({}, {"backend": "torch"}, True, False),
        ({}, {"kernels": "cuda"}, True, False),
        ({}, {"compile": True}, True, False),
        ({}, {"device": "cuda"}, True, False),
        ({}, {"device": "cuda"}, False, True),
        ({}, {"backend": "tensorrt", "device": "cpu"}, True, False),
        ({}, {"backend": "tensorrt"}, False, True),
        ({}, {"whole_graph": False}, False, False),
        ({"steps": 1}, {"whole_graph": True}, True, True),
    ],
)
def test_the_graph_runs_where_it_can_do_what_is_asked(monkeypatch, tiny_bundle, changes, options, torch, whole):
    monkeypatch.setattr(strategies, "is_installed", lambda module: module != "torch" or torch)
    settings, asked = replace(tiny_bundle.refinement, **changes), EncoderOptions(**{"device": "cpu", **options})
    assert runs_whole(tiny_bundle, settings, tiny_bundle.seed, asked) is whole
    assert not runs_whole(tiny_bundle, settings, tiny_bundle.seed + 1, replace(asked, whole_graph=None))


@pytest.mark.parametrize("exports", [True, False])
def test_on_a_gpu_torch_is_taken_unless_its_bundle_cannot_be_made(monkeypatch, exports):
    bundle = shipped_bundle(find_system("msformer").sized())
    assert bundle is not None
    monkeypatch.setattr(strategies, "is_installed", lambda module: module != "onnxscript" or exports)
    asked = EncoderOptions(device="cuda")
    assert suffices(bundle, bundle.refinement, bundle.seed, asked) is not exports
    assert runs_whole(bundle, bundle.refinement, bundle.seed, asked), "once taken, it has nothing else to run"
    assert not suffices(bundle, replace(bundle.refinement, steps=1), bundle.seed, asked)
    assert suffices(bundle, bundle.refinement, bundle.seed, EncoderOptions(device="cpu"))


@pytest.mark.parametrize("installed", [True, False])
def test_a_trained_system_runs_in_torch_where_there_is_one(monkeypatch, tiny_bundle, installed):
    trained = replace(tiny_bundle, manifest={**tiny_bundle.manifest, "system": "msnet"})
    monkeypatch.setattr(strategies, "is_installed", lambda module: module != "torch" or installed)
    whole = runs_whole(trained, trained.refinement, trained.seed, EncoderOptions(device="cpu"))
    assert whole is not installed


def test_torch_alone_needs_no_runtime_for_graphs(monkeypatch, tiny_bundle):
    monkeypatch.setattr(strategies, "is_installed", lambda module: module == "torch")
    assert not runs_whole(tiny_bundle, tiny_bundle.refinement, tiny_bundle.seed, EncoderOptions(device="cpu"))


@pytest.mark.parametrize("settings", [None, FULL], ids=["head", "full"])
def test_learning_in_torch_needs_torch(monkeypatch, tiny_bundle, settings):
    monkeypatch.setattr("msformer_deploy.machine.extras.is_installed", lambda module: module != "torch")
    with pytest.raises(BackendUnavailable, match=r'needs torch, which is not installed; pip install ".*\[torch\]"$'):
        opened(tiny_bundle, settings, whole_graph=False)


@pytest.mark.parametrize("settings", [None, FULL], ids=["head", "full"])
def test_learning_in_torch_needs_a_complete_bundle(settings):
    bundle = shipped_bundle(find_system("msformer").sized())
    assert bundle is not None
    with pytest.raises(UsageError, match="has the whole method only; make a complete one with 'msformer-deploy export"):
        opened(bundle, settings, whole_graph=False)


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        (None, {"compile": True}, "--compile only affects refinement mode 'full', not mode 'head'"),
        (FULL, {"precision": "int8"}, "in fp32, or on a GPU in fp16 or bf16, not in int8"),
        (FULL, {"backend": "openvino"}, "needs --backend torch, not openvino"),
        (RefineSettings(steps=1), {"whole_graph": True}, "drop --whole-graph"),
    ],
)
def test_contradictions_are_refused(tiny_bundle, settings, options, said):
    with pytest.raises(UsageError, match=said):
        opened(tiny_bundle, settings, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": "torch"}, "this run is on torch \\(cpu\\); pass --device cuda"),
        ({"whole_graph": True}, "this run learns in the graph; pass --device cuda"),
    ],
)
def test_kernels_that_are_asked_for_need_a_gpu_that_learns(tiny_bundle, options, said):
    with pytest.raises(BackendUnavailable, match=said):
        opened(tiny_bundle, device="cpu", kernels="cuda", **options)


class Seeing(Strategy):
    """Takes for the figure what the first feature is at a place, and keeps what it was given."""

    def figure(self, pixels, features, channels):
        self.given = pixels, channels
        return features[0]

    def _learn(self, inputs, keep, stopwatch, progress):
        raise NotImplementedError


def test_with_a_box_the_figure_is_sought_around_it_alone():
    side, picture = 32, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    image, features = image_from_array(picture), np.random.default_rng(1).random((2, side, side), np.float32)
    pixels = np.zeros((3, side, side), np.float32)
    prepared, strategy = Prepared(image, pixels, View(pixels), 0.0), Seeing()
    found = strategy.shown(prepared, features, Prompts([Point(20, 24)], Box(16, 16, 31, 31)))
    seen, channels = strategy.given
    assert seen[2, 8, 8] == pytest.approx(picture[16, 16, 0] / 255), "a pixel of the image is one of the window's, R"
    assert channels[2, 24:72, 24:72].all()
    assert channels[2].sum() == 48 * 48, "the box is half of what is seen"
    assert channels[0, 50, 36] == 1
    around = found[4:20, 4:20].copy()
    np.testing.assert_allclose(around.mean(), features[0, 4:20, 4:20].mean(), atol=0.02)
    found[4:20, 4:20] = 0
    assert not found.any()
    assert np.array_equal(strategy.shown(prepared, features, Prompts([Point(20, 24)])), features[0]), "all of the image"
    assert strategy.given[0] is pixels
