"""Shapes of annotations as masks, and masks painted of many shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..outlines import fill

LARGEST = 65535  # class id
MAX_OUTSIDE = 1  # pixels by which a point may miss the image: tools let people draw on its edge

Mask = NDArray[np.bool_]
Size = tuple[int, int]  # rows and columns


class BadShape(ValueError):
    """A shape that cannot be painted; the message says why and what to do, without the file."""


@dataclass(frozen=True, eq=False)
class Painted:
    """A mask painted of shapes; where they overlap, the later one is seen.

    Attributes:
        values: (h, w) 0 for background, and another number for each kind of object.
        ids: (h, w) class ids; None if kinds have no ids.
        unnumbered: why there are no ids and what to do; empty if there are some.
    """

    values: NDArray[np.int64]
    ids: NDArray[np.int64] | None
    unnumbered: str = ""


def agreed(said: tuple[int | None, int | None], size: Size | None) -> Size:
    """The size of a mask, which its file and its image must agree on.

    Args:
        said: width and height in the file, None where they are missing.
        size: rows and columns of the image; None if it is not known.

    Raises:
        BadShape: they differ, or neither is known.
    """
    width, height = said
    if width is None or height is None:
        if size is None:
            raise BadShape("has no width and height of its image; add them")
        return size
    if size not in (None, (height, width)):
        raise BadShape(
            f"was annotated at {width} x {height}, but the image has {size[1]} x {size[0]}; annotate the image itself"
        )
    return height, width


def paint(size: Size, masks: Sequence[tuple[int, Mask]]) -> NDArray[np.int64]:
    """Paint masks (h, w) with their numbers, one over the other."""
    values = np.zeros(size, np.int64)
    for number, mask in masks:
        values[mask] = number
    return values


def polygon(points: Sequence[Sequence[float]], size: Size) -> Mask:
    """The mask of a polygon.

    Raises:
        BadShape: it has fewer than three points, or some outside the image.
    """
    if len(points) < 3:
        raise BadShape(f"a polygon has {len(points)} points; draw at least 3")
    return fill([_inside(points, size)], size)


def rectangle(points: Sequence[Sequence[float]], size: Size) -> Mask:
    """The mask of a rectangle of two opposite corners.

    Raises:
        BadShape: there are not two corners, or one is outside the image.
    """
    (x1, y1), (x2, y2) = _inside(_count(points, 2, "rectangle"), size).tolist()
    return fill([np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])], size)


def circle(points: Sequence[Sequence[float]], size: Size) -> Mask:
    """The mask of a circle with a centre and a point on it; what is outside the image is cut off.

    Raises:
        BadShape: there are not two points, or the centre is outside the image.
    """
    (x, y), (on_x, on_y) = np.asarray(_count(points, 2, "circle"), np.float64).tolist()
    _inside([(x, y)], size)
    rows, columns = (np.arange(side) + 0.5 for side in size)
    radius = math.hypot(on_x - x, on_y - y)
    found: Mask = (rows[:, None] - y) ** 2 + (columns - x) ** 2 <= radius**2
    return found


def _count(points: Sequence[Sequence[float]], wanted: int, what: str) -> Sequence[Sequence[float]]:
    if len(points) != wanted:
        raise BadShape(f"a {what} has {len(points)} points and needs {wanted}; draw it again")
    return points


def _inside(points: Sequence[Sequence[float]], size: Size) -> NDArray[np.float64]:
    corners = np.asarray(points, np.float64)
    height, width = size
    outside = ~((corners >= -MAX_OUTSIDE) & (corners <= np.array([width, height]) + MAX_OUTSIDE)).all(axis=1)
    if outside.any():
        x, y = corners[outside][0]
        raise BadShape(
            f"a point at x = {x:g}, y = {y:g} is outside the image of {width} x {height}; check that the shapes belong"
            " to this image"
        )
    return corners
