"""How each kernel is launched: grid, block, shared memory and integers, from the sizes alone.

The host code of torch (``cuda.py``) and TensorRT's plugins (``plugin.py``) launch by the same rules. Sizes are
integers, or TensorRT's expressions where it builds an engine; those know ``+``, ``*``, ``//`` and ``==`` only, with the
expression on the left. Clusters and width are always integers: they choose the kernel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .errors import KernelsUnavailable

Size = Any

MOST_CLUSTERS = 4096  # of cluster_argmax: a block counts them in shared memory
MOST_LEARNT_CLUSTERS = 256  # of head_gradient: a warp keeps a pixel's probabilities in registers
MOST_WIDTH = 256  # of the attention: a warp keeps a query in registers


class Launch(NamedTuple):
    """One launch. Its arguments are the inputs, the integers and the outputs, in this order."""

    source: str
    kernel: str
    grid: tuple[Size, Size, Size]
    block: int
    shared_bytes: int
    integers: tuple[Size, ...]


def argmax(
    kind: str, batch: Size, channels: Size, pixels: Size, clusters: int, shared_head: Size, label_bytes: int
) -> Launch:
    within("cluster_argmax", "clusters", clusters, MOST_CLUSTERS)
    n_tiles = _fit((4, 8, 13, 16), clusters)
    return Launch(
        "cluster_argmax",
        f"cluster_argmax_{kind}_n{n_tiles}",
        (argmax_tiles(pixels) * batch, 1, 1),
        128,
        _shared_bytes(16 * 136, 8 * n_tiles * 20, clusters),
        (channels, pixels, clusters, shared_head, label_bytes),
    )


def argmax_tiles(pixels: Size) -> Size:
    """Tiles of pixels of one image, each with its own counts."""
    return _ceil(pixels, 128)


def context(
    kind: str, batch: Size, width: int, fine_positions: Size, coarse_positions: Size, fine_parts: int, coarse_parts: int
) -> Launch:
    within("cross_scale_attention", "channels", width, MOST_WIDTH)
    n_tiles = _fit((4, 13, 17), width + 1)
    return Launch(
        "cross_scale_attention",
        f"attention_context_{kind}_n{n_tiles}",
        (fine_parts + coarse_parts, context_tiles(width), batch),
        256,
        _shared_bytes(128 * 36, 32 * _padded_step(8 * n_tiles), 128, 128),
        (width, fine_positions, coarse_positions, fine_parts, coarse_parts),
    )


def context_tiles(width: int) -> int:
    """Blocks that one context is divided over."""
    return int(_ceil(width, 128) * _ceil(width, 8 * _fit((4, 13, 17), width + 1) - 1))


def merge(kind: str, batch: Size, width: int, fine_parts: int, coarse_parts: int) -> Launch:
    return Launch(
        "cross_scale_attention",
        f"attention_merge_{kind}",
        (width, batch, 1),
        128,
        _shared_bytes(fine_parts + coarse_parts, 4),
        (width, fine_parts, coarse_parts),
    )


def apply(kind: str, batch: Size, width: int, fine_positions: Size, coarse_positions: Size) -> Launch:
    within("cross_scale_attention", "channels", width, MOST_WIDTH)
    n_tiles = _fit((4, 13, 16), width)
    warps = 4 if n_tiles < 16 else 2
    fine_tiles, coarse_tiles = _ceil(fine_positions, 16 * warps), _ceil(coarse_positions, 16 * warps)
    words = 16 * _ceil(_ceil(width, 1 if kind == "f32" else 2), 16)
    return Launch(
        "cross_scale_attention",
        f"attention_apply_{kind}_n{n_tiles}",
        (fine_tiles + coarse_tiles, _ceil(width, 8 * n_tiles), batch),
        32 * warps,
        _shared_bytes(16 * warps * (words + 4), 16 * _padded_step(8 * n_tiles)),
        (width, fine_positions, coarse_positions, fine_tiles, coarse_tiles),
    )


def gather(kind: str, rows: int, pixels: int, offset: int, stride: int, phases: int) -> Launch:
    return Launch(
        "head_refine_step",
        f"sample_phases_{kind}",
        (_ceil(pixels - offset, 256), min(rows, 65535), 1),
        256,
        0,
        (rows, pixels, offset, stride, phases),
    )


def gradient(batch: int, channels: int, pixels: int, clusters: int) -> Launch:
    within("head_refine_step", "clusters", clusters, MOST_LEARNT_CLUSTERS)
    n_tiles = _fit((4, 8, 13, 16, 32), clusters)
    tile, words = (64, 16) if n_tiles < 32 else (32, 8)
    scores = words * (tile + 8) + 8 * n_tiles * (words + 4)
    products = (32 * _ceil(clusters, 32) + 64) * (tile + 4)
    return Launch(
        "head_refine_step",
        f"head_gradient_n{n_tiles}",
        (gradient_tiles(pixels, clusters), batch, 1),
        2 * tile,
        _shared_bytes(max(scores, products), tile, clusters),
        (channels, pixels, clusters),
    )


def gradient_tiles(pixels: int, clusters: int) -> int:
    """Tiles of pixels of one image, each with its own sums; many clusters leave room for two warps' pixels only."""
    return int(_ceil(pixels, 64 if clusters <= 128 else 32))


def update(kernel: str, batch: int, channels: int, pixels: int, clusters: int, *settings: int) -> Launch:
    return Launch(
        "head_refine_step",
        kernel,
        (_ceil(clusters * channels, 256), batch, 1),
        256,
        0,
        (gradient_tiles(pixels, clusters), pixels, clusters, channels, *settings),
    )


def most_shared_bytes() -> dict[str, int]:
    """Dynamic shared memory of every kernel at the sizes where it takes most; of attention_merge for 512 parts."""
    launches = [merge(kind, 1, MOST_WIDTH, 256, 256) for kind in ("f32", "f16", "bf16")]
    for kind in ("f32", "f16", "bf16"):
        launches += [argmax(kind, 1, 1, 1, clusters, 0, 1) for clusters in range(1, MOST_CLUSTERS + 1)]
        launches += [context(kind, 1, width, 1, 1, 1, 1) for width in range(1, MOST_WIDTH + 1)]
        launches += [apply(kind, 1, width, 1, 1) for width in range(1, MOST_WIDTH + 1)]
    launches += [gradient(1, 1, 1, clusters) for clusters in range(1, MOST_LEARNT_CLUSTERS + 1)]
    most: dict[str, int] = {}
    for each in launches:
        most[each.kernel] = max(most.get(each.kernel, 0), each.shared_bytes)
    return most


def within(kernel: str, what: str, count: int, most: int) -> None:
    """Check a size.

    Raises:
        KernelsUnavailable: the kernel does not take it.
    """
    if count > most:
        raise KernelsUnavailable(f"the CUDA kernel {kernel} takes up to {most} {what}, got {count}")


def _fit(choices: tuple[int, ...], columns: int) -> int:
    """The fewest tiles of 8 columns that cover ``columns``, or the most there are: then several passes or blocks do."""
    return next((tiles for tiles in choices if 8 * tiles >= columns), choices[-1])


def _shared_bytes(*counts: int) -> int:
    """Dynamic shared memory of arrays of so many 4-byte elements, as ``SharedMemory`` in csrc hands them out."""
    return sum(16 * _ceil(4 * count, 16) for count in counts)


def _padded_step(width: int) -> int:
    """As in csrc/warp_tile.cuh."""
    return int(32 * _ceil(width + 24, 32) - 24)


def _ceil(count: Size, size: int) -> Size:
    return (count + (size - 1)) // size
