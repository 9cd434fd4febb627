"""What a person shows on an image: points and strokes on and off the object, boxes around it; and the prior's channels.

Each channel is a square, whatever the image's shape: points are discs, strokes as wide as these, and boxes filled.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..images.read import Part

DISC = 0.03  # radius of a point, in parts of the side
FEW = 16  # discs that are drawn one by one; the other way takes as long for one as for thousands
CHANNELS = 3  # positive points, negative points, box
SIDE = 96  # pixels of the channels that the prior takes

Channel = NDArray[np.float32]
Mask = NDArray[np.bool_]


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


@dataclass(frozen=True, eq=False)
class Scribble:
    """Strokes of a brush.

    Attributes:
        inside: (H, W) bool at the image's size, pixels of the object.
        outside: (H, W) bool, pixels that are not of the object.
    """

    inside: Mask
    outside: Mask


class Labelled(NamedTuple):
    """Pixels of which prompts say what they are: rows and columns, each (n, 2) integers."""

    inside: NDArray[np.intp]
    outside: NDArray[np.intp]


@dataclass(frozen=True)
class Prompts:
    """What is shown on one image.

    Several positive points on parts of one kind ask for all of that kind; one point asks for the part that it is on.

    Attributes:
        points: any number.
        box: around the object, or several boxes around its parts; nothing outside them is in the mask.
        scribbles: any number.
    """

    points: Sequence[Point] = ()
    box: Box | Sequence[Box] | None = None
    scribbles: Sequence[Scribble] = ()

    @property
    def boxes(self) -> tuple[Box, ...]:
        """All boxes."""
        if self.box is None:
            return ()
        return (self.box,) if isinstance(self.box, Box) else tuple(self.box)

    def and_also(self, prompt: Point | Box | Scribble) -> Prompts:
        """These prompts and one more.

        Raises:
            UsageError: it is none.
        """
        if isinstance(prompt, Point):
            return Prompts((*self.points, prompt), self.box, self.scribbles)
        if isinstance(prompt, Box):
            return Prompts(self.points, (*self.boxes, prompt), self.scribbles)
        if not isinstance(prompt, Scribble):
            raise UsageError(f"{prompt!r} is no prompt; pass a Point, a Box or a Scribble")
        return Prompts(self.points, self.box, (*self.scribbles, prompt))

    def require_fit(self, height: int, width: int) -> None:
        """See that the prompts can be obeyed on an image of this size.

        Raises:
            UsageError: there is no prompt, or something that is none; a point or a box is not in the image; a box or
                strokes are empty; strokes have another size; or prompts contradict one another.
        """
        self._require_types()
        if not self.points and not self.boxes and not self.scribbles:
            raise UsageError("the prompts have no point and no box; give one of them, or leave the prompts out")
        of_image = f"the image of {width} x {height} pixels"
        for x, y, _ in self.points:
            if not (0 <= x < width and 0 <= y < height):
                raise UsageError(f"point {x},{y} is not in {of_image}")
        for left, top, right, bottom in self.boxes:
            named = f"box {left},{top},{right},{bottom}"
            if right < left or bottom < top:
                raise UsageError(
                    f"{named} has its right or bottom before its left or top; give left, top, right and bottom"
                )
            if left < 0 or top < 0 or right >= width or bottom >= height:
                raise UsageError(f"{named} is not in {of_image}")
        for each in (mask for scribble in self.scribbles for mask in (scribble.inside, scribble.outside)):
            if each.shape != (height, width):
                raise UsageError(f"strokes of {' x '.join(map(str, each.shape[::-1]))} pixels do not fit {of_image}")
        if any(not each.inside.any() and not each.outside.any() for each in self.scribbles):
            raise UsageError("strokes have no pixel, inside or outside; leave them out")
        inside, outside = self.labelled(height, width)
        marked = np.zeros((height, width), bool)
        marked[tuple(inside.T)] = True
        both = outside[marked[tuple(outside.T)]]
        if len(both):
            row, column = both[0]
            raise UsageError(f"pixel {column},{row} is shown as inside and as outside; drop one of these prompts")
        bounds = self.bounds(height, width)
        if bounds is not None and inside.size and not bounds[tuple(inside.T)].all():
            row, column = inside[~bounds[tuple(inside.T)]][0]
            raise UsageError(
                f"pixel {column},{row} is shown as inside, but it is not in the box; drop one of these prompts"
            )
        if bounds is not None and len(outside):
            bounds[tuple(outside.T)] = False
            if not bounds.any():
                raise UsageError("all pixels of the box are shown as outside; drop one of these prompts")

    def _require_types(self) -> None:
        """See that the fields have what they are for, as whoever calls from Python may pass anything.

        Raises:
            UsageError: they have something else.
        """
        given_boxes = () if self.box is None else (self.box,) if isinstance(self.box, Box) else self.box
        for given, kind in ((self.points, Point), (given_boxes, Box), (self.scribbles, Scribble)):
            if not isinstance(given, Sequence) or not all(isinstance(each, kind) for each in given):
                raise UsageError(
                    f"prompts have something that is no {kind.__name__} in its place; pass, for example,"
                    " Prompts([Point(60, 45)], Box(20, 15, 70, 50))"
                )
        for place in (*(each[:2] for each in self.points), *self.boxes):
            if not all(isinstance(each, Integral) for each in place):
                raise UsageError(f"{','.join(map(str, place))} are not whole pixels; round them")
        if any(each.inside not in (0, 1) for each in self.points):
            raise UsageError("inside of a point is neither True nor False")
        masks = [mask for each in self.scribbles for mask in (each.inside, each.outside)]
        if not all(isinstance(mask, np.ndarray) and mask.dtype == np.bool_ for mask in masks):
            raise UsageError("strokes are not two arrays of bool")

    def labelled(self, height: int, width: int) -> Labelled:
        """Pixels of points and strokes, each once and in the order of rows and columns."""
        found = []
        for wanted in (True, False):
            pixels = [(y, x) for x, y, inside in self.points if inside == wanted]
            places = np.array(pixels, np.intp).reshape(-1, 2)
            if self.scribbles:
                marked = np.zeros((height, width), bool)
                for each in self.scribbles:
                    marked |= each.inside if wanted else each.outside
                marked[tuple(places.T)] = True
                found.append(np.argwhere(marked))
            else:
                found.append(np.unique(places, axis=0))
        return Labelled(*found)

    def bounds(self, height: int, width: int) -> Mask | None:
        """Where the mask may be: bool (height, width), true in every box; None if there is no box."""
        if not self.boxes:
            return None
        found = np.zeros((height, width), bool)
        for left, top, right, bottom in self.boxes:
            found[top : bottom + 1, left : right + 1] = True
        return found

    def channels(self, height: int, width: int, side: int = SIDE, part: Part | None = None) -> NDArray[np.float32]:
        """The channels, float32 (3, side, side) in 0..1.

        Args:
            height: height of the image, pixels.
            width: width of the image, pixels.
            side: of the channels.
            part: of the image that they cover; None for all of it.

        That the prompts fit the image is for :meth:`require_fit` to see, once for all that is done with them.
        """
        first_column, first_row, last_column, last_row = part or (0, 0, width, height)
        down, across = last_row - first_row, last_column - first_column
        found = np.zeros((CHANNELS, side, side), np.float32)
        for channel, pixels in zip(found, self.labelled(height, width), strict=False):
            ahead = (pixels + 0.5 - (first_row, first_column)) * (side / down, side / across)
            ahead = ahead[((ahead >= 0) & (ahead < side)).all(axis=1)]
            # Pixels of a stroke that fall into one of the channel are one disc.
            reached = np.zeros((side, side), bool)
            reached[tuple(ahead.astype(np.intp).T)] = True
            places = np.argwhere(reached)
            _draw_discs(channel, ahead - 0.5 if len(ahead) <= len(places) else places)
        for left, top, right, bottom in self.boxes:
            rows = _span(top - first_row, bottom - first_row, down, side)
            columns = _span(left - first_column, right - first_column, across, side)
            np.maximum(found[2], filled_box(side, rows.start, columns.start, rows.stop, columns.stop), out=found[2])
        return found

    def within(self, probability: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """A probability of any size, 0 outside the boxes.

        Args:
            probability: (h, w), of the whole image.
            height: height of the image, pixels.
            width: width of the image, pixels.
        """
        if not self.boxes:
            return probability
        kept = np.zeros_like(probability)
        for left, top, right, bottom in self.boxes:
            inside = _span(top, bottom, height, probability.shape[0]), _span(left, right, width, probability.shape[1])
            kept[inside] = probability[inside]
        return kept


def _span(first: float, last: float, size: float, wanted: int) -> slice:
    """What pixels ``first`` to ``last`` of ``size`` touch, of ``wanted`` in the same place."""
    return slice(int(first * wanted // size), int(-(-(last + 1) * wanted // size)))


def _draw_discs(channel: Channel, centres: NDArray[Any]) -> None:
    """Draw :func:`disc` around rows and columns (n, 2), in place: many of them at once, offset by offset."""
    side = len(channel)
    if len(centres) <= FEW:
        for row, column in centres:
            np.maximum(channel, disc(side, row, column), out=channel)
        return
    radius = _radius(side)
    nearest = np.floor(centres).astype(np.intp)
    offsets = range(-int(radius) - 1, int(radius) + 3)
    for offset in itertools.product(offsets, offsets):
        pixels = nearest + offset
        near = ((pixels - centres) ** 2).sum(axis=1) <= radius**2
        pixels = pixels[near & (pixels >= 0).all(axis=1) & (pixels < side).all(axis=1)]
        channel[tuple(pixels.T)] = 1


def _radius(side: int) -> float:
    return max(DISC * side, 1.0)


def disc(side: int, row: float, column: float) -> Channel:
    """A point as it stands in its channel: 1 within a disc around it, float32 (S, S)."""
    rows, columns = np.ogrid[:side, :side]
    return ((rows - row) ** 2 + (columns - column) ** 2 <= _radius(side) ** 2).astype(np.float32)


def filled_box(side: int, top: int, left: int, bottom: int, right: int) -> Channel:
    """A box as it stands in its channel: 1 inside, float32 (S, S); its last row and column are not in it."""
    channel = np.zeros((side, side), np.float32)
    channel[max(top, 0) : bottom, max(left, 0) : right] = 1
    return channel
