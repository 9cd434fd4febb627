"""An encoder on a GPU whose launches are one CUDA graph for each shape of images. It was not run on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..kernels.capture import captured

if TYPE_CHECKING:
    from torch import Tensor

MAX_SHAPES = 4  # a run has two: its batches and the last one. Each graph holds the encoder's memory for its shape


class _Recorded(NamedTuple):
    """A graph, what it reads, and what it leaves."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    outputs: Sequence[Tensor]


class EncoderGraphs:
    """Calls an encoder, or replays what it did. Any thread may call it; the host does not wait for the GPU.

    The first call with a shape runs the encoder as it is, which loads kernels and chooses algorithms. The second one
    records a graph. Results are copies, for the next replay writes over the graph's own.

    Args:
        encoder: from images (B, 3, S, S) on a GPU to its outputs.
    """

    def __init__(self, encoder: Callable[[Tensor], Sequence[Tensor]]) -> None:
        self._encoder, self._lock = encoder, Lock()
        self._called: set[torch.Size] = set()
        self._recorded: dict[torch.Size, _Recorded] = {}
        self._recording = True

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """The encoder's outputs.

        Args:
            images: (B, 3, S, S) float32, on the GPU.
        """
        with self._lock:
            again = images.shape in self._called
            self._called.add(images.shape)
            if again and images.shape not in self._recorded and len(self._recorded) < MAX_SHAPES and self._recording:
                self._record(images)
            recorded = self._recorded.get(images.shape)
            if recorded is None:
                return self._encoder(images)
            recorded.inputs.copy_(images, non_blocking=True)
            recorded.graph.replay()
            return [each.clone() for each in recorded.outputs]

    def _record(self, images: Tensor) -> None:
        graph, stream, inputs = torch.cuda.CUDAGraph(), torch.cuda.Stream(images.device), images.clone()
        try:
            with captured(graph, stream):
                outputs = self._encoder(inputs)
        except RuntimeError as error:
            self._recording = False
            reason = " ".join(str(error).split())
            warnings.warn(f"the encoder runs without a CUDA graph, which is slower: {reason}", stacklevel=2)
        else:
            self._recorded[images.shape] = _Recorded(graph, inputs, outputs)
