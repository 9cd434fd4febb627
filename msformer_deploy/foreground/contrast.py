"""How well colour tells the two sides of a mask's outline apart.

The colours in a band on either side of the outline are taken for two Gaussians of one covariance. Their Mahalanobis
distance d (Mahalanobis, 1936) gives the share of pixels that colour puts on the right side, Phi(d / 2); contrast is
2 Phi(d / 2) - 1, so 0 where both sides look the same. It cannot see an outline that is sharp and encloses the wrong
thing.
"""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray

from ..images.read import resize_nearest
from .morphology import grown, shrunk
from .view import SIDE, View

BAND = 6  # on either side of the outline; pixels of the small square, SIDE
VARIANCE = 1e-4  # added to each channel's, on 0..1
MIN_PIXELS = 12  # of a band


def contrast_of(mask: NDArray[np.bool_], view: View) -> float:
    """The contrast of a mask, 0..1; 0 where it leaves too few pixels on one side of its outline.

    Args:
        mask: bool (T, T), at any size.
        view: of the image.
    """
    small = resize_nearest(mask, SIDE, SIDE)
    inner, outer = (view.small[:, band].T for band in (small & ~shrunk(small, BAND), grown(small, BAND) & ~small))
    if min(len(inner), len(outer)) < MIN_PIXELS:
        return 0.0
    covariance = (np.cov(inner.T) + np.cov(outer.T)) / 2 + VARIANCE * np.eye(len(view.small))
    difference = inner.mean(axis=0) - outer.mean(axis=0)
    return erf(sqrt(float(difference @ np.linalg.solve(covariance, difference))) / (2 * sqrt(2)))
