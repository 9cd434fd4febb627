"""Sizes of objects: area, perimeter, diameters and volume, in millimetres where the spacing of the pixels is known.

An object is a connected part of a mask: of four neighbours in an image, of six in a volume. Its outline crosses the
middle between each pixel inside and its neighbour outside, so it contains the pixels and not only their centres: one
pixel has a diameter of one pixel.

- **Area** is the number of pixels times the area of a pixel; **volume** likewise. Both are exact.
- **Perimeter** is Crofton's formula with lines in four directions through the pixels: along rows, along columns and
  along both diagonals, each weighted by its share of all angles (Legland, Kiêu and Devaux, "Computation of Minkowski
  measures on 2D and 3D binary images", Image Analysis & Stereology 26, 2007). With unequal spacings the diagonals have
  other angles and their lines other distances, and both enter the weights. Outlines of holes count. The estimate has no
  bias for an outline that runs in all directions equally, such as a circle's. A straight side is wrong by -5.2 % (along
  rows or columns) to +2.6 % at most where pixels are square.
- **Longest diameter** is the largest distance between two points of the outline. **Perpendicular diameter** is the
  longest line across the object at right angles to it, from the first to the last point of the outline on this line.
  They are the long and the short axis of RECIST 1.1 (Eisenhauer et al., European Journal of Cancer 45, 2009). The
  outline points are those from which PyRadiomics and IBSI (Zwanenburg et al., Radiology 295, 2020) take maximum
  diameters. Neither line has to lie inside the object. A maximum over many points, each of them right to half a pixel,
  is more often too long than too short: by about half a pixel, and seldom by more than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..images.outlines import outlines
from ..images.space import Spacing

MIN_PIXELS = 10  # objects of fewer pixels or voxels are specks: neither their outline nor their diameters mean much
LINES_PER_PIXEL = 4  # among which the longest across an object is looked for
MAX_TIES = 4  # equally long longest diameters that are tried: the one with the longest line across it counts
ROUNDS = 4  # in which all points are tested at once, before the hull is sought one by one
MAX_OBJECTS = 100  # in one image or volume; the largest are listed, for a noisy mask has thousands

Unit = Literal["mm", "px"]


@dataclass(frozen=True)
class Measure:
    """Sizes of one object, or of all objects together. Those that are not defined are None.

    Attributes:
        area: of an image, or of the object's largest cross-section in a volume.
        perimeter: of the same.
        longest_diameter, perpendicular_diameter: of the same. Of all objects together, those of the object with the
            longest diameter.
        touches_border: whether the object reaches the first or last row, column or slice, so that it may be cut off.
        volume: of an object of a volume.
        slice: the slice with the largest cross-section, from 1.
        slices: number of slices that hold a part of the object.
    """

    area: float | None
    perimeter: float | None
    longest_diameter: float | None
    perpendicular_diameter: float | None
    touches_border: bool
    volume: float | None = None
    slice: int | None = None
    slices: int | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured in an image or a volume.

    Attributes:
        whole: all objects together, the specks too.
        objects: the :data:`MAX_OBJECTS` largest of at least :data:`MIN_PIXELS` pixels or voxels, the largest first.
        count: number of all objects, the specks too.
        spacing: of the pixels; None if lengths are in pixels.
        thickness: distance of the slices of a volume in millimetres; None if it is not known, and for an image.
    """

    whole: Measure
    objects: tuple[Measure, ...]
    count: int
    spacing: Spacing | None
    thickness: float | None = None

    @property
    def unit(self) -> Unit:
        """Unit of lengths: areas are in its square, volumes in its cube (1000 mm³ are one millilitre)."""
        return "px" if self.spacing is None else "mm"


def measure(mask: NDArray[np.bool_], spacing: Spacing | None = None) -> Measured:
    """Measure the objects of an image.

    Args:
        mask: bool (H, W).
        spacing: of the pixels; without it all sizes are in pixels.
    """
    steps = _steps(spacing)
    plane = _Plane(mask)
    areas, perimeters = plane.sizes * (steps[0] * steps[1]), plane.perimeters(*steps)
    objects = [
        Measure(
            float(areas[number]),
            float(perimeters[number]),
            *_diameters(plane.part(number), *steps),
            bool(plane.at_border[number]),
        )
        for number in _listed(plane.sizes)
    ]
    whole = Measure(
        float(areas[1:].sum()), float(perimeters[1:].sum()), *_longest(objects), bool(plane.at_border[1:].any())
    )
    return Measured(whole, tuple(objects), plane.sizes.size - 1, spacing)


