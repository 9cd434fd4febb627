"""Host side of the CUDA kernels: the launches of each operation, with their outputs and workspaces.

Semantics and shapes are those of ``reference.py``; dtypes are float32, float16 and bfloat16, with float32 sums. No
function waits for the device, so each may run while a CUDA graph is captured.
"""

from __future__ import annotations

import ctypes
import struct
from collections import OrderedDict
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from msformer_deploy.machine.forks import lock_across_forks

from . import geometry, launch
from .capture import captured
from .errors import KernelsUnavailable
from .reference import RefinedHeads, label_dtype

KINDS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}  # the dtype in a kernel's name
MAX_IMAGES = 65535  # in one launch: CUDA's limit for the second and third side of a grid
MAX_INDICES = 2**31 - 1

Arguments = tuple[Tensor | None, ...]


def cluster_argmax(features: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel of :func:`.reference.cluster_argmax`, for up to 4096 clusters.

    A pixel with NaN features gets label 0. On tensor cores, infinite float32 features count as NaN.

    Raises:
        KernelsUnavailable: a size is too large for the kernel, or no launcher is available.
        KernelError: the driver refused the launch.
    """
    batch, channels, height, width = features.shape
    clusters, pixels = head.shape[1], height * width
    geometry.within("cluster_argmax", "pixels", pixels, MAX_INDICES)
    labels = torch.empty((batch, height, width), dtype=label_dtype(clusters), device=features.device)
    how = geometry.argmax(
        _kind(features), batch, channels, pixels, clusters, int(head.shape[0] == 1), labels.element_size()
    )
    tile_counts = torch.empty(
        (batch, geometry.argmax_tiles(pixels), clusters), dtype=torch.int32, device=features.device
    )
    _launch(how, (features.contiguous(), head.to(features.dtype).contiguous()), (labels, tile_counts))
    return labels, tile_counts.sum(dim=1)


def cross_scale_attention(
    query_fine: Tensor,
    key_fine: Tensor,
    value_fine: Tensor,
    query_coarse: Tensor,
    key_coarse: Tensor,
    value_coarse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Kernels of :func:`.reference.cross_scale_attention`, for up to 256 channels. Every run gives the same result.

    Raises:
        KernelsUnavailable: a size is too large for the kernels, or no launcher is available.
        KernelError: the driver refused a launch.
    """
    batch, fine_positions, width = query_fine.shape
    coarse_positions = query_coarse.shape[1]
    geometry.within("cross_scale_attention", "images", batch, MAX_IMAGES)
    geometry.within("cross_scale_attention", "positions", fine_positions + coarse_positions, MAX_INDICES)
    query_fine, key_fine, value_fine, query_coarse, key_coarse, value_coarse = (
        each.contiguous() for each in (query_fine, key_fine, value_fine, query_coarse, key_coarse, value_coarse)
    )
    kind, dtype, device = _kind(query_fine), query_fine.dtype, query_fine.device

    # Two blocks run on each multiprocessor at a time.
    slots = 2 * _multiprocessors(device) // (batch * geometry.context_tiles(width))
    parts = geometry.context_parts(fine_positions, coarse_positions, slots)
    how = geometry.context(kind, batch, width, fine_positions, coarse_positions, *parts)
    partial = torch.empty((batch, sum(parts), width, width), device=device)
    maximum, total = torch.empty((2, batch, sum(parts), width), device=device).unbind()
    _launch(how, (key_fine, value_fine, key_coarse, value_coarse), (partial, maximum, total))

    context_fine, context_coarse = torch.empty((2, batch, width, width), dtype=dtype, device=device).unbind()
    cosine = torch.empty((batch, width), device=device)
    how = geometry.merge(kind, batch, width, *parts)
    _launch(how, (partial, maximum, total), (context_fine, context_coarse, cosine))

    fine, coarse = torch.empty_like(query_fine), torch.empty_like(query_coarse)
    consistency = torch.empty((batch,), dtype=dtype, device=device)
    how = geometry.apply(kind, batch, width, fine_positions, coarse_positions)
    _launch(how, (query_fine, query_coarse, context_fine, context_coarse, cosine), (fine, coarse, consistency))
    return fine, coarse, context_fine, context_coarse, consistency


def head_refine_step(
    features: Tensor, head: Tensor, velocity: Tensor, offset: int, stride: int, lr: float, momentum: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kernels of :func:`.reference.head_refine_step`, for up to 256 clusters.

    Raises:
        KernelsUnavailable: a size is too large for the kernels, or no launcher is available.
        KernelError: the driver refused a launch.
    """
    batch, channels, pixels = features.shape
    clusters = head.shape[1]
    _check_refinement(batch, clusters, pixels)
    features, head, velocity = features.contiguous(), head.contiguous(), velocity.contiguous()
    new_head, new_velocity = torch.empty_like(head), torch.empty_like(velocity)
    loss = torch.empty((batch,), device=features.device)
    counts = torch.empty((batch, clusters), dtype=torch.int64, device=features.device)
    samples = torch.empty((batch, channels, len(range(offset, pixels, stride))), device=features.device)
    _gather(features, samples, offset, stride, phases=1)
    sums = _TileSums.of(head, samples)
    _gradient(samples, head, torch.ones(batch, dtype=torch.bool, device=features.device), sums)
    how = geometry.update(
        "head_update", batch, channels, samples.shape[2], clusters, _float_bits(lr), _float_bits(momentum)
    )
    _launch(how, (*sums, head, velocity), (new_head, new_velocity, loss, counts))
    return new_head, new_velocity, loss, counts


def head_refine_loop(
    features: Tensor, head: Tensor, *, steps: int, stride: int, lr: float, momentum: float, stop_labels: int
) -> RefinedHeads:
    """Kernels of :func:`.reference.head_refine_loop`, for up to 256 clusters, without Python between the steps.

    Raises:
        KernelsUnavailable: a size is too large for the kernels, or no launcher is available.
        KernelError: the driver refused a launch.
    """
    batch, _, pixels = features.shape
    clusters = head.shape[1]
    _check_refinement(batch, clusters, pixels)
    stream = torch.cuda.current_stream(features.device).cuda_stream if features.is_cuda else 0
    key = (features.device, stream, features.dtype, features.shape, clusters, steps, stride, lr, momentum, stop_labels)
    with _loops_lock:
        loop = _loops.pop(key, None) or _RefineLoop(features, clusters, steps, stride, lr, momentum, stop_labels)
        _loops[key] = loop
        while len(_loops) > MAX_LOOPS:
            _loops.popitem(last=False)
        return loop.run(features.contiguous(), head.contiguous())


class _RefineLoop:
    """The launches for one shape and setting, with fixed buffers, so that a CUDA graph can replay the launches."""

    def __init__(
        self, like: Tensor, clusters: int, steps: int, stride: int, lr: float, momentum: float, stop_labels: int
    ) -> None:
        batch, channels, pixels = like.shape
        device = like.device
        self._steps, self._stride = steps, stride
        self._lr, self._momentum, self._stop_labels = lr, momentum, stop_labels
        lengths = [len(range(phase, pixels, stride)) for phase in range(min(stride, steps))]
        self._gathered = torch.empty(batch * channels * sum(lengths), device=device)
        sizes = [batch * channels * length for length in lengths]
        self._samples = [
            part.view(batch, channels, length)
            for part, length in zip(self._gathered.split(sizes), lengths, strict=True)
        ]
        self._initial, self._head, self._velocity, self._safe = torch.empty(
            (4, batch, clusters, channels), device=device
        ).unbind()
        self._active, self._collapsed = torch.empty((2, steps + 1, batch), dtype=torch.bool, device=device).unbind()
        self._loss = torch.empty((steps, batch), device=device)
        self._counts = torch.empty((steps, batch, clusters), dtype=torch.int64, device=device)
        self._sums = _TileSums.of(self._head, self._samples[0])  # the longest
        self._ran = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, features: Tensor, head: Tensor) -> RefinedHeads:
        _gather(features, self._gathered, 0, self._stride, len(self._samples))
        self._initial.copy_(head)
        # A graph saves time from the second image of a shape on. While it is recorded, no module may be loaded.
        if self._ran and self._graph is None and features.is_cuda:
            self._graph = self._record(features.device)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._enqueue()
        self._ran = True
        return RefinedHeads(
            self._head.clone(),
            self._velocity.clone(),
            self._safe.clone(),
            self._active.clone(),
            self._collapsed[-1].clone(),
            self._loss.clone(),
            self._counts.clone(),
        )

    def _record(self, device: torch.device) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._enqueue()  # a launcher may need a setup for a new stream, which must not be recorded
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with captured(graph, stream):
            self._enqueue()
        return graph

    def _enqueue(self) -> None:
        self._head.copy_(self._initial)
        self._safe.copy_(self._initial)
        self._active[0] = True
        self._collapsed[0] = False
        self._velocity.zero_()
        batch, clusters, channels = self._head.shape
        settings = _float_bits(self._lr), _float_bits(self._momentum), self._stop_labels
        for step in range(self._steps):
            samples = self._samples[step % self._stride]
            _gradient(samples, self._head, self._active[step], self._sums)
            _launch(
                geometry.update("head_update_guarded", batch, channels, samples.shape[2], clusters, *settings),
                (*self._sums, self._active[step], self._collapsed[step]),
                (
                    *(self._head, self._velocity, self._safe, self._active[step + 1], self._collapsed[step + 1]),
                    *(self._loss[step], self._counts[step]),
                ),
            )


MAX_LOOPS = 2  # each holds a copy of its features
_loops: OrderedDict[tuple[object, ...], _RefineLoop] = OrderedDict()
_loops_lock = lock_across_forks()


class _TileSums(NamedTuple):
    """Results of the first launch of a step for the second one, with room for as many pixels as ``samples`` has."""

    gradient: Tensor  # (B * tiles * K * C,)
    loss: Tensor  # (B * tiles,)
    counts: Tensor  # (B * tiles * K,)

    @classmethod
    def of(cls, head: Tensor, samples: Tensor) -> _TileSums:
        batch, clusters, channels = head.shape
        tiles = batch * geometry.gradient_tiles(samples.shape[2], clusters)
        return cls(
            torch.empty(tiles * clusters * channels, device=head.device),
            torch.empty(tiles, device=head.device),
            torch.empty(tiles * clusters, dtype=torch.int32, device=head.device),
        )


def _gather(features: Tensor, samples: Tensor, offset: int, stride: int, phases: int) -> None:
    """Gather pixels offset + p, offset + p + stride, ... of features (B, C, N) as float32, for all p < ``phases``."""
    batch, channels, pixels = features.shape
    how = geometry.gather(_kind(features), batch * channels, pixels, offset, stride, phases)
    _launch(how, (features,), (samples,))


def _gradient(samples: Tensor, head: Tensor, active: Tensor, sums: _TileSums) -> None:
    batch, channels, pixels = samples.shape
    _launch(geometry.gradient(batch, channels, pixels, head.shape[1]), (samples, head, active), sums)


def _launch(how: geometry.Launch, inputs: Arguments, outputs: Arguments) -> None:
    launcher = launch.launcher()
    integers = [ctypes.c_int32(value) for value in how.integers]
    device = next(each.device for each in inputs if each is not None)
    shared_bytes = how.shared_bytes(_capability(device))
    launcher.launch(how.source, how.kernel, how.grid, how.block, shared_bytes, [*inputs, *integers, *outputs])


def _check_refinement(batch: int, clusters: int, pixels: int) -> None:
    geometry.within("head_refine_step", "clusters", clusters, geometry.MAX_LEARNT_CLUSTERS)
    geometry.within("head_refine_step", "images", batch, MAX_IMAGES)
    geometry.within("head_refine_step", "pixels", pixels, MAX_INDICES)


def _kind(tensor: Tensor) -> str:
    if tensor.dtype not in KINDS:
        name = str(tensor.dtype).removeprefix("torch.")
        raise KernelsUnavailable(f"there is no CUDA kernel for {name} tensors")
    return KINDS[tensor.dtype]


def _float_bits(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little", signed=True)


@cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
