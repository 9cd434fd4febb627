"""What a person shows on an image: points on the object, points off it, a box around it; and the channels of the prior.

Each channel is a square, whatever the image's shape: points are discs, and a box is filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

DISC = 0.03  # radius of a point, in parts of the side
CHANNELS = 3  # positive points, negative points, box

Channel = NDArray[np.float32]


class Point(NamedTuple):
    """A pixel of the image, counted from 0 at the top left; ``inside`` the object or not."""

    x: int
    y: int
    inside: bool = True


class Box(NamedTuple):
    """Pixels of the image, counted from 0 at the top left; the right column and the bottom row belong to it."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Prompts:
    """What is shown on one image.

    Several positive points on parts of one kind ask for all of that kind; one point asks for the part that it is on.

    Attributes:
        points: any number.
        box: around the object; nothing outside it is in the mask.
    """

    points: Sequence[Point] = ()
    box: Box | None = None

    def channels(self, height: int, width: int, side: int) -> NDArray[np.float32]:
        """The channels, float32 (3, side, side) in 0..1.

        Args:
            height: height of the image, pixels.
            width: width of the image, pixels.
            side: of the channels.

        Raises:
            UsageError: there is no prompt, a point or the box is not in the image, or the box is empty.
        """
        if not self.points and self.box is None:
            raise UsageError("the prompts have no point and no box; give one of them, or leave the prompts out")
        found = np.zeros((CHANNELS, side, side), np.float32)
        for x, y, inside in self.points:
            if not (0 <= x < width and 0 <= y < height):
                raise UsageError(f"point {x},{y} is not in the image of {width} x {height} pixels")
            channel = found[0 if inside else 1]
            np.maximum(
                channel, disc(side, (y + 0.5) * side / height - 0.5, (x + 0.5) * side / width - 0.5), out=channel
            )
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (0 <= left <= right < width and 0 <= top <= bottom < height):
                raise UsageError(
                    f"box {left},{top},{right},{bottom} is not in the image of {width} x {height} pixels, or its right"
                    " or bottom comes before its left or top"
                )
            rows, columns = _span(top, bottom, height, side), _span(left, right, width, side)
            found[2] = filled_box(side, rows.start, columns.start, rows.stop, columns.stop)
        return found

    def within(self, probability: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """A probability of any size, 0 outside the box.

        Args:
            probability: (h, w), of the whole image.
            height: height of the image, pixels.
            width: width of the image, pixels.
        """
        if self.box is None:
            return probability
        left, top, right, bottom = self.box
        inside = _span(top, bottom, height, probability.shape[0]), _span(left, right, width, probability.shape[1])
        kept = np.zeros_like(probability)
        kept[inside] = probability[inside]
        return kept


def _span(first: int, last: int, size: int, wanted: int) -> slice:
    """What pixels ``first`` to ``last`` of ``size`` touch, of ``wanted`` in the same place."""
    return slice(first * wanted // size, -(-(last + 1) * wanted // size))


def disc(side: int, row: float, column: float) -> Channel:
    """A point as it stands in its channel: 1 within a disc around it, float32 (S, S)."""
    rows, columns = np.ogrid[:side, :side]
    radius = max(DISC * side, 1.0)
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2).astype(np.float32)


def filled_box(side: int, top: int, left: int, bottom: int, right: int) -> Channel:
    """A box as it stands in its channel: 1 inside, float32 (S, S); its last row and column are not in it."""
    channel = np.zeros((side, side), np.float32)
    channel[max(top, 0) : bottom, max(left, 0) : right] = 1
    return channel
