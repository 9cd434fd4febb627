"""The convolutional network of MCSC (Liu et al., BMVC 2023, arXiv 2306.14293), names as in kathyliu579/MCSC.

PyMIC's variant of the U-Net (Ronneberger et al., MICCAI 2015). Its decoder doubles the size of a map by a 1x1
convolution and bilinear interpolation with aligned corners, not by a transposed convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64, 128, 256)
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)
MULTIPLE = 2 ** (len(WIDTHS) - 1)  # height and width must be multiples


class DecoderMaps(NamedTuple):
    """Outputs of the decoder, coarse to fine."""

    eighth: Tensor  # (B, 128, H / 8, W / 8), widths as published
    quarter: Tensor  # (B, 64, H / 4, W / 4)
    half: Tensor  # (B, 32, H / 2, W / 2)
    full: Tensor  # (B, 16, H, W)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and LeakyReLU, dropout between them."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv_conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(outputs, outputs, kernel_size=3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_conv(x)


class DownBlock(nn.Module):
    """Halve a map, then convolve."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), ConvBlock(inputs, outputs, dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class UpBlock(nn.Module):
    """Double a map to the size of the encoder's map, concatenate both, the encoder's first, then convolve."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(inputs, outputs, kernel_size=1)
        self.conv = ConvBlock(2 * outputs, outputs, dropout=0.0)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        doubled = F.interpolate(self.conv1x1(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.conv(torch.cat([skip, doubled], dim=1))


class Encoder(nn.Module):
    def __init__(self, widths: Sequence[int], dropout: Sequence[float]) -> None:
        super().__init__()
        self.in_conv = ConvBlock(1, widths[0], dropout[0])
        self.down1 = DownBlock(widths[0], widths[1], dropout[1])
        self.down2 = DownBlock(widths[1], widths[2], dropout[2])
        self.down3 = DownBlock(widths[2], widths[3], dropout[3])
        self.down4 = DownBlock(widths[3], widths[4], dropout[4])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps fine to coarse, each half the size of the one before."""
        maps = [self.in_conv(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            maps.append(down(maps[-1]))
        return maps


class Decoder(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.up1 = UpBlock(widths[4], widths[3])
        self.up2 = UpBlock(widths[3], widths[2])
        self.up3 = UpBlock(widths[2], widths[1])
        self.up4 = UpBlock(widths[1], widths[0])

    def forward(self, maps: Sequence[Tensor]) -> DecoderMaps:
        eighth = self.up1(maps[4], maps[3])
        quarter = self.up2(eighth, maps[2])
        half = self.up3(quarter, maps[1])
        return DecoderMaps(eighth, quarter, half, self.up4(half, maps[0]))


class UNet(nn.Module):
    """U-Net: grey images (B, 1, H, W), H and W multiples of 16, to the four maps of the decoder.

    The published module ends in an unused ``out_conv``, which :func:`classifier` replaces; loading drops it.

    Args:
        widths: channels of the five levels, fine to coarse.
        dropout: dropout rate of each level of the encoder.

    Raises:
        ValueError: there are not five widths and five dropout rates.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, dropout: Sequence[float] = DROPOUT) -> None:
        super().__init__()
        if not len(widths) == len(dropout) == len(WIDTHS):
            raise ValueError(f"there are {len(WIDTHS)} levels, got {len(widths)} widths and {len(dropout)} dropouts")
        self.widths = tuple(widths)
        self.encoder = Encoder(widths, dropout)
        self.decoder = Decoder(widths)
        self.register_load_state_dict_pre_hook(_without_out_conv)

    def forward(self, images: Tensor) -> DecoderMaps:
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[2] % MULTIPLE or images.shape[3] % MULTIPLE:
            shape = tuple(images.shape)
            raise ValueError(f"images must have shape (B, 1, H, W), H and W multiples of {MULTIPLE}, got {shape}")
        return self.decoder(self.encoder(images))


def classifier(width: int = WIDTHS[0], classes: int = 4) -> nn.Conv2d:
    """A 3x3 convolution from the full-size map to class logits; Xavier normal initialisation."""
    made = nn.Conv2d(width, classes, kernel_size=3, padding=1)
    nn.init.xavier_normal_(made.weight)
    return made


def _without_out_conv(_: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
    for name in ("weight", "bias"):
        state.pop(f"{prefix}decoder.out_conv.{name}", None)
