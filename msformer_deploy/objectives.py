"""The self-guided losses of MS-Former (Karimijafarbigloo et al., MIDL 2023, section 2; xmindflow/MS-Former)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Losses(NamedTuple):
    """The three unweighted terms, scalars, means over the batch."""

    cross_entropy: Tensor
    inter_scale: Tensor
    intra_scale: Tensor

    def total(self, inter_weight: float, intra_weight: float) -> Tensor:
        """Weighted sum; the cross-entropy has weight 1."""
        return self.cross_entropy + inter_weight * self.inter_scale + intra_weight * self.intra_scale


def self_guided_losses(logits: Tensor, labels: Tensor, attention: Tensor, consistency: Tensor) -> Losses:
    """Losses of one forward pass.

    Args:
        logits: cluster scores (B, K, S, S).
        labels: their argmax (B, S, S), int64: the target is the network's own answer.
        attention: (B, P, P), between the patches of the map and those of its one-pixel shift.
        consistency: (B,), mean cosine between the rows of the two scales' contexts.
    """
    identity = torch.eye(attention.shape[1], device=attention.device, dtype=attention.dtype)
    return Losses(
        # Pixels by clusters: a view where the logits are channels last in memory, as the network's are.
        cross_entropy=F.cross_entropy(logits.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()),
        inter_scale=(1 - consistency).mean(),
        intra_scale=(attention - identity).abs().mean(),
    )
