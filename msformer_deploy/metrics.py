"""Overlap measures of binary masks, and the published protocol that picks a cluster with the ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Overlap:
    """DSC, HM and XOR as the public code computes them (xmindflow/MS-Former), without smoothing.

    HM is 1 - IoU; XOR is relative to the ground truth, so it can exceed 1. An empty union gives NaN, never a flattering
    number.
    """

    dsc: float
    hm: float
    xor: float


def overlap(prediction: Mask, truth: Mask) -> Overlap:
    """Compare two masks of one shape."""
    both = int((prediction & truth).sum())
    union = int((prediction | truth).sum())
    return Overlap(
        dsc=_ratio(2 * both, int(prediction.sum()) + int(truth.sum())),
        hm=_ratio(union - both, union),
        xor=_ratio(union - both, int(truth.sum())),
    )


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")


def published_mask(labels: NDArray[np.integer], truth: Mask) -> Mask:
    """The prediction of the published evaluation: it sees the ground truth twice, and so is no deployment result.

    The cluster that overlaps the truth most, cropped by the truth dilated twice with a 7 x 7 square. The public code
    cannot choose cluster 0; here it can.

    Args:
        labels: cluster ids (H, W).
        truth: (H, W), not empty.
    """
    from scipy.ndimage import binary_dilation

    cluster = np.bincount(labels[truth]).argmax()
    return (labels == cluster) & binary_dilation(truth, np.ones((7, 7), bool), iterations=2)
