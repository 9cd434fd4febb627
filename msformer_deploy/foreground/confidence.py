"""How far a label-free mask can be trusted, told from the image alone.

The colours in a band on either side of the outline are taken for two Gaussians of one covariance. Their Mahalanobis
distance d (Mahalanobis, 1936) gives the share of pixels that colour puts on the right side, Phi(d / 2); confidence is
2 Phi(d / 2) - 1, so 0 where both sides look the same. It cannot see an outline that is sharp and encloses the wrong
thing. How it goes with DSC on the development images is in ``docs/explanation/quality.md``.
"""

from __future__ import annotations

from math import erf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..images.read import resize_nearest
from .morphology import grown, shrunk
from .view import SIDE, View

BAND = 6  # on either side of the outline; pixels of the small square, SIDE
VARIANCE = 1e-4  # added to each channel's, on 0..1
MIN_PIXELS = 12  # of a band
LOW = 0.55  # below this a mask is low-confidence


class Confidence(NamedTuple):
    """Of a mask: from 0 to 1, and why it is low, None if it is not."""

    value: float
    doubt: str | None


def confidence_of(mask: NDArray[np.bool_], view: View) -> Confidence:
    """The confidence in a mask.

    Args:
        mask: bool (T, T), at any size.
        view: of the image.
    """
    if not mask.any():
        return Confidence(0.0, "the mask is empty: nothing was found that stands out")
    if mask.all():
        return Confidence(0.0, "the mask covers the whole image: nothing was found around an object")
    small = resize_nearest(mask, SIDE, SIDE)
    inner, outer = (view.small[:, band].T for band in (small & ~shrunk(small, BAND), grown(small, BAND) & ~small))
    if min(len(inner), len(outer)) < MIN_PIXELS:
        return Confidence(0.0, "the mask leaves too few pixels on one side of its outline")
    covariance = (np.cov(inner.T) + np.cov(outer.T)) / 2 + VARIANCE * np.eye(len(view.small))
    difference = inner.mean(axis=0) - outer.mean(axis=0)
    value = erf(sqrt(float(difference @ np.linalg.solve(covariance, difference))) / (2 * sqrt(2)))
    return Confidence(value, None if value >= LOW else "colours differ little across the mask's outline")
