"""Masks as polygons and back, without loss: a polygon holds exactly the pixels whose centres are inside it.

Coordinates are x and y in pixels; the outer corner of the first pixel is at 0, 0 and its centre at 0.5, 0.5, as in COCO
and LabelMe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.floating]  # (n, 2) of x and y


@dataclass(frozen=True, eq=False)
class Outline:
    """The borders of one connected part (four neighbours), along the edges of its pixels.

    Attributes:
        outer: corners (n, 2) of the border to the outside.
        holes: corners of the border to each hole.
        area: pixels of the part.
    """

    outer: NDArray[np.int64]
    holes: tuple[NDArray[np.int64], ...]
    area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height."""
        (left, top), (right, bottom) = self.outer.min(axis=0).tolist(), self.outer.max(axis=0).tolist()
        return left, top, right - left, bottom - top

    def joined(self) -> NDArray[np.int64]:
        """Outer border and holes as one polygon (m, 2), for formats whose polygons have no holes.

        A cut without width leads from each hole to the left, to the nearest border. It is passed in both directions, so
        that no pixel changes sides.
        """
        if not self.holes:
            return self.outer
        # From left to right, each from its leftmost corner: a cut then leads to a border that comes earlier.
        borders = [self.outer, *(np.roll(each, -_leftmost(each), axis=0) for each in self.holes)]
        borders[1:] = sorted(borders[1:], key=lambda corners: tuple(corners[0].tolist()))
        starts = np.array([each[0] for each in borders[1:]])
        # For each edge of a border: the cuts that end on it, from the beginning of the edge.
        ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for hole, (border, edge) in enumerate(_to_the_left(borders, starts), 1):
            ends.setdefault((border, edge), []).append((int(borders[hole][0, 1]), hole))
        polygons: dict[int, list[list[int]]] = {}
        for border in reversed(range(len(borders))):
            corners = borders[border].tolist()
            polygon = polygons[border] = []
            for edge, (here, following) in enumerate(zip(corners, [*corners[1:], corners[0]], strict=True)):
                polygon.append(here)
                for y, hole in sorted(ends.get((border, edge), ()), reverse=following[1] < here[1]):
                    inner = polygons.pop(hole)
                    polygon += [[here[0], y], *inner, inner[0], [here[0], y]]
        return np.array(polygons[0])


def _to_the_left(borders: Sequence[NDArray[np.int64]], starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """For each of some corners, the border and the number of its edge that is met first on the way to the left."""
    corners = np.concatenate(borders)
    following = np.concatenate([np.roll(each, -1, axis=0) for each in borders])
    vertical = np.flatnonzero(corners[:, 0] == following[:, 0])
    left, top = corners.min(axis=0)
    low = np.minimum(corners[vertical, 1], following[vertical, 1]) - top
    lengths = np.abs(corners[vertical, 1] - following[vertical, 1])
    width, height = corners.max(axis=0) - (left, top) + 1
    # Which edge passes on the left of each pixel; 0 for none.
    passing = np.zeros((height, width), np.int32)
    rows = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - low, lengths)
    passing[rows, np.repeat(corners[vertical, 0] - left, lengths)] = np.repeat(vertical + 1, lengths)
    columns = np.maximum.accumulate(np.where(passing > 0, np.arange(width), 0), axis=1)
    x, y = (starts - (left, top)).T
    met = passing[y, columns[y, x - 1]] - 1
    firsts = np.cumsum([0, *(len(each) for each in borders)])
    owners = np.searchsorted(firsts, met, side="right") - 1
    return list(zip(owners.tolist(), (met - firsts[owners]).tolist(), strict=True))


def outlines(mask: NDArray[np.bool_]) -> list[Outline]:
    """The outlines of all connected parts (four neighbours) of a mask (H, W), in the order of their first pixels.

    Outer borders run clockwise on the screen, borders of holes the other way. Parts that only touch at a corner are
    separate.
    """
    import cc3d

    parts: NDArray[np.unsignedinteger] = cc3d.connected_components(np.ascontiguousarray(mask, bool), connectivity=4)
    sizes = np.bincount(parts.ravel())
    corners = _corners(parts)
    outer: dict[int, NDArray[np.int64]] = {}
    holes: dict[int, list[NDArray[np.int64]]] = {}
    for loop in _loops(corners):
        border, part = corners.places[loop], int(corners.parts[loop[0]])
        x, y = border.T
        if np.dot(x, np.roll(y, -1)) > np.dot(y, np.roll(x, -1)):
            outer[part] = border
        else:
            holes.setdefault(part, []).append(border)
    return [Outline(outer[each], tuple(holes.get(each, ())), int(sizes[each])) for each in sorted(outer)]


