"""The two networks of MCSC with their classifiers. They learn from each other, and either or both are deployed.

Liu et al., BMVC 2023, arXiv 2306.14293. The authors test the U-Net alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from . import swin_unet, unet
from .swin_unet import SwinUNet
from .unet import UNet

Answer = Literal["unet", "swin", "both"]


class Segmented(NamedTuple):
    """Logits of a network, and the feature maps that are compared with the other network's."""

    logits: Tensor  # (B, C, H, W)
    full: Tensor  # (B, D1, H, W)
    coarse: Tensor  # (B, D2, H / 8, W / 8)


class UNetSegmenter(nn.Module):
    """The U-Net and its classifier.

    Args:
        network: the U-Net. Default: one with the published widths.
        classes: number of classes, background included.
    """

    def __init__(self, network: UNet | None = None, classes: int = 4) -> None:
        super().__init__()
        self.network = UNet() if network is None else network
        self.classifier = unet.classifier(self.network.widths[0], classes)

    def forward(self, images: Tensor) -> Segmented:
        """Segment grey images (B, 1, H, W) in 0..1; H and W are multiples of 16."""
        maps = self.network(images)
        return Segmented(self.classifier(maps.full), maps.full, maps.eighth)


class SwinSegmenter(nn.Module):
    """The Swin-UNet and its classifier.

    Args:
        network: the Swin-UNet. Default: one with the published sizes.
        classes: number of classes, background included.
    """

    def __init__(self, network: SwinUNet | None = None, classes: int = 4) -> None:
        super().__init__()
        self.network = SwinUNet() if network is None else network
        self.classifier = swin_unet.classifier(self.network.width, classes)

    def forward(self, images: Tensor) -> Segmented:
        """Segment grey images (B, 1, S, S) in 0..1; S is the side of the network."""
        tokens = self.network(images)
        side = self.network.side // 8
        return Segmented(self.classifier(tokens.full), tokens.full, tokens.eighth.mT.unflatten(2, (side, side)))


def log_probabilities(networks: Collection[nn.Module], images: Tensor) -> Tensor:
    """Logarithms (B, C, H, W) of the class probabilities, averaged over the networks.

    Args:
        networks: :class:`UNetSegmenter` or :class:`SwinSegmenter`, all with the same classes.
        images: grey (B, 1, H, W) in 0..1, of a size that every network accepts.
    """
    answers = [network(images).logits.log_softmax(dim=1) for network in networks]
    return answers[0] if len(answers) == 1 else torch.stack(answers).logsumexp(dim=0) - math.log(len(answers))