def measure_volume(
    mask: NDArray[np.bool_],
    spacing: Spacing | None = None,
    thickness: float | None = None,
    *,
    in_space: bool = True,
) -> Measured:
    """Measure the objects of a volume, slice by slice: memory is that of the parts in one slice.

    Area, perimeter and diameters of an object are those of its largest cross-section, which is a connected part of a
    slice.

    Args:
        mask: bool (N, H, W).
        spacing: of the pixels in a slice; without it all sizes are in pixels and voxels.
        thickness: distance between slices in millimetres. If the spacing is known and this is not, no volume is given.
        in_space: whether slices lie beside each other. Frames in time have no volume, in whatever unit.
    """
    row, column = _steps(spacing)
    depth = (1.0 if spacing is None else thickness) if in_space else None
    parts = _parts_of(mask)
    volumes = np.bincount(parts.objects, weights=parts.sizes, minlength=1).astype(np.int64)
    largest = np.zeros(volumes.size, np.intp)  # of each object, its largest part
    order = np.argsort(parts.sizes, kind="stable")
    order = order[np.lexsort((-parts.slices[order], parts.sizes[order]))]  # of equal ones, the first slice is last here
    largest[parts.objects[order]] = order
    at_border = np.bincount(parts.objects, weights=parts.at_border, minlength=1) > 0
    extents = np.bincount(np.unique(np.stack([parts.objects, parts.slices]), axis=1)[0], minlength=1)
    listed = _listed(volumes)
    found: dict[int, Measure] = {}
    planes = {int(parts.slices[largest[each]]) for each in listed}
    for index in sorted(planes):
        plane = _Plane(mask[index])
        perimeters = plane.perimeters(row, column)
        for each in listed:
            part = largest[each]
            if parts.slices[part] == index:
                number = int(parts.numbers[part])
                found[each] = Measure(
                    float(plane.sizes[number] * (row * column)),
                    float(perimeters[number]),
                    *_diameters(plane.part(number), row, column),
                    bool(at_border[each]),
                    None if depth is None else float(volumes[each] * (row * column * depth)),
                    index + 1,
                    int(extents[each]),
                )
    objects = tuple(found[each] for each in listed)
    whole = Measure(
        None,
        None,
        *_longest(objects),
        bool(at_border.any()),
        None if depth is None else float(volumes.sum() * (row * column * depth)),
        None,
        int(np.unique(parts.slices).size),
    )
    return Measured(whole, objects, volumes.size - 1, spacing, None if spacing is None else thickness)


class _Plane:
    """The connected parts (four neighbours) of a mask (H, W), numbered from 1.

    Attributes:
        parts: (H, W) their numbers, 0 outside.
        sizes: pixels of each, by number; 0 for number 0.
        at_border: whether each touches the border of the mask, by number.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        import cc3d

        self.parts: NDArray[np.unsignedinteger] = cc3d.connected_components(
            np.ascontiguousarray(mask, bool), connectivity=4
        )
        # With a margin, the end of a row and the start of the next are both 0: so a step to any neighbour is a number.
        padded = np.pad(self.parts, 1)
        self._flat, self._width = padded.ravel(), padded.shape[1]
        changes = np.flatnonzero(self._flat[:-1] != self._flat[1:])
        self._first = changes[self._flat[changes + 1] > 0] + 1  # pixels of all runs along rows
        self._last = changes[self._flat[changes] > 0]
        self._owners = self._flat[self._first]
        self.sizes = np.zeros(int(self.parts.max(initial=0)) + 1, np.int64)
        np.add.at(self.sizes, self._owners, self._last - self._first + 1)
        self.at_border = np.zeros(self.sizes.size, bool)
        for side in (self.parts[0], self.parts[-1], self.parts[:, 0], self.parts[:, -1]):
            self.at_border[side] = True
        self.at_border[0] = False

    @cached_property
    def _boxes(self) -> NDArray[np.int64]:
        """First row, first column, last row and last column of each part, by number."""
        (top, left), (bottom, right) = (np.divmod(each, self._width) for each in (self._first, self._last))
        found = np.tile([*self.parts.shape, 0, 0], (self.sizes.size, 1))
        for side, places, further in (
            (0, top, np.minimum),
            (1, left, np.minimum),
            (2, bottom, np.maximum),
            (3, right, np.maximum),
        ):
            further.at(found[:, side], self._owners, places - 1)
        return found

    def part(self, number: int) -> NDArray[np.bool_]:
        """One part in its bounding box."""
        top, left, bottom, right = self._boxes[number].tolist()
        found: NDArray[np.bool_] = self.parts[top : bottom + 1, left : right + 1] == number
        return found

    def perimeters(self, row: float, column: float) -> NDArray[np.float64]:
        """Crofton's estimate for each part, by number; of number 0 it means nothing."""
        flat, width = self._flat, self._width
        found = np.zeros(self.sizes.size)
        diagonal = math.hypot(row, column)
        angle = math.atan2(row, column)  # between rows and the diagonals
        # Distance of the lines of a direction, and its share of all angles: half way to the directions beside it.
        for step, distance, share in (
            (1, row, angle),
            (width, column, math.pi / 2 - angle),
            (width + 1, row * column / diagonal, math.pi / 4),
            (width - 1, row * column / diagonal, math.pi / 4),
        ):
            crossed = np.flatnonzero(flat[:-step] != flat[step:])
            crossings = sum(np.bincount(flat[each], minlength=found.size) for each in (crossed, crossed + step))
            found += crossings * (distance * share / 2)
        return found


