"""Trained networks as every bundle has its encoder: BGR images in 0..1 to scores, which are the features of a head.

The head of such a bundle is no weight but says how scores are compared, so that what learns on its image and what was
trained beforehand run through the same graphs and backends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .mcsc import Answer, SwinSegmenter, UNetSegmenter, log_probabilities
from .normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise
from .subtraction import M2SNet, MSNet
from .swin_unet import SwinUNet
from .unet import UNet

BGR_TO_GREY = (0.114, 0.587, 0.299)  # ITU-R BT.601; of equal channels it is their value
BLOCKS_PER_STAGE = (1, 4 / 3, 2, 1)  # of Res2Net-50 over those of its first stage: 3, 4, 6 and 3


class Scores(NamedTuple):
    """What a deployed network gives."""

    features: Tensor  # (B, C, S, S): one logit of the object, or a logit of each class


class ObjectNetwork(nn.Module):
    """MSNet or M2SNet: one logit a pixel.

    Args:
        network: which of the two.
        channels: of its pyramid.
        blocks: of the backbone's first stage; 3 as published.
    """

    def __init__(self, network: Literal["msnet", "m2snet"], channels: int = 64, blocks: int = 3) -> None:
        super().__init__()
        layers = [int(blocks * factor) for factor in BLOCKS_PER_STAGE]
        built = (MSNet if network == "msnet" else M2SNet)(channels, layers)
        self.normalised = Normalise(built, IMAGENET_MEAN, IMAGENET_STD).eval()

    def forward(self, images: Tensor) -> Scores:
        return Scores(self.normalised(torch.stack([images[:, 2], images[:, 1], images[:, 0]], dim=1)))

    @staticmethod
    def head() -> Tensor:
        """(2, 1): background where the logit is below 0, object where it is above."""
        return torch.tensor([[-1.0], [1.0]])


class SliceNetwork(nn.Module):
    """MCSC's networks on grey slices: the logarithm of each class's probability, that of both networks' mean.

    Args:
        answer: whose: the U-Net's, the Swin-UNet's, or the mean of the two.
        side: of the slices.
        classes: background among them.
        unet: arguments of :class:`.unet.UNet`.
        swin: arguments of :class:`.swin_unet.SwinUNet`.
    """

    def __init__(
        self,
        answer: Answer = "unet",
        side: int = 224,
        classes: int = 4,
        unet: Mapping[str, Any] | None = None,
        swin: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.sizes = {"unet": dict(unet or {}), "swin": dict(swin or {})}  # plain data, from which it is built again
        self.networks = nn.ModuleDict()
        if answer != "swin":
            self.networks["unet"] = UNetSegmenter(UNet(**self.sizes["unet"]), classes)
        if answer != "unet":
            self.networks["swin"] = SwinSegmenter(SwinUNet(side, **self.sizes["swin"]), classes)
        self.eval()

    def forward(self, images: Tensor) -> Scores:
        blue, green, red = (share * images[:, channel : channel + 1] for channel, share in enumerate(BGR_TO_GREY))
        return Scores(log_probabilities(self.networks.values(), blue + green + red))

    @property
    def width(self) -> int:
        """Channels of the finest map, the U-Net's where there are two networks."""
        first = next(iter(self.networks.values()))
        assert isinstance(first, UNetSegmenter | SwinSegmenter)
        return first.classifier.in_channels

    def head(self) -> Tensor:
        """(K, K): each class has its own score."""
        return torch.eye(self.classes)


class Inside(nn.Module):
    """The probability that a pixel is not background, from the scores of a trained network."""

    def forward(self, scores: Tensor) -> Tensor:
        """Probability (B, H, W).

        Args:
            scores: float32 (B, C, H, W), one logit of an object, or the logarithm of each class's probability.
        """
        return scores[:, 0].sigmoid() if scores.shape[1] == 1 else 1 - scores.softmax(dim=1)[:, 0]


def at_size(scores: Tensor, head: Tensor, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Class ids (H, W) and the probability (H, W) that a pixel is not background.

    Scores are resized before they are compared, bilinearly and with half-pixel centres, which leaves no steps on
    outlines.

    Args:
        scores: float32 (C, S, S), one logit of an object, or the logarithm of each class's probability.
        head: (K, C), see the ``head`` of the network.
        height, width: of the image.
    """
    resized = F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    # Classes last, where argmax is eight times as fast on a CPU.
    labels = (resized.flatten(1).T @ head.T).argmax(dim=1).view(height, width)
    return labels.to(torch.uint8).numpy(), Inside()(resized[None])[0].numpy()
