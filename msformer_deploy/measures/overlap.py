"""Overlap of binary masks, the published protocol, which picks a cluster by the truth, and agreement of label maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Overlap:
    """DSC, HM and XOR as the public code computes them (xmindflow/MS-Former), without smoothing.

    HM is 1 - IoU; XOR is relative to the ground truth, so it can exceed 1. An empty union gives NaN, not a perfect
    score.
    """

    dsc: float
    hm: float
    xor: float


def overlap(prediction: Mask, truth: Mask) -> Overlap:
    """Compare two masks of the same shape."""
    both = int((prediction & truth).sum())
    union = int((prediction | truth).sum())
    return Overlap(
        dsc=_ratio(2 * both, int(prediction.sum()) + int(truth.sum())),
        hm=_ratio(union - both, union),
        xor=_ratio(union - both, int(truth.sum())),
    )


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")


def published_mask(labels: Labels, truth: Mask) -> Mask:
    """The prediction of the published evaluation, which uses the ground truth twice; no deployed result can do that.

    It is the cluster with the largest overlap with the truth, cropped by the truth dilated twice with a 7 x 7 square.
    The public code cannot choose cluster 0; this function can.

    Args:
        labels: cluster ids (H, W).
        truth: (H, W), not empty.
    """
    from scipy.ndimage import binary_dilation

    cluster = np.bincount(labels[truth]).argmax()
    return (labels == cluster) & binary_dilation(truth, np.ones((7, 7), bool), iterations=2)


def contingency(labels: Labels, reference: Labels) -> NDArray[np.int64]:
    """Count the pixels that have label i in ``labels`` and label j in ``reference``.

    Args:
        labels, reference: cluster ids from 0, of the same shape.

    Returns:
        int64 (largest label + 1, largest reference + 1).
    """
    rows, columns = int(labels.max()) + 1, int(reference.max()) + 1
    pairs = labels.ravel().astype(np.int64) * columns + reference.ravel()
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def match_labels(labels: Labels, reference: Labels) -> NDArray[np.int64]:
    """Rename the clusters of ``labels`` to those of ``reference``, one to one, so that most pixels agree.

    This is the Hungarian method on the contingency table (Kuhn 1955). If ``labels`` has more clusters than
    ``reference``, the other clusters get ids that ``reference`` does not use.

    Args:
        labels, reference: cluster ids from 0, of the same shape.

    Returns:
        int64 of that shape.
    """
    from scipy.optimize import linear_sum_assignment

    table = contingency(labels, reference)
    names = table.shape[1] + np.arange(table.shape[0])
    matched, targets = linear_sum_assignment(table, maximize=True)
    names[matched] = targets
    return np.asarray(names[labels])


def agreement(labels: Labels, reference: Labels) -> float:
    """Share of the pixels with equal labels, 0..1."""
    return float((labels == reference).mean())


def adjusted_rand_index(labels: Labels, reference: Labels) -> float:
    """Similarity of two partitions of the pixels, independent of their ids (Hubert & Arabie 1985, equation 5).

    It is 1 for equal partitions, 0 on average for independent partitions, and can be negative. Two maps with a single
    cluster each, or with one cluster per pixel each, are equal and give 1; a single cluster against any other map gives
    0.

    Args:
        labels, reference: cluster ids from 0, of the same shape.
    """
    table = contingency(labels, reference)
    together = _pairs(table)
    rows, columns = _pairs(table.sum(axis=1)), _pairs(table.sum(axis=0))
    if rows == columns == together:
        return 1.0
    expected = rows * columns / _pairs(np.array([labels.size]))
    return (together - expected) / ((rows + columns) / 2 - expected)


def _pairs(counts: NDArray[np.int64]) -> int:
    """Number of pairs of pixels that share a cell, over all cells."""
    return int((counts * (counts - 1) // 2).sum())
