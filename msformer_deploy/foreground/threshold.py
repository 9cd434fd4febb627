"""The threshold of a probability map whose mask has the highest DSC to expect."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST = 0.2  # what is less probable is no figure, so that an image of nothing has an empty mask


def threshold_of(probability: NDArray[np.float32]) -> float:
    """The threshold, from :data:`LOWEST` to 0.5.

    The expected DSC is taken for the soft Dice of mask and probability. The best threshold is half of the highest one
    that any threshold reaches (Lipton et al., ECML 2014). So it is 0.5 where the probability is 0 or 1, and lower where
    the object is uncertain: to leave all of it out would cost more than to take in some of the ground.

    Args:
        probability: float32 (H, W) in 0..1, that a pixel is figure.
    """
    inside = np.cumsum(np.sort(probability, axis=None)[::-1], dtype=np.float64)
    if inside[-1] == 0:
        return LOWEST
    reached = 2 * inside / (inside[-1] + np.arange(1, inside.size + 1))
    return max(float(reached.max()) / 2, LOWEST)
