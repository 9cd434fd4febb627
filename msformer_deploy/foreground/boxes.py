"""What a box says beyond its bounds: where to look closer, and that the object reaches all four sides.

1. **Window.** The figure is sought in the boxes and :data:`MARGIN` around them alone, enlarged to the network's side.
   The encoder does not run again: its features are taken where they are.
2. **Reach.** A box is drawn around all of an object, and a probability that is unsure at the object's border stops
   short of it. So what is above the threshold in a box is stretched towards its sides, by :data:`REACHED` of the gap.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..images.read import Part, resize_linear
from .prompts import Box

MARGIN = 0.5  # of the boxes' width and height, on each side
# 0.75 gives the highest DSC if boxes are exact, and 0.25 if half of them are up to 10 % too large on each side.
REACHED = 0.5


class Window(NamedTuple):
    """Rows and columns of a grid over the whole image; the bottom row and the right column do not belong to it.

    Attributes:
        side: S, number of rows and columns of the grid.
    """

    left: int
    top: int
    right: int
    bottom: int
    side: int

    def part(self, height: int, width: int) -> Part:
        """Where it is in an image of this size."""
        across, down = width / self.side, height / self.side
        return self.left * across, self.top * down, self.right * across, self.bottom * down

    def enlarged(self, features: Any, kept: threading.local) -> Any:
        """Features (C, S, S) of the image, in numpy or torch, where they are nearest to S x S places of the window.

        Args:
            features: of the image; in numpy with channels last in memory.
            kept: has the memory that numpy writes to, until the thread's next call. New memory of 30 MB for each
                prompt took 25 ms, because its pages are mapped one by one; writing to it takes 5 ms.
        """
        places = (np.arange(self.side) + 0.5) / self.side
        rows = (self.top + places * (self.bottom - self.top)).astype(np.intp)
        columns = (self.left + places * (self.right - self.left)).astype(np.intp)
        if not isinstance(features, np.ndarray):
            return features[:, rows[:, None], columns]
        pixels = features.transpose(1, 2, 0).reshape(self.side**2, -1)
        if getattr(kept, "pixels", np.empty(0)).shape != pixels.shape:
            kept.pixels = np.empty_like(pixels)
        where = (rows[:, None] * self.side + columns).ravel()
        np.take(pixels, where, axis=0, out=kept.pixels, mode="clip")  # the mode that does not copy first
        return kept.pixels.reshape(self.side, self.side, -1).transpose(2, 0, 1)

    def placed(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """A probability (S, S) of the window's pixels as one of the image's, (S, S); 0 outside the window."""
        found = np.zeros_like(probability)
        found[self.top : self.bottom, self.left : self.right] = resize_linear(
            probability, self.bottom - self.top, self.right - self.left
        )
        return found


def window_around(boxes: Sequence[Box], height: int, width: int, side: int) -> Window:
    """Boxes and what is around them, on a grid of ``side`` rows and columns.

    Args:
        boxes: one or more, in the image.
        height: height of the image, pixels.
        width: width of the image, pixels.
        side: of the grid.
    """
    left, right = _widened(min(each.left for each in boxes), max(each.right for each in boxes) + 1, width, side)
    top, bottom = _widened(min(each.top for each in boxes), max(each.bottom for each in boxes) + 1, height, side)
    return Window(left, top, right, bottom, side)


def reaching(probability: NDArray[np.float32], threshold: float, boxes: Sequence[Box]) -> NDArray[np.float32]:
    """A probability whose mask comes nearer to the sides of the boxes; a new array.

    In each box, what lies between the first and last rows and columns above the threshold, and the rest of the gap
    around that, is resized to the box. A box with nothing above the threshold is left as it is.

    Args:
        probability: float32 (H, W) in 0..1, at the image's size; 0 outside the boxes.
        threshold: of the mask.
        boxes: in the image. Where they overlap, the higher probability counts.
    """
    found = np.zeros_like(probability)
    for left, top, right, bottom in boxes:
        inside = slice(top, bottom + 1), slice(left, right + 1)
        part = probability[inside]
        rows, columns = (np.flatnonzero((part > threshold).any(axis=axis)) for axis in (1, 0))
        if len(rows):
            height, width = part.shape
            stretched = (
                columns[0] * REACHED,
                rows[0] * REACHED,
                width - (width - 1 - columns[-1]) * REACHED,
                height - (height - 1 - rows[-1]) * REACHED,
            )
            picture = Image.fromarray(np.ascontiguousarray(part))
            part = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=stretched))
        np.maximum(found[inside], part, out=found[inside])
    return found


def _widened(first: int, after: int, size: int, side: int) -> tuple[int, int]:
    """First cell of a grid and the one after the last, for pixels and the margin around them."""
    margin = MARGIN * (after - first)
    start, stop = max(first - margin, 0), min(after + margin, size)
    return int(start * side // size), int(-(-stop * side // size))
