"""The self-guided losses.

MS-Former: Karimijafarbigloo et al., MIDL 2023, section 2; xmindflow/MS-Former. S3-Net: Karimijafarbigloo et al.,
ICCVW 2023; xmindflow/SSCT.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Losses(NamedTuple):
    """The three unweighted terms of MS-Former, scalars, means over the batch."""

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
        labels: argmax of the logits (B, S, S), int64: the network is its own target.
        attention: (B, P, P), attention between the P patches of the map and those of the map shifted by one pixel.
        consistency: (B,), mean cosine between the rows of the contexts of the two scales.
    """
    identity = torch.eye(attention.shape[1], device=attention.device, dtype=attention.dtype)
    return Losses(
        # (pixels, clusters): a view, not a copy, because the network's logits are channels-last in memory.
        cross_entropy=F.cross_entropy(logits.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()),
        inter_scale=(1 - consistency).mean(),
        intra_scale=(attention - identity).abs().mean(),
    )


class S3Losses(NamedTuple):
    """The three unweighted terms of S3-Net, scalars."""

    cross_entropy: Tensor
    affine: Tensor
    spatial: Tensor

    def total(self, cross_entropy_weight: float, affine_weight: float, spatial_weight: float) -> Tensor:
        """Weighted sum."""
        return cross_entropy_weight * self.cross_entropy + affine_weight * self.affine + spatial_weight * self.spatial


def s3_losses(logits: Tensor, labels: Tensor, auxiliary: Tensor) -> S3Losses:
    """Losses of one forward pass as the published code computes them.

    Two of its losses do less than their names say. The affine loss rotates both the auxiliary logits and the labels by
    90 degrees: every pixel moves together with its target, so the mean stays the same and nothing is learned from the
    rotation. The spatial loss is computed in numpy on randomly coloured labels: it has no gradient and only changes
    the printed number, so it is 0 here.

    Args:
        logits: cluster scores (1, K, S, S).
        labels: argmax of the logits (1, S, S), int64.
        auxiliary: logits (1, K, S, S) of the auxiliary head.
    """
    return S3Losses(
        cross_entropy=F.cross_entropy(logits, labels),
        affine=F.cross_entropy(auxiliary, labels),
        spatial=logits.new_zeros(()),
    )


def repaired_s3_losses(logits: Tensor, labels: Tensor, auxiliary_of_turned: Tensor) -> S3Losses:
    """The same losses as the paper describes them; the published code computes something else.

    The affine loss compares the prediction for the rotated image with the rotated labels of the image. The spatial loss
    compares the edges of the soft assignment along rows, columns and both (Sobel operators), summed over the clusters.

    Args:
        logits: cluster scores (1, K, S, S).
        labels: argmax of the logits (1, S, S), int64.
        auxiliary_of_turned: logits (1, K, S, S) of the auxiliary head for the image rotated by 90 degrees.
    """
    smooth, slope = logits.new_tensor([1.0, 2.0, 1.0]), logits.new_tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(*pair) for pair in ((smooth, slope), (slope, smooth), (slope, slope))])
    shares = F.pad(logits.softmax(dim=1).transpose(0, 1), (1, 1, 1, 1), mode="reflect")
    along, down, both = F.conv2d(shares, kernels[:, None]).unbind(dim=1)
    edges = [(first - second).abs().sum(dim=0).mean() for first, second in ((down, along), (both, along), (both, down))]
    return S3Losses(
        cross_entropy=F.cross_entropy(logits, labels),
        affine=F.cross_entropy(auxiliary_of_turned, torch.rot90(labels, 1, (1, 2))),
        spatial=torch.stack(edges).sum(),
    )
