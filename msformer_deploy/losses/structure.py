"""Weighted BCE and IoU: a pixel that differs from its surroundings counts up to six times.

Wei et al., "F3Net: fusion, feedback and focus for salient object detection" (AAAI 2020), used by PraNet and MSNet. All
functions take logits and masks (B, 1, H, W) of any float dtype, masks in 0..1, and compute in float32.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

BOX = 31  # side of the surroundings, pixels
GAIN = 5.0  # maximum that is added to a weight of 1: mask and surroundings differ by 1
PER_IMAGE = (1, 2, 3)


def weighted_bce(logits: Tensor, masks: Tensor, *, published: bool = False) -> Tensor:
    """Binary cross-entropy: the weighted mean over each image, then the mean over the batch.

    Args:
        logits: (B, 1, H, W).
        masks: (B, 1, H, W).
        published: return the plain mean instead. The released code passes the old argument ``reduce="none"``, which
            means the mean, so its weights have no effect.

    Returns:
        scalar, float32.
    """
    logits, masks = logits.float(), masks.float()
    if published:
        return F.binary_cross_entropy_with_logits(logits, masks)
    weights = _weights(masks)
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    return ((weights * entropy).sum(PER_IMAGE) / weights.sum(PER_IMAGE)).mean()


def weighted_iou(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - (intersection + 1) / (union + 1), both weighted; the mean over the batch.

    Args:
        logits: (B, 1, H, W).
        masks: (B, 1, H, W).

    Returns:
        scalar, float32.
    """
    probabilities, masks = logits.float().sigmoid(), masks.float()
    weights = _weights(masks)
    intersection = (weights * probabilities * masks).sum(PER_IMAGE)
    union = (weights * (probabilities + masks)).sum(PER_IMAGE) - intersection
    return (1 - (intersection + 1) / (union + 1)).mean()


def _weights(masks: Tensor) -> Tensor:
    """1 + 5 |mean of the surroundings - mask|; pixels outside the image are background."""
    surroundings = F.avg_pool2d(masks, BOX, stride=1, padding=BOX // 2)
    return 1 + GAIN * (surroundings - masks).abs()
