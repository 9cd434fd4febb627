"""From a result to the mask that is compared with the truth: what a user gets, and three that see the truth.

``label-free``
    the mask that ``run`` writes. It has not seen the truth: the only one of the four that a device can make.
``published``
    :func:`.overlap.published_mask` on the label map brought to 257 x 257 by nearest neighbour, against the truth
    resized as published. It sees the truth twice, when the cluster is chosen and when that is cropped.
``oracle-cluster``
    the one cluster with the largest IoU, not cropped, at the image's own size.
``oracle-regions``
    the union of connected regions of the label map with the largest IoU, at the image's own size: what the best choice
    of regions could reach. No union does better: a region raises the IoU of a union exactly if its pixels inside the
    truth, over those outside, are more than that IoU, so the best union is the regions with the largest such ratios,
    and all of these are tried.

Volumes are judged by the first and the third: clusters mean the same in every slice, so one is chosen for the whole
volume. The publication compares squares of 257 x 257, and the regions of a volume are many thousand.

With an empty truth there is nothing to choose by, and the three that see it give an empty mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..images.read import resize_nearest
from ..images.truth import PUBLISHED_SIDE, Mask, at_published_side
from ..measures.overlap import published_mask
from . import LABEL_FREE

if TYPE_CHECKING:
    from ..segmenter import Segmentation
    from ..volume_segmenter import VolumeSegmentation

Labels = NDArray[np.integer]


class Comparison(NamedTuple):
    """Two masks of one shape."""

    prediction: Mask
    truth: Mask


def compare(
    protocol: str, result: Segmentation | VolumeSegmentation, truth: Mask, class_id: int | None = None
) -> Comparison:
    """What is compared under a protocol.

    Args:
        protocol: one of :data:`.evaluation.PROTOCOLS`; for a volume one of :data:`.evaluation.OF_VOLUMES`.
        result: of the image or the volume.
        truth: bool (H, W) of the image's size, or (N, H, W) of the volume's.
        class_id: label of a trained system that stands for the truth; None where its labels have no meaning, or all of
            them but background are meant.

    Returns:
        both masks, of the image's size; for ``published`` both 257 x 257.
    """
    if protocol == LABEL_FREE:
        return Comparison(result.mask if class_id is None else result.labels == class_id, truth)
    if protocol == "published":
        truth = at_published_side(truth)
        labels = resize_nearest(result.labels, PUBLISHED_SIDE, PUBLISHED_SIDE)
        return Comparison(published_mask(labels, truth) if truth.any() else np.zeros_like(truth), truth)
    choose = {"oracle-cluster": best_cluster, "oracle-regions": best_regions}[protocol]
    return Comparison(choose(result.labels, truth), truth)


def best_cluster(labels: Labels, truth: Mask) -> Mask:
    """The cluster of largest IoU; empty for an empty truth.

    Args:
        labels: (H, W) or (N, H, W) cluster ids.
        truth: of the same shape.
    """
    if not truth.any():
        return np.zeros_like(truth)
    inside, outside = _counts(labels, truth)
    return labels == (inside / (outside + truth.sum())).argmax()


def best_regions(labels: Labels, truth: Mask) -> Mask:
    """The union of connected regions (four neighbours) of largest IoU; empty for an empty truth.

    Args:
        labels: (H, W) cluster ids.
        truth: (H, W).
    """
    from skimage.measure import label

    if not truth.any():
        return np.zeros_like(truth)
    regions = label(labels.astype(np.int64), connectivity=1, background=-1)  # from 1
    inside, outside = (counts[1:] for counts in _counts(regions, truth))
    order = np.argsort(-inside / (inside + outside), kind="stable")
    taken = 1 + (np.cumsum(inside[order]) / (np.cumsum(outside[order]) + truth.sum())).argmax()
    return np.isin(regions, order[:taken] + 1)


def _counts(labels: Labels, truth: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of every label inside and outside the truth; no label beyond the largest."""
    size = int(labels.max()) + 1
    return np.bincount(labels[truth], minlength=size), np.bincount(labels[~truth], minlength=size)
