"""Launch configuration of each kernel: grid, block, shared memory and integer arguments, from the sizes alone.

The host code of torch (``cuda.py``) and the TensorRT plugins (``plugin.py``) use the same rules. Sizes are integers, or
TensorRT's expressions while it builds an engine. Expressions support only ``+``, ``*``, ``//`` and ``==``, with the
expression on the left. Clusters and width are always integers: they choose the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .errors import KernelsUnavailable

Size = Any

MAX_CLUSTERS = 4096  # of cluster_argmax: a block counts them in shared memory
MAX_LEARNT_CLUSTERS = 256  # of head_gradient: a warp keeps a pixel's probabilities in registers
MAX_WIDTH = 256  # of the attention: a warp keeps a query in registers


class Launch(NamedTuple):
    """One launch. Its arguments are the inputs, the integers and the outputs, in this order."""

    source: str
    kernel: str
    grid: tuple[Size, Size, Size]
    block: int
    shared: tuple[int, int]  # bytes with one buffer for each operand, and with two
    integers: tuple[Size, ...]

    def shared_bytes(self, capability: int) -> int:
        """Shared memory of a block, bytes: as ``BUFFERS`` in csrc/warp_tile.cuh, two buffers from 8.0 (80) on."""
        return self.shared[capability >= 80]


def argmax(
    kind: str, batch: Size, channels: Size, pixels: Size, clusters: int, shared_head: Size, label_bytes: int
) -> Launch:
    within("cluster_argmax", "clusters", clusters, MAX_CLUSTERS)
    n_tiles = _fit((4, 8, 13, 16), clusters)
    return Launch(
        "cluster_argmax",
        f"cluster_argmax_{kind}_n{n_tiles}",
        (argmax_tiles(pixels) * batch, 1, 1),
        128,
        _for_buffers(lambda buffers: _bytes(buffers * (16 * 136 + 8 * n_tiles * 20))),
        (channels, pixels, clusters, shared_head, label_bytes),
    )


def argmax_tiles(pixels: Size) -> Size:
    """Number of tiles of pixels of one image; each tile has its own counts."""
    return _ceil(pixels, 128)


def context(
    kind: str, batch: Size, width: int, fine_positions: Size, coarse_positions: Size, fine_parts: int, coarse_parts: int
) -> Launch:
    within("cross_scale_attention", "channels", width, MAX_WIDTH)
    n_tiles = _fit((4, 13, 17), width + 1)
    return Launch(
        "cross_scale_attention",
        f"attention_context_{kind}_n{n_tiles}",
        (fine_parts + coarse_parts, context_tiles(width), batch),
        256,
        _for_buffers(lambda buffers: _bytes(128 * 36, buffers * 32 * _padded_step(8 * n_tiles), 128, 128), n_tiles),
        (width, fine_positions, coarse_positions, fine_parts, coarse_parts),
    )


def context_parts(fine_positions: int, coarse_positions: int, slots: int) -> tuple[int, int]:
    """Numbers of parts of the fine and the coarse positions: together at most ``slots``, or one of each.

    All parts then run at once; one more would make all others wait for it. A part has 256 positions or more, because
    its context costs more than shorter ones save.
    """
    for parts in range(slots, 0, -1):
        stretch = max(_ceil(fine_positions + coarse_positions, parts), 256)
        fine, coarse = int(_ceil(fine_positions, stretch)), int(_ceil(coarse_positions, stretch))
        if fine + coarse <= slots:
            return fine, coarse
    return 1, 1


def context_tiles(width: int) -> int:
    """Number of blocks that share one context."""
    return int(_ceil(width, 128) * _ceil(width, 8 * _fit((4, 13, 17), width + 1) - 1))


def merge(kind: str, batch: Size, width: int, fine_parts: int, coarse_parts: int) -> Launch:
    return Launch(
        "cross_scale_attention",
        f"attention_merge_{kind}",
        (width, batch, 1),
        256,
        _for_buffers(lambda _: _bytes(fine_parts + coarse_parts, 8, 16 * width)),
        (width, fine_parts, coarse_parts),
    )


def apply(kind: str, batch: Size, width: int, fine_positions: Size, coarse_positions: Size) -> Launch:
    within("cross_scale_attention", "channels", width, MAX_WIDTH)
    n_tiles = _fit((4, 13, 16), width)
    warps = 4 if n_tiles < 16 else 2
    fine_tiles, coarse_tiles = _ceil(fine_positions, 16 * warps), _ceil(coarse_positions, 16 * warps)
    words = 16 * _ceil(_ceil(width, 1 if kind == "f32" else 2), 16)
    return Launch(
        "cross_scale_attention",
        f"attention_apply_{kind}_n{n_tiles}",
        (fine_tiles + coarse_tiles, _ceil(width, 8 * n_tiles), batch),
        32 * warps,
        _for_buffers(
            lambda buffers: _bytes(16 * warps * (words + 4), buffers * 16 * _padded_step(8 * n_tiles)), n_tiles
        ),
        (width, fine_positions, coarse_positions, fine_tiles, coarse_tiles),
    )


def gather(kind: str, rows: int, pixels: int, offset: int, stride: int, phases: int) -> Launch:
    return Launch(
        "head_refine_step",
        f"sample_phases_{kind}",
        (_ceil(pixels - offset, 256), min(rows, 65535), 1),
        256,
        (0, 0),
        (rows, pixels, offset, stride, phases),
    )


def gradient(batch: int, channels: int, pixels: int, clusters: int) -> Launch:
    within("head_refine_step", "clusters", clusters, MAX_LEARNT_CLUSTERS)
    n_tiles = _fit((4, 8, 13, 16, 32), clusters)
    tile, words = (64, 16) if n_tiles < 32 else (32, 8)
    scores = words * (tile + 8) + 8 * n_tiles * (words + 4)
    rows = 32 * _ceil(clusters, 32)
    return Launch(
        "head_refine_step",
        f"head_gradient_n{n_tiles}",
        (gradient_tiles(pixels, clusters), batch, 1),
        2 * tile,
        _for_buffers(lambda buffers: _bytes(max(buffers * scores, (rows + buffers * 32) * (tile + 4)), tile, clusters)),
        (channels, pixels, clusters),
    )


def gradient_tiles(pixels: int, clusters: int) -> int:
    """Number of tiles of pixels of one image, each with its own sums; with many clusters, a tile has only two warps."""
    return int(_ceil(pixels, 64 if clusters <= 128 else 32))


def update(kernel: str, batch: int, channels: int, pixels: int, clusters: int, *settings: int) -> Launch:
    return Launch(
        "head_refine_step",
        kernel,
        (_ceil(clusters * channels, 256), batch, 1),
        256,
        (0, 0),
        (gradient_tiles(pixels, clusters), pixels, clusters, channels, *settings),
    )


def max_shared_bytes() -> dict[str, int]:
    """Maximum dynamic shared memory of every kernel over all sizes, bytes; of attention_merge for 512 parts."""
    launches = [merge(kind, 1, MAX_WIDTH, 256, 256) for kind in ("f32", "f16", "bf16")]
    for kind in ("f32", "f16", "bf16"):
        launches += [argmax(kind, 1, 1, 1, clusters, 0, 1) for clusters in range(1, MAX_CLUSTERS + 1)]
        launches += [context(kind, 1, width, 1, 1, 1, 1) for width in range(1, MAX_WIDTH + 1)]
        launches += [apply(kind, 1, width, 1, 1) for width in range(1, MAX_WIDTH + 1)]
    launches += [gradient(1, 1, 1, clusters) for clusters in range(1, MAX_LEARNT_CLUSTERS + 1)]
    found: dict[str, int] = {}
    for each in launches:
        found[each.kernel] = max(found.get(each.kernel, 0), each.shared[1])
    return found


def within(kernel: str, what: str, count: int, maximum: int) -> None:
    """Check a size.

    Raises:
        KernelsUnavailable: the size is too large for the kernel.
    """
    if count > maximum:
        raise KernelsUnavailable(f"the CUDA kernel {kernel} takes up to {maximum} {what}, got {count}")


def _fit(choices: tuple[int, ...], columns: int) -> int:
    """The smallest choice of tiles of 8 columns that covers ``columns``, else the largest, for several passes."""
    return next((tiles for tiles in choices if 8 * tiles >= columns), choices[-1])


def _for_buffers(shared: Callable[[int], int], n_tiles: int = 0) -> tuple[int, int]:
    """``shared`` of one buffer and of two; one in both where tiles are too wide, as ``buffers`` in csrc says."""
    return shared(1), shared(2 if n_tiles <= 13 else 1)


def _bytes(*counts: int) -> int:
    """Bytes of dynamic shared memory for arrays of 4-byte elements, as ``SharedMemory`` in csrc allocates them."""
    return sum(16 * _ceil(4 * count, 16) for count in counts)


def _padded_step(width: int) -> int:
    """The same as ``padded_step`` in csrc/warp_tile.cuh."""
    return int(32 * _ceil(width + 24, 32) - 24)


def _ceil(count: Size, size: int) -> Size:
    return (count + (size - 1)) // size
