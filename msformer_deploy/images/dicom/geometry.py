"""Slices in order: by their positions along the normal, never by file names or instance numbers (PS3.3, C.7.6.2.1.1).

Tolerances:

- Directions are equal if no component differs by more than 0.001: half a millimetre over 500 mm, less than a pixel.
- Slices are at one position if they are closer than 1 % of the distance between slices.
- A distance may differ from the median by 20 %: some writers round positions to 0.1 mm, which is 20 % of 0.5 mm. A
  missing slice differs by 100 %, and 3 mm beside 5 mm by 40 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from ..space import Spacing
from .opened import listed

_DIRECTION, _SAME, _UNEVEN = 1e-3, 0.01, 0.2
_UNIT = 1e-2  # of directions that are written with few digits
_ASIDE = "move them to another folder"
_APART = "export each stack of the object as a series or an object of its own"


@dataclass(frozen=True)
class SlicePlace:
    """Where a slice is.

    Attributes:
        label: what messages call it.
        rows, columns: its size.
        position: of the centre of its first pixel, mm; empty if it is not known.
        orientation: directions of columns to the right and of rows downwards, six numbers; empty if they are not known.
        spacing: of its pixels; None if it is not known.
        patient, study, frame_of_reference: what identifies them; empty if the header does not say it. Never shown.
    """

    label: str
    rows: int
    columns: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: Spacing | None
    patient: str
    study: str
    frame_of_reference: str


@dataclass(frozen=True)
class Stack:
    """Slices in order.

    Attributes:
        order: for each slice of the volume its number among the places.
        affine: (4, 4), from (column, row, slice) to mm.
        spacing: of pixels; None if it is not known.
        thickness: distance between slices along their normal; None if it is not known.
        placed: whether the affine is known.
        in_space: whether slices lie beside each other: not so for frames of one place, which are several times, and for
            those whose places are not known.
    """

    order: list[int]
    affine: NDArray[np.float64]
    spacing: Spacing | None
    thickness: float | None
    placed: bool
    in_space: bool


def stack(places: Sequence[SlicePlace], name: str, one_object: bool) -> Stack:
    """Put slices in order.

    Args:
        places: of the slices.
        name: of the volume in messages.
        one_object: whether they are frames of one object, which may have no positions, or one for all: then they stay
            in their order.

    Raises:
        ImageError: patients, studies, frames of reference, sizes, directions or spacings differ, slices are at one
            position or missing, or positions are.
    """

    def check_equal(values: Sequence[object], what: str) -> None:
        _check_equal(name, places, values, what, _APART if one_object else _ASIDE)

    check_equal(_stated([each.patient for each in places]), "patient ID")
    check_equal(_stated([each.study for each in places]), "study")
    check_equal(_stated([each.frame_of_reference for each in places]), "frame of reference")
    check_equal([(each.columns, each.rows) for each in places], "size")
    without = [each.label for each in places if len(each.position) != 3 or len(each.orientation) != 6]
    if one_object and len(without) == len(places):
        return _unplaced(places)
    if without:
        raise ImageError(
            f"{name}: {_count(len(without), len(places))} no position or no orientation in the patient:"
            f" {listed(without)}; {'export the object again' if one_object else _ASIDE}"
        )
    directions = np.array([each.orientation for each in places]).reshape(-1, 2, 3)
    lengths, skew = np.linalg.norm(directions, axis=2), (directions[:, 0] * directions[:, 1]).sum(axis=1)
    wrong = (np.abs(lengths - 1) > _UNIT).any(axis=1) | (np.abs(skew) > _UNIT)
    if wrong.any():
        raise ImageError(
            f"{name}: {_count(int(wrong.sum()), len(places))} an orientation that is not two perpendicular directions:"
            f" {listed([each.label for each, bad in zip(places, wrong, strict=True) if bad])}; export them again"
        )
    rounded = _clusters(directions.reshape(-1, 6))
    check_equal(rounded, "orientation")
    spacings = [None if each.spacing is None else (each.spacing.row, each.spacing.column) for each in places]
    missing = [each.label for each, spacing in zip(places, spacings, strict=True) if spacing is None]
    if missing:
        raise ImageError(
            f"{name}: {_count(len(missing), len(places))} no valid pixel spacing, so slices cannot be placed:"
            f" {listed(missing)}; export them again"
        )
    check_equal(_clusters(np.array(spacings)), "pixel spacing")
    right, down = directions[0]
    normal = np.cross(right, down)
    normal /= np.linalg.norm(normal)
    positions = np.array([each.position for each in places])
    heights = positions @ normal
    if one_object and len(places) > 1 and np.ptp(heights) == 0:  # one slice at several times
        return replace(_made(list(range(len(places))), places, right, down, normal, positions, None), in_space=False)
    order = np.argsort(heights, kind="stable")
    step = None
    if len(places) > 1:
        labels = [places[index].label for index in order]
        step = _check_gaps(name, labels, np.diff(heights[order]), one_object=one_object)
    thickness = step
    along = normal if step is None else (positions[order[-1]] - positions[order[0]]) / (len(places) - 1)
    straight = positions[order[0]] + np.arange(len(places))[:, None] * along
    beside = np.linalg.norm(positions[order] - straight, axis=1)
    spacing = places[0].spacing
    assert spacing is not None  # as checked
    if step is not None and beside.max() > _UNEVEN * max(step, spacing.row, spacing.column):
        off = [places[order[index]].label for index in np.flatnonzero(beside > beside.max() / 2)]
        todo = _APART if one_object else _ASIDE
        raise ImageError(f"{name}: slices are not in one line: {listed(off)}; {todo}")
    return _made(order.tolist(), places, right, down, along, positions, thickness)


def _made(
    order: list[int],
    places: Sequence[SlicePlace],
    right: NDArray[np.float64],
    down: NDArray[np.float64],
    along: NDArray[np.float64],
    positions: NDArray[np.float64],
    thickness: float | None,
) -> Stack:
    spacing = places[order[0]].spacing
    assert spacing is not None  # as checked
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = right * spacing.column, down * spacing.row
    affine[:3, 2], affine[:3, 3] = along, positions[order[0]]
    return Stack(order, affine, spacing, thickness, placed=True, in_space=True)


def _unplaced(places: Sequence[SlicePlace]) -> Stack:
    spacings = {each.spacing for each in places}
    spacing = places[0].spacing if len(spacings) == 1 else None
    affine = np.eye(4)
    if spacing is not None:
        affine[0, 0], affine[1, 1] = spacing.column, spacing.row
    return Stack(list(range(len(places))), affine, spacing, None, placed=False, in_space=len(places) == 1)


def _check_gaps(name: str, labels: list[str], distances: NDArray[np.float64], *, one_object: bool) -> float:
    """Return the distance between slices; refuse slices at one position, and gaps."""
    apart = distances[distances > _SAME * distances.max()]
    usual = float(np.median(apart)) if apart.size else 0.0
    same = [index for index, distance in enumerate(distances) if distance <= _SAME * usual]
    if same:
        doubles = list(dict.fromkeys(label for index in same for label in labels[index : index + 2]))
        what = f"{name}: {len(doubles)} slices are where another one is: {listed(doubles)}"
        if one_object:
            raise ImageError(
                f"{what}; the object holds several volumes (4-D), such as times or echoes; export one of them as a"
                " series or an object of its own"
            )
        raise ImageError(
            f"{what}; keep one of each position; if the series holds several volumes (4-D), such as times or echoes,"
            " segment each of them from a folder of its own"
        )
    uneven = [index for index, distance in enumerate(distances) if abs(distance - usual) > _UNEVEN * usual]
    if uneven:
        index = uneven[0]
        more = f", and at {len(uneven) - 1} more places" if len(uneven) > 1 else ""
        todo = "export the object again with all its slices"
        if not one_object:
            todo = "add the missing slices, or move those that do not belong to it"
        raise ImageError(
            f"{name}: slices are not evenly spaced: {distances[index]:.4g} mm between {labels[index]} and"
            f" {labels[index + 1]}{more}, where {usual:.4g} mm is usual; {todo}"
        )
    return float(distances.mean())


def _check_equal(name: str, places: Sequence[SlicePlace], values: Sequence[object], what: str, todo: str) -> None:
    """Refuse slices that differ from most others; no value is shown."""
    counts = Counter(values)
    if len(counts) == 1:
        return
    usual = counts.most_common(1)[0][0]
    others = [each.label for each, value in zip(places, values, strict=True) if value != usual]
    raise ImageError(
        f"{name}: {_count(len(others), len(places))} another {what} than the others: {listed(others)}; {todo}"
    )


def _stated(values: Sequence[str]) -> Sequence[str]:
    """Values in which those that are empty agree with the usual one: what is not said is no contradiction."""
    usual = Counter(filter(None, values)).most_common(1)
    return [each or usual[0][0] for each in values] if usual else values


def _clusters(values: NDArray[np.float64]) -> list[int]:
    """For each row of values the number of the first row that equals it within the tolerance."""
    found: list[int] = []
    kept: list[int] = []
    for index, row in enumerate(values):
        same = next((each for each in kept if np.abs(values[each] - row).max() <= _DIRECTION), None)
        if same is None:
            kept.append(index)
        found.append(index if same is None else same)
    return found


def _count(some: int, everything: int) -> str:
    """The subject of a sentence, with its verb."""
    return f"{some} of {everything} slices {'has' if some == 1 else 'have'}"