@dataclass(frozen=True)
class _Parts:
    """Connected parts in all slices of a volume, each an element of these arrays.

    Attributes:
        objects: number of the object that a part belongs to, from 1.
        slices: index of its slice.
        numbers: its number in the slice, as in :class:`_Plane`.
        sizes: its pixels.
        at_border: whether it touches the border of the volume.
    """

    objects: NDArray[np.intp]
    slices: NDArray[np.intp]
    numbers: NDArray[np.intp]
    sizes: NDArray[np.intp]
    at_border: NDArray[np.bool_]


def _parts_of(mask: NDArray[np.bool_]) -> _Parts:
    """Find the parts in each slice, and join those that touch through neighbouring slices."""
    parents: list[int] = []

    def root(part: int) -> int:
        while parents[part] != part:
            parents[part] = parents[parents[part]]
            part = parents[part]
        return part

    columns: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]] = []
    slices: list[NDArray[np.intp]] = []
    before: _Plane | None = None
    for index, plane in _planes(mask):
        first, count = len(parents), plane.sizes.size - 1
        parents.extend(range(first, first + count))
        if before is not None and slices and slices[-1][0] == index - 1:
            touching = (plane.parts > 0) & (before.parts > 0)
            pairs = plane.parts[touching].astype(np.int64) * before.sizes.size + before.parts[touching]
            for pair in np.unique(pairs).tolist():
                here, there = divmod(pair, before.sizes.size)
                one, other = root(first + here - 1), root(first - before.sizes.size + there)
                parents[max(one, other)] = min(one, other)
        at_border = plane.at_border[1:] | (index in (0, len(mask) - 1))
        columns.append((np.arange(1, count + 1), plane.sizes[1:], at_border))
        slices.append(np.full(count, index))
        before = plane
    if not parents:
        none = np.zeros(0, np.intp)
        return _Parts(none, none, none, none, none.astype(bool))
    roots = np.array([root(part) for part in range(len(parents))])
    numbers, sizes, at_border = (np.concatenate(each) for each in zip(*columns, strict=True))
    return _Parts(np.unique(roots, return_inverse=True)[1] + 1, np.concatenate(slices), numbers, sizes, at_border)


def _planes(mask: NDArray[np.bool_]) -> Iterator[tuple[int, _Plane]]:
    for index, plane in enumerate(mask):
        if plane.any():
            yield index, _Plane(plane)


def _steps(spacing: Spacing | None) -> tuple[float, float]:
    return (1.0, 1.0) if spacing is None else (spacing.row, spacing.column)


def _listed(sizes: NDArray[np.integer]) -> list[int]:
    """Numbers of the objects to list, the largest first; of equal ones, the one with the smaller number."""
    order = np.argsort(-sizes, kind="stable")[:MAX_OBJECTS]
    return [int(each) for each in order if sizes[each] >= MIN_PIXELS]


def _longest(objects: list[Measure] | tuple[Measure, ...]) -> tuple[float | None, float | None]:
    diameters = [(each.longest_diameter, each.perpendicular_diameter) for each in objects]
    return max(diameters, key=lambda pair: pair[0] or 0, default=(None, None))


