"""The augmentation of slices in semi-supervised training: that of MCSC, taken from SSL4MIS (HiLab-git/SSL4MIS).

With probability 1/2, a slice gets quarter turns and a flip; with probability 1/4, a rotation by up to 20 degrees; else
it stays unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...images.read import resize_nearest

MAX_DEGREES = 20  # angles are whole numbers from -MAX_DEGREES to MAX_DEGREES - 1


def vary(planes: Sequence[NDArray[Any]], side: int, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Augment the planes of one slice in the same way, with nearest neighbours; pixels from outside are 0.

    Args:
        planes: (H, W) each, of one size: the image and, if there are any, its labels.
        side: side of the returned squares, pixels.
        rng: random generator for this slice at this iteration.

    Returns:
        (side, side) each, with the dtype of the plane.
    """
    if rng.random() < 0.5:
        quarters, axis = int(rng.integers(4)), int(rng.integers(2))
        found = [np.flip(np.rot90(plane, quarters), axis) for plane in planes]
    elif rng.random() < 0.5:
        degrees = int(rng.integers(-MAX_DEGREES, MAX_DEGREES))
        found = [_turned(plane, degrees) for plane in planes]
    else:
        found = list(planes)
    return [resize_nearest(plane, side, side) for plane in found]


def _turned(plane: NDArray[Any], degrees: int) -> NDArray[Any]:
    from scipy import ndimage

    turned: NDArray[Any] = ndimage.rotate(plane, degrees, order=0, reshape=False)
    return turned
