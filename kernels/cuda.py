"""Host side of the CUDA kernels: for each op the launches that compute it, with their grids, shapes and workspaces.

Semantics and shapes are those of ``reference.py``; dtypes float32, float16 and bfloat16, with float32 sums. Nothing
here waits for the device, so every function may run while a CUDA graph is captured.
"""

from __future__ import annotations

import ctypes
import struct
from collections import OrderedDict
from functools import cache
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from . import launch
from .reference import label_dtype

TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
MOST_CLUSTERS = 4096  # of cluster_argmax: a block counts them in shared memory
MOST_LEARNT_CLUSTERS = 256  # of head_refine_step: a warp keeps a pixel's probabilities in registers
MOST_CHANNELS = 256  # of cross_scale_attention: a warp keeps a query in registers
MOST_IMAGES = 65535  # of one launch, CUDA's limit to a grid's second and third side
MOST_INDICES = 2**31 - 1


def cluster_argmax(features: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel of :func:`.reference.cluster_argmax`, for up to 4096 clusters.

    A pixel with NaN features gets label 0; infinite features count as NaN.

    Raises:
        KernelsUnavailable: for sizes beyond the kernel's, or where nothing can launch it.
        KernelError: the driver refused the launch.
    """
    batch, channels, height, width = features.shape
    clusters, pixels = head.shape[1], height * width
    _within("cluster_argmax", "clusters", clusters, MOST_CLUSTERS)
    _within("cluster_argmax", "pixels", pixels, MOST_INDICES)
    features = features.contiguous()
    head = head.to(features.dtype).contiguous()
    labels = torch.empty((batch, height, width), dtype=label_dtype(clusters), device=features.device)
    tiles = _ceil(pixels, 128)
    tile_counts = torch.empty((batch, tiles, clusters), dtype=torch.int32, device=features.device)
    n_tiles = _fit((4, 8, 13, 16), clusters)
    launch.launcher().launch(
        "cluster_argmax",
        f"cluster_argmax_{_kind(features)}_n{n_tiles}",
        (batch * tiles, 1, 1),
        128,
        _shared_bytes(16 * 136, 8 * n_tiles * 20, clusters),
        [
            *(features, head),
            *_ints(channels, pixels, clusters, int(head.shape[0] == 1), labels.element_size()),
            *(labels, tile_counts),
        ],
    )
    return labels, tile_counts.sum(dim=1)


def cross_scale_attention(
    query_fine: Tensor,
    key_fine: Tensor,
    value_fine: Tensor,
    query_coarse: Tensor,
    key_coarse: Tensor,
    value_coarse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Kernels of :func:`.reference.cross_scale_attention`, for up to 256 channels. The same result in every run.

    Raises:
        KernelsUnavailable: for sizes beyond the kernels', or where nothing can launch them.
        KernelError: the driver refused a launch.
    """
    batch, fine_positions, width = query_fine.shape
    coarse_positions = query_coarse.shape[1]
    _within("cross_scale_attention", "channels", width, MOST_CHANNELS)
    _within("cross_scale_attention", "images", batch, MOST_IMAGES)
    _within("cross_scale_attention", "positions", fine_positions + coarse_positions, MOST_INDICES)
    query_fine, key_fine, value_fine = query_fine.contiguous(), key_fine.contiguous(), value_fine.contiguous()
    query_coarse, key_coarse, value_coarse = (
        query_coarse.contiguous(),
        key_coarse.contiguous(),
        value_coarse.contiguous(),
    )
    device, dtype = query_fine.device, query_fine.dtype
    kind, launcher = _kind(query_fine), launch.launcher()
    sizes = (width, fine_positions, coarse_positions)

    n_tiles = _fit((4, 13, 17), width + 1)
    context_tiles = _ceil(width, 128) * _ceil(width, 8 * n_tiles - 1)
    # Two blocks for each multiprocessor, but no stretch of positions so short that its partial context outweighs it.
    blocks = max(1, 2 * _multiprocessors(device) // (batch * context_tiles))
    stretch = max(_ceil(fine_positions + coarse_positions, blocks), 256)
    fine_parts, coarse_parts = _ceil(fine_positions, stretch), _ceil(coarse_positions, stretch)
    parts = fine_parts + coarse_parts
    partial = torch.empty((batch, parts, width, width), device=device)
    maximum, total = torch.empty((2, batch, parts, width), device=device).unbind()
    launcher.launch(
        "cross_scale_attention",
        f"attention_context_{kind}_n{n_tiles}",
        (parts, context_tiles, batch),
        256,
        _shared_bytes(128 * 36, 32 * _padded_step(8 * n_tiles), 128, 128),
        [
            *(key_fine, value_fine, key_coarse, value_coarse),
            *_ints(*sizes, fine_parts, coarse_parts),
            *(partial, maximum, total),
        ],
    )

    context_fine = torch.empty((batch, width, width), dtype=dtype, device=device)
    context_coarse = torch.empty_like(context_fine)
    cosine = torch.empty((batch, width), device=device)
    launcher.launch(
        "cross_scale_attention",
        f"attention_merge_{kind}",
        (width, batch, 1),
        128,
        _shared_bytes(parts, 4),
        [
            *(partial, maximum, total),
            *_ints(width, fine_parts, coarse_parts),
            *(context_fine, context_coarse, cosine),
        ],
    )

    n_tiles = _fit((4, 13, 16), width)
    warps = 4 if n_tiles < 16 else 2
    fine_tiles, coarse_tiles = _ceil(fine_positions, 16 * warps), _ceil(coarse_positions, 16 * warps)
    words = 16 * _ceil(_ceil(width, 4 // query_fine.element_size()), 16)
    fine, coarse = torch.empty_like(query_fine), torch.empty_like(query_coarse)
    consistency = torch.empty((batch,), dtype=dtype, device=device)
    launcher.launch(
        "cross_scale_attention",
        f"attention_apply_{kind}_n{n_tiles}",
        (fine_tiles + coarse_tiles, _ceil(width, 8 * n_tiles), batch),
        32 * warps,
        _shared_bytes(16 * warps * (words + 4), 16 * _padded_step(8 * n_tiles)),
        [
            *(query_fine, query_coarse, context_fine, context_coarse, cosine),
            *_ints(*sizes, fine_tiles, coarse_tiles),
            *(fine, coarse, consistency),
        ],
    )
    return fine, coarse, context_fine, context_coarse, consistency


def head_refine_step(
    features: Tensor, head: Tensor, velocity: Tensor, offset: int, stride: int, lr: float, momentum: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kernels of :func:`.reference.head_refine_step`, for up to 256 clusters.

    Raises:
        KernelsUnavailable: for sizes beyond the kernels', or where nothing can launch them.
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
    _launch_update(
        "head_update",
        head,
        [
            *(*sums, head, velocity),
            *_update_ints(samples, head, lr, momentum),
            *(new_head, new_velocity, loss, counts),
        ],
    )
    return new_head, new_velocity, loss, counts


class RefinedHeads(NamedTuple):
    """Where :func:`head_refine_loop` ended, and what it met on the way."""

    head: Tensor  # (B, K, C) float32
    velocity: Tensor  # (B, K, C) float32
    safe: Tensor  # (B, K, C) float32, the last head seen with at least two labels
    active: Tensor  # (steps + 1, B) bool, before each step and after the last
    collapsed: Tensor  # (B,) bool, fell to one label and was set back to ``safe``
    loss: Tensor  # (steps, B) float32, before each step; 0 where inactive
    counts: Tensor  # (steps, B, K) int64, sampled pixels per cluster before each step; 0 where inactive


def head_refine_loop(
    features: Tensor, head: Tensor, *, steps: int, stride: int, lr: float, momentum: float, stop_labels: int
) -> RefinedHeads:
    """All steps of the guarded refinement (see ``docs/design.md``) without coming back to Python between them.

    Step i learns on pixels i mod stride, i mod stride + stride, ... An image stops after the update that found at most
    ``stop_labels`` labels, or at one that finds a single label, which sets it back to its last head with two.

    Args:
        features: (B, C, N), float32, float16 or bfloat16.
        head: initial heads (B, K, C), float32.
        steps: number of updates, at least 1.
        stride, lr, momentum, stop_labels: as in ``RefineSettings``.

    Raises:
        KernelsUnavailable: for sizes beyond the kernels', or where nothing can launch them.
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
        while len(_loops) > MOST_LOOPS:
            _loops.popitem(last=False)
        return loop.run(features.contiguous(), head.contiguous())


class _RefineLoop:
    """The launches of one shape and setting, with buffers that stay in place so that a CUDA graph can replay them."""

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
        # A graph pays from the second image of a shape on, and its recording must not meet modules still to be loaded.
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
            self._enqueue()  # a launcher may set itself up for a stream it has not met, and not while it is recorded
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._enqueue()
        return graph

    def _enqueue(self) -> None:
        self._head.copy_(self._initial)
        self._safe.copy_(self._initial)
        self._active[0] = True
        self._collapsed[0] = False
        self._velocity.zero_()
        for step in range(self._steps):
            samples = self._samples[step % self._stride]
            _gradient(samples, self._head, self._active[step], self._sums)
            _launch_update(
                "head_update_guarded",
                self._head,
                [
                    *(*self._sums, self._active[step], self._collapsed[step]),
                    *_update_ints(samples, self._head, self._lr, self._momentum),
                    *_ints(self._stop_labels),
                    *(self._head, self._velocity, self._safe, self._active[step + 1], self._collapsed[step + 1]),
                    *(self._loss[step], self._counts[step]),
                ],
            )


MOST_LOOPS = 2  # each holds a copy of its features
_loops: OrderedDict[tuple[object, ...], _RefineLoop] = OrderedDict()
_loops_lock = Lock()


class _TileSums(NamedTuple):
    """What the first launch of a step leaves for the second; room for so many pixels, or fewer."""

    gradient: Tensor  # (B * tiles * K * C,)
    loss: Tensor  # (B * tiles,)
    counts: Tensor  # (B * tiles * K,)

    @classmethod
    def of(cls, head: Tensor, samples: Tensor) -> _TileSums:
        batch, clusters, channels = head.shape
        tiles = batch * _tiles(samples, clusters)
        return cls(
            torch.empty(tiles * clusters * channels, device=head.device),
            torch.empty(tiles, device=head.device),
            torch.empty(tiles * clusters, dtype=torch.int32, device=head.device),
        )


def _gather(features: Tensor, samples: Tensor, offset: int, stride: int, phases: int) -> None:
    """Pixels offset + p, offset + p + stride, ... of features (B, C, N), as float32, for every phase p < phases."""
    batch, channels, pixels = features.shape
    launch.launcher().launch(
        "head_refine_step",
        f"sample_phases_{_kind(features)}",
        (_ceil(pixels - offset, 256), min(batch * channels, MOST_IMAGES), 1),
        256,
        0,
        [features, *_ints(batch * channels, pixels, offset, stride, phases), samples],
    )


def _gradient(samples: Tensor, head: Tensor, active: Tensor, sums: _TileSums) -> None:
    batch, channels, pixels = samples.shape
    clusters = head.shape[1]
    n_tiles = _fit((4, 8, 13, 16, 32), clusters)
    tile = _pixels_per_tile(clusters)
    words = 16 if n_tiles < 32 else 8
    scores = words * (tile + 8) + 8 * n_tiles * (words + 4)
    gradient = (32 * _ceil(clusters, 32) + 64) * (tile + 4)
    launch.launcher().launch(
        "head_refine_step",
        f"head_gradient_n{n_tiles}",
        (_tiles(samples, clusters), batch, 1),
        2 * tile,
        _shared_bytes(max(scores, gradient), tile, clusters),
        [samples, head, active, *_ints(channels, pixels, clusters), *sums],
    )


def _launch_update(kernel: str, head: Tensor, arguments: list[Tensor | launch.Scalar | None]) -> None:
    batch, clusters, channels = head.shape
    launch.launcher().launch("head_refine_step", kernel, (_ceil(clusters * channels, 256), batch, 1), 256, 0, arguments)


def _update_ints(samples: Tensor, head: Tensor, lr: float, momentum: float) -> list[ctypes.c_int32]:
    _, clusters, channels = head.shape
    return _ints(
        _tiles(samples, clusters), samples.shape[2], clusters, channels, _float_bits(lr), _float_bits(momentum)
    )


def _tiles(samples: Tensor, clusters: int) -> int:
    return _ceil(samples.shape[2], _pixels_per_tile(clusters))


def _pixels_per_tile(clusters: int) -> int:
    """Sixteen for each warp of a block; many clusters leave room for two warps only."""
    return 64 if clusters <= 128 else 32


def _check_refinement(batch: int, clusters: int, pixels: int) -> None:
    _within("head_refine_step", "clusters", clusters, MOST_LEARNT_CLUSTERS)
    _within("head_refine_step", "images", batch, MOST_IMAGES)
    _within("head_refine_step", "pixels", pixels, MOST_INDICES)


def _kind(tensor: Tensor) -> str:
    """How a kernel's name says the dtype."""
    if tensor.dtype not in TYPES:
        raise launch.KernelsUnavailable(
            f"there is no CUDA kernel for {str(tensor.dtype).removeprefix('torch.')} tensors"
        )
    return TYPES[tensor.dtype]


def _within(kernel: str, what: str, count: int, most: int) -> None:
    if count > most:
        raise launch.KernelsUnavailable(f"the CUDA kernel {kernel} takes up to {most} {what}, got {count}")


def _fit(choices: tuple[int, ...], columns: int) -> int:
    """The fewest tiles of 8 columns that cover ``columns``, or the most there are: then several passes or blocks do."""
    return next((tiles for tiles in choices if 8 * tiles >= columns), choices[-1])


def _shared_bytes(*counts: int) -> int:
    """Dynamic shared memory of arrays of so many 4-byte elements, as ``SharedMemory`` in csrc hands them out."""
    return sum(16 * _ceil(4 * count, 16) for count in counts)


def _padded_step(width: int) -> int:
    """As in csrc/warp_tile.cuh."""
    return 32 * _ceil(width + 24, 32) - 24


def _ints(*values: int) -> list[ctypes.c_int32]:
    return [ctypes.c_int32(value) for value in values]


def _float_bits(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little", signed=True)


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
