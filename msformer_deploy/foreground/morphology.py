"""Connected parts, rims and holes of regions, and the field of view of a scope."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FRAME_BRIGHTNESS = 0.3  # a scope's frame is darker than this, on 0..1
MAX_FRAME_AREA = 0.5  # of the image; more than that is no frame
RIM_WIDTH = 2  # pixels


def numbered(regions: NDArray[np.bool_] | NDArray[np.integer]) -> NDArray[np.intp]:
    """The connected parts of equal, non-zero value, counted from 1; 0 where the value is 0.

    Pixels have four neighbours, and voxels of a volume six. Numbers are in the order of the first pixels, row by row.
    """
    import cc3d

    # cc3d goes through the pixels as they lie in memory, and bincount does not take all of its types.
    parts: NDArray[np.unsignedinteger] = cc3d.connected_components(
        np.ascontiguousarray(regions), connectivity=6 if regions.ndim == 3 else 4
    )
    return parts.astype(np.intp)


def field_of_view(brightness: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Everything but the black frame that touches the image border; all of it when the frame would be most of it."""
    dark = numbered(brightness < FRAME_BRIGHTNESS)
    at_border = np.zeros(dark.max() + 1, bool)
    at_border[dark[rim_of(np.ones(brightness.shape, bool))]] = True
    at_border[0] = False
    frame = at_border[dark]
    return ~frame if frame.mean() < MAX_FRAME_AREA else np.ones(brightness.shape, bool)


def best_part(classes: NDArray[np.integer], weight: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The connected part of equal, non-zero class with the largest sum of ``weight``, its holes filled."""
    parts = numbered(classes)
    mass = np.bincount(parts.ravel(), weights=weight.ravel())
    mass[0] = 0
    if mass.size == 1:
        return np.zeros(classes.shape, bool)
    return filled(parts == mass.argmax())


def parts_of(region: NDArray[np.bool_], minimum: float = 0) -> Iterator[NDArray[np.bool_]]:
    """The connected parts (four neighbours) of a region that are at least so large, as a share of the image."""
    parts = numbered(region)
    sizes = np.bincount(parts.ravel())
    for number in range(1, sizes.size):
        if sizes[number] >= minimum * region.size:
            yield parts == number


def filled(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A region with its holes: all that the image border cannot reach without crossing it."""
    around = numbered(np.pad(~region, 1, constant_values=True))
    return (around != around[0, 0])[1:-1, 1:-1]


def closed(region: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """A region with its holes and with what is a hole but for leaks, up to twice as wide as there are steps."""
    wide = np.pad(region, steps)
    return shrunk(filled(grown(wide, steps)), steps)[steps:-steps, steps:-steps]


def opened(region: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """A region without what is narrower than twice as many pixels as there are steps; empty where all of it is."""
    return grown(shrunk(region, steps), steps)


def rim_of(field: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost pixels of a field of view."""
    return field & ~shrunk(field, RIM_WIDTH)


def shrunk(region: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """What is left when all pixels with a neighbour (of four) outside the region or the image go, ``steps`` times."""
    return _stepped(region, steps, np.logical_and)


def grown(region: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The region with all neighbours (of four) of its pixels, ``steps`` times."""
    return _stepped(region, steps, np.logical_or)


def _stepped(region: NDArray[np.bool_], steps: int, join: np.ufunc) -> NDArray[np.bool_]:
    """Every pixel joined with its four neighbours, none of which is outside the image, ``steps`` times.

    Rows lie one after the other with a margin between them, so that each step is a few passes over the whole of it.
    """
    height, width = (size + 2 for size in region.shape)
    wide, other = np.zeros((2, height, width), bool)
    wide[1:-1, 1:-1] = region
    for _ in range(steps):
        before, after = wide.ravel(), other.ravel()[width:-width]
        join(before[width:-width], before[: -2 * width], out=after)
        for neighbours in (before[2 * width :], before[width - 1 : -width - 1], before[width + 1 : 1 - width]):
            join(after, neighbours, out=after)
        other[:, [0, -1]] = False
        wide, other = other, wide
    return wide[1:-1, 1:-1]


def centrality(shape: tuple[int, ...]) -> NDArray[np.floating]:
    """A Gaussian bump over the image, standard deviation a quarter of its side."""
    rows, columns = (np.exp(-8 * np.linspace(-0.5, 0.5, size) ** 2) for size in shape)
    return rows[:, None] * columns
