"""The two networks of MCSC with their classifiers, as they learn from one another and as they are deployed.

Liu et al., BMVC 2023, arXiv 2306.14293, whose tests use the U-Net alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from . import swin_unet, unet
from .swin_unet import SwinUNet
from .unet import UNet

Answer = Literal["unet", "swin", "both"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)


class Segmented(NamedTuple):
    """What a network says of images, and the maps whose features are compared with the other network's."""

    logits: Tensor  # (B, C, H, W)
    full: Tensor  # (B, D1, H, W)
    coarse: Tensor  # (B, D2, H / 8, W / 8)


class UNetSegmenter(nn.Module):
    """The U-Net and its classifier.

    Args:
        network: by default of the published widths.
        classes: background among them.
    """

    def __init__(self, network: UNet | None = None, classes: int = 4) -> None:
        super().__init__()
        self.network = UNet() if network is None else network
        self.classifier = unet.classifier(self.network.widths[0], classes)

    def forward(self, images: Tensor) -> Segmented:
        """Grey images (B, 1, H, W) in 0..1, sides multiples of 16."""
        maps = self.network(images)
        return Segmented(self.classifier(maps.full), maps.full, maps.eighth)


class SwinSegmenter(nn.Module):
    """The Swin-UNet and its classifier.

    Args:
        network: by default of the published sizes.
        classes: background among them.
    """

    def __init__(self, network: SwinUNet | None = None, classes: int = 4) -> None:
        super().__init__()
        self.network = SwinUNet() if network is None else network
        self.classifier = swin_unet.classifier(self.network.width, classes)

    def forward(self, images: Tensor) -> Segmented:
        """Grey images (B, 1, S, S) in 0..1, of the network's side."""
        tokens = self.network(images)
        side = self.network.side // 8
        return Segmented(self.classifier(tokens.full), tokens.full, tokens.eighth.mT.unflatten(2, (side, side)))


class CoTrained(nn.Module):
    """The frozen forward pass of one of the two networks, or of both.

    Args:
        unet, swin: trained on the same classes; by default as published, and not trained.
        answer: whose probabilities are given: the U-Net's, the Swin-UNet's, or the mean of the two.

    Raises:
        ValueError: there is no such answer.
    """

    def __init__(
        self, unet: UNetSegmenter | None = None, swin: SwinSegmenter | None = None, answer: Answer = "unet"
    ) -> None:
        super().__init__()
        if answer not in ANSWERS:
            raise ValueError(f"answer must be one of {', '.join(ANSWERS)}, got {answer}")
        self.answer = answer
        self.unet = UNetSegmenter() if unet is None else unet
        self.swin = SwinSegmenter() if swin is None else swin

    def forward(self, images: Tensor) -> Tensor:
        """Class probabilities (B, C, H, W) of grey images (B, 1, H, W) in 0..1.

        H and W are the Swin-UNet's side; the U-Net alone takes any multiples of 16.
        """
        if self.answer == "unet":
            return _probabilities(self.unet, images)
        if self.answer == "swin":
            return _probabilities(self.swin, images)
        return (_probabilities(self.unet, images) + _probabilities(self.swin, images)) / 2


def _probabilities(network: nn.Module, images: Tensor) -> Tensor:
    segmented: Segmented = network(images)
    return segmented.logits.softmax(dim=1)