def _diameters(part: NDArray[np.bool_], row: float, column: float) -> tuple[float, float]:
    """Longest and perpendicular diameter of a part in its bounding box."""
    corners = _hull(_extremes(part)) * (column, row)  # a hull stays one, and halves of pixels are exact
    distances = np.hypot(*(corners[:, None] - corners).transpose(2, 0, 1))
    longest = distances.max()
    one, other = np.nonzero(np.triu(distances >= longest * (1 - 1e-9)))  # a square has two longest diameters
    border = _border(part) * (column, row)
    step = min(row, column) / LINES_PER_PIXEL
    across = [_across(border, direction, step) for direction in ((corners[other] - corners[one]) / longest)[:MAX_TIES]]
    return float(longest), max(across)


def _border(part: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The outline of a part, (n, 2) of x and y in pixels: the middles of the pixels' edges, in order."""
    (outline,) = outlines(part)
    corners, following = outline.outer, np.roll(outline.outer, -1, axis=0)
    lengths = np.abs(following - corners).sum(axis=1)
    edges = np.repeat(np.arange(lengths.size), lengths)
    places = np.arange(edges.size) - (np.cumsum(lengths) - lengths)[edges] + 0.5
    found: NDArray[np.float64] = corners[edges] + places[:, None] * np.sign(following - corners)[edges]
    return found


def _across(border: NDArray[np.float64], direction: NDArray[np.float64], step: float) -> float:
    """The longest line across a closed outline at right angles to a direction, of lines with such a distance."""
    along, beside = border @ direction, border @ (-direction[1], direction[0])
    along = (along - along.min()) / step
    along_next, beside_next = np.roll(along, -1), np.roll(beside, -1)
    first = np.ceil(np.minimum(along, along_next)).astype(np.int64)
    counts = np.floor(np.maximum(along, along_next)).astype(np.int64) - first + 1
    pieces = np.repeat(np.arange(counts.size), counts)
    lines = np.arange(pieces.size) - (np.cumsum(counts) - counts)[pieces] + first[pieces]
    lengths = (along_next - along)[pieces]
    shares = np.divide(lines - along[pieces], lengths, out=np.zeros(lines.size), where=lengths != 0)
    met = beside[pieces] + shares * (beside_next - beside)[pieces]
    ends = np.full((2, int(lines.max()) + 1), -np.inf)
    np.maximum.at(ends[0], lines, met)
    np.maximum.at(ends[1], lines, -met)
    return float(ends.sum(axis=0).max())


def _extremes(part: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The first and the last outline point of each row and of each column: (n, 2) of x and y, in pixels.

    The convex hull of the outline has no other corners. Every row and every column of the box holds a pixel, because
    the part is connected.
    """
    height, width = part.shape
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    left, right = part.argmax(axis=1), width - part[:, ::-1].argmax(axis=1)
    top, bottom = part.argmax(axis=0), height - part[::-1].argmax(axis=0)
    x = np.concatenate([left, right, columns, columns])
    y = np.concatenate([rows, rows, top, bottom])
    return np.stack([x, y], axis=1).astype(np.float64)


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners of the convex hull, (m, 2), by Andrew's monotone chain (1979)."""
    points = points[np.lexsort(points.T[::-1])]  # by x, then y
    first = np.flatnonzero(np.diff(points[:, 0], prepend=-np.inf))  # of those with the same x
    last = np.append(first[1:], len(points)) - 1
    # Of points with the same x, one side sees the first alone and the other the last; each ends where the other begins.
    sides = points[np.append(first, last[-1])], points[np.append(last[::-1], first[0])]
    return np.array([corner for side in sides for corner in _chain(side)[:-1]])


def _chain(points: NDArray[np.float64]) -> list[list[float]]:
    """Points of one side of a hull, in order, without those at which it does not turn left."""
    for _ in range(ROUNDS):
        (first_x, first_y), (last_x, last_y), (x, y) = points[:-2].T, points[1:-1].T, points[2:].T
        turns_left = (last_x - first_x) * (y - first_y) > (last_y - first_y) * (x - first_x)
        points = points[np.concatenate([[True], turns_left, [True]])]
    chain: list[list[float]] = []
    for x, y in points.tolist():
        while len(chain) > 1:
            (first_x, first_y), (last_x, last_y) = chain[-2], chain[-1]
            if (last_x - first_x) * (y - first_y) > (last_y - first_y) * (x - first_x):
                break
            chain.pop()
        chain.append([x, y])
    return chain
