"""The soft Dice loss of MCSC (Liu et al., BMVC 2023, arXiv 2306.14293; kathyliu579/MCSC)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_SMOOTH = 1e-5


def soft_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """One minus the mean soft Dice over all classes, background included, with squares in the denominator.

    Sums run over the whole batch, so a class that one image lacks is scored on the other images.

    Args:
        probabilities: (B, C, H, W) of C classes, any float dtype; sums are float32.
        target: int64 (B, H, W), class ids below C.

    Returns:
        float32 scalar.
    """
    with torch.autocast(probabilities.device.type, enabled=False):
        shares = probabilities.float()
        truth = F.one_hot(target, shares.shape[1]).movedim(3, 1).to(shares.dtype)
        everywhere = (0, 2, 3)
        common = (shares * truth).sum(everywhere)
        sizes = shares.square().sum(everywhere) + truth.sum(everywhere)
        return 1 - ((2 * common + _SMOOTH) / (sizes + _SMOOTH)).mean()
