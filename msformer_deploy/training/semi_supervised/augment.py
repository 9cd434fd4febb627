"""How slices are varied in semi-supervised training: MCSC's way, which is that of SSL4MIS (HiLab-git/SSL4MIS).

With probability 1/2 quarter turns and a flip; else with probability 1/2 a turn by up to 20 degrees; else as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...images.read import resize_nearest

MOST_DEGREES = 20  # from minus this to one less


def vary(planes: Sequence[NDArray[Any]], side: int, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Vary planes of one slice alike, by nearest neighbours throughout; what comes from outside is 0.

    Args:
        planes: (H, W) each, of one size: the picture and, where there is one, its labels.
        side: of the squares that are returned, pixels.
        rng: of this slice at this iteration.

    Returns:
        (side, side) each, of their types.
    """
    if rng.random() < 0.5:
        quarters, axis = int(rng.integers(4)), int(rng.integers(2))
        found = [np.flip(np.rot90(plane, quarters), axis) for plane in planes]
    elif rng.random() < 0.5:
        degrees = int(rng.integers(-MOST_DEGREES, MOST_DEGREES))
        found = [_turned(plane, degrees) for plane in planes]
    else:
        found = list(planes)
    return [resize_nearest(plane, side, side) for plane in found]


def _turned(plane: NDArray[Any], degrees: int) -> NDArray[Any]:
    from scipy import ndimage

    turned: NDArray[Any] = ndimage.rotate(plane, degrees, order=0, reshape=False)
    return turned