def fill(polygons: Iterable[Polygon], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of all pixels whose centre is inside one of the polygons; what is outside the mask is cut off.

    A point is inside a polygon that crosses itself if a ray from it meets its border an odd number of times. A border
    on the left or above belongs to the polygon, one on the right or below does not.
    """
    mask = np.zeros(shape, bool)
    for polygon in polygons:
        corners = np.asarray(polygon, np.float64)
        top, bottom = (int(np.clip(each, 0, shape[0])) for each in _span(corners[:, 1]))
        left, right = (int(np.clip(each, 0, shape[1])) for each in _span(corners[:, 0]))
        if top < bottom and left < right:
            mask[top:bottom, left:right] |= _even_odd(corners - (left, top), (bottom - top, right - left))
    return mask


def _span(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(np.floor(values.min())), float(np.ceil(values.max()))


def _even_odd(corners: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = shape
    (x1, y1), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    # Rows whose centres an edge crosses, its lower end excluded.
    first, end = (
        np.clip(np.ceil(each - 0.5), 0, height).astype(np.int64) for each in (np.minimum(y1, y2), np.maximum(y1, y2))
    )
    counts = end - first
    edges = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    # From the upper end to the lower one, so that an edge that is passed in both directions gives the same numbers.
    down = y1 <= y2
    upper_x, upper_y = np.where(down, x1, x2)[edges], np.where(down, y1, y2)[edges]
    lower_x, lower_y = np.where(down, x2, x1)[edges], np.where(down, y2, y1)[edges]
    x = upper_x + (rows + 0.5 - upper_y) / (lower_y - upper_y) * (lower_x - upper_x)
    columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    crossings = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).reshape(height, width + 1)
    return (np.cumsum(crossings[:, :-1], axis=1) & 1).astype(bool)


def _leftmost(corners: NDArray[np.int64]) -> int:
    """Which corner is the leftmost, and of these the upper one."""
    return int(np.lexsort((corners[:, 1], corners[:, 0]))[0])


@dataclass(frozen=True, eq=False)
class _Corners:
    """The places where borders turn. Where parts touch at a corner there are two in one place.

    Attributes:
        places: (n, 2) of x and y.
        parts: the part that each belongs to.
        sideways: whether the horizontal edge leads to the right (1) or to the left (-1).
        downwards: whether the vertical edge leads down (1) or up (-1).
        leaves_sideways: whether the border, with the part on its right, comes by the vertical edge and goes by the
            other.
    """

    places: NDArray[np.int64]
    parts: NDArray[np.integer]
    sideways: NDArray[np.int64]
    downwards: NDArray[np.int64]
    leaves_sideways: NDArray[np.bool_]


def _corners(parts: NDArray[np.integer]) -> _Corners:
    padded = np.pad(parts, 1)
    # The four pixels around each corner of the grid, by their place: -1 is above and to the left.
    around = {
        (-1, -1): padded[:-1, :-1],
        (-1, 1): padded[:-1, 1:],
        (1, -1): padded[1:, :-1],
        (1, 1): padded[1:, 1:],
    }
    # A border turns where both rows or both columns differ. These are few, and only they are looked at below.
    inside = padded > 0
    sideways, downwards = inside[:, 1:] != inside[:, :-1], inside[1:] != inside[:-1]
    turning = (sideways[1:] | sideways[:-1]) & (downwards[:, 1:] | downwards[:, :-1])
    rows, columns = np.divmod(np.flatnonzero(turning), turning.shape[1])
    places = np.stack([columns, rows], axis=1)
    around = {place: pixels[rows, columns] for place, pixels in around.items()}
    found: list[tuple[NDArray[np.int64], NDArray[np.integer], int, int, bool]] = []
    for (down, side), pixel in around.items():
        beside, opposite, above = around[down, -side], around[-down, -side], around[-down, side]
        convex = (pixel > 0) & (beside == 0) & (above == 0)
        concave = (pixel == 0) & (beside > 0) & (above > 0) & (opposite > 0)
        for turns, owner in ((convex, pixel), (concave, opposite)):
            leaves_sideways = (down == side) == (turns is convex)
            found.append((places[turns], owner[turns], side, down, leaves_sideways))
    counts = [len(each[0]) for each in found]
    return _Corners(
        np.concatenate([each[0] for each in found]),
        np.concatenate([each[1] for each in found]),
        *(np.repeat(np.array([each[index] for each in found]), counts) for index in (2, 3, 4)),
    )


def _loops(corners: _Corners) -> list[list[int]]:
    """The closed borders, each the numbers of its corners in order."""
    x, y = corners.places.T
    partners = [np.empty(len(x), np.int64) for _ in range(2)]
    # On a line of the grid, edges begin and end by turns.
    for partner, order in zip(
        partners, (np.lexsort((corners.sideways, x, y)), np.lexsort((corners.downwards, y, x))), strict=True
    ):
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    following: Sequence[int] = np.where(corners.leaves_sideways, partners[0], partners[1]).tolist()
    seen = [False] * len(following)
    loops = []
    for start in np.lexsort((x, y)).tolist():
        loop, current = [], start
        while not seen[current]:
            seen[current] = True
            loop.append(current)
            current = following[current]
        if loop:
            loops.append(loop)
    return loops
