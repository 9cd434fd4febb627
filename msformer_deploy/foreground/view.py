"""The image that a mask is chosen on, and what several rules ask of it, each worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..images.read import resize_nearest

SIDE = 129  # pixels of the small square, on which colours are compared
COLOURED = 0.03  # mean distance of red and blue, on 0..1, above which an image is in colour
BLOCK = 8  # pixels
BLACK = 0.12  # what is darker in every channel is frame
MIN_FRAME = 0.02  # of the image; skin has less that is black


@dataclass(frozen=True, eq=False)
class View:
    """One image, made once and handed to everything that chooses its mask.

    Attributes:
        square: (3, S, S) float32, BGR in 0..1.
    """

    square: NDArray[np.float32]

    @cached_property
    def small(self) -> NDArray[np.float32]:
        """(3, SIDE, SIDE) float32: the nearest pixels of the square."""
        return np.stack([resize_nearest(channel, SIDE, SIDE) for channel in self.square])

    @cached_property
    def brightness(self) -> NDArray[np.float32]:
        """(S, S) float32: the mean of the channels."""
        return np.asarray(self.square.mean(axis=0))

    @cached_property
    def coloured(self) -> bool:
        """Whether the image has colours."""
        return is_coloured(self.square)

    @cached_property
    def framed(self) -> bool:
        """Whether so much of the image is black that it is no picture of skin."""
        return has_frame(self.square)


def is_coloured(image: NDArray[np.float32]) -> bool:
    """Whether an image (3, S, S), BGR in 0..1, has colours."""
    rows, columns = (size // BLOCK * BLOCK for size in image.shape[1:])
    difference = (image[2] - image[0])[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return bool(np.abs(difference.mean(axis=(1, 3))).mean() > COLOURED)  # of blocks: noise is no colour


def has_frame(image: NDArray[np.float32]) -> bool:
    """Whether so much of an image (3, S, S) is black that it is no picture of skin."""
    return bool((image.max(axis=0) < BLACK).mean() >= MIN_FRAME)
