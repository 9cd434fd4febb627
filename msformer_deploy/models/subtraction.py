"""MSNet and M2SNet: Zhao et al., MICCAI 2021 (arXiv 2108.05082) and arXiv 2303.10894.

State-dict names as in Xiaoqi-Zhao-DLUT/MSNet-M2SNet, without the backbone's classifier. A pyramid of subtraction units
compares the backbone's features with one another, and the decoder adds up the differences, level by level. Where the
released code and the papers' figures disagree, this module follows the code: the features themselves are not added.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .res2net import Res2Net

MULTIPLE = 32  # the image side must be a multiple: the last stage of the backbone is 32 times smaller


class BoxFilter(nn.Module):
    """Convolution of ones over all channels and k x k pixels, then BatchNorm and ReLU.

    All output maps of such a convolution are equal: the sum over all channels and a box of pixels. This module computes
    one map; only the scale and shift of the norm differ between channels.

    The sum of 5 x 5 x 64 activations exceeds the range of fp16, and its variance exceeds it much earlier. So the box
    computes the mean, and the norm's stored statistics of the sum are scaled to match: with n terms in the sum,
    mean / n, variance / n^2 and epsilon / n^2 give the same result. A traced graph then holds no number beyond the
    range of fp16 either. The module still computes in float32, under autocast and after ``half()`` too: means vary
    little from pixel to pixel, and the norm would amplify the rounding of a half type.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.BatchNorm2d(channels)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BoxFilter:
        """Move and convert the module, but never to a half type."""

        def convert(tensor: Tensor) -> Tensor:
            converted = fn(tensor)
            return tensor.to(converted.device) if converted.dtype in (torch.float16, torch.bfloat16) else converted

        super()._apply(convert, recurse)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) of x (B, C, H, W), of the same dtype."""
        norm, size = self.norm, self.size
        assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
        assert norm.momentum is not None
        terms = x.shape[1] * size * size
        average = F.avg_pool2d(
            x.to(norm.weight.dtype).mean(dim=1, keepdim=True), size, stride=1, padding=size // 2, count_include_pad=True
        )
        mean, variance = norm.running_mean / terms, norm.running_var / terms**2
        maps = F.batch_norm(
            average.expand(-1, x.shape[1], -1, -1),
            mean,
            variance,
            norm.weight,
            norm.bias,
            norm.training,
            norm.momentum,
            norm.eps / terms**2,
        )
        if norm.training:
            norm.running_mean.copy_(mean * terms)
            norm.running_var.copy_(variance * terms**2)
            norm.num_batches_tracked += 1
        return F.relu(maps).to(x.dtype)


class SubtractionNet(nn.Module, ABC):
    """The common part of the two networks: backbone, pyramid and decoder.

    Args:
        channels: channels C of every map of the pyramid, and of the backbone's stem, which enters the pyramid
            unchanged. A smaller number keeps the structure and the names.
        layers: blocks in each of the backbone's four stages.
    """

    def __init__(self, channels: int = 64, layers: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.resnet = Res2Net(channels, layers)
        self.x5_dem_1 = _refine(32 * channels, channels)
        self.x4_dem_1 = _refine(16 * channels, channels)
        self.x3_dem_1 = _refine(8 * channels, channels)
        self.x2_dem_1 = _refine(4 * channels, channels)
        self.x5_x4 = _refine(channels, channels)
        self.x4_x3 = _refine(channels, channels)
        self.x3_x2 = _refine(channels, channels)
        self.x2_x1 = _refine(channels, channels)
        self.x5_x4_x3 = _refine(channels, channels)
        self.x4_x3_x2 = _refine(channels, channels)
        self.x3_x2_x1 = _refine(channels, channels)
        self.x5_x4_x3_x2 = _refine(channels, channels)
        self.x4_x3_x2_x1 = _refine(channels, channels)
        self.x5_dem_4 = _refine(channels, channels)
        self.x5_x4_x3_x2_x1 = _refine(channels, channels)
        self.level3 = _refine(channels, channels)
        self.level2 = _refine(channels, channels)
        self.level1 = _refine(channels, channels)
        self.x5_dem_5 = _refine(32 * channels, channels)
        self.output4 = _refine(channels, channels)
        self.output3 = _refine(channels, channels)
        self.output2 = _refine(channels, channels)
        self.output1 = nn.Sequential(nn.Conv2d(channels, 1, kernel_size=3, padding=1))

    @abstractmethod
    def difference(self, deeper: Tensor, shallower: Tensor) -> Tensor:
        """Difference (B, C, H, W) of two maps (B, C, H, W)."""

    def _subtract(self, refine: nn.Module, deeper: Tensor, shallower: Tensor) -> Tensor:
        """Subtraction unit: the refined difference, in the size of the shallower map."""
        return refine(self.difference(_resize(deeper, shallower), shallower))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1, S, S) of images (B, 3, S, S), RGB and normalised as in training.

        Raises:
            ValueError: S is not a multiple of 32, or the images have another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or any(side < 1 or side % MULTIPLE for side in images.shape[2:]):
            raise ValueError(
                f"images must have shape (B, 3, S, S) with S a multiple of {MULTIPLE}, got {tuple(images.shape)}"
            )
        e1, x2, x3, x4, x5 = self.resnet(images)
        e5, e4, e3, e2 = self.x5_dem_1(x5), self.x4_dem_1(x4), self.x3_dem_1(x3), self.x2_dem_1(x2)

        # Units share running statistics, which depend on the order of these lines.
        d54 = self._subtract(self.x5_x4, e5, e4)
        d43 = self._subtract(self.x4_x3, e4, e3)
        d32 = self._subtract(self.x3_x2, e3, e2)
        d21 = self._subtract(self.x2_x1, e2, e1)
        d543 = self._subtract(self.x5_x4_x3, d54, d43)
        d432 = self._subtract(self.x4_x3_x2, d43, d32)
        d321 = self._subtract(self.x3_x2_x1, d32, d21)
        d5432 = self._subtract(self.x5_x4_x3_x2, d543, d432)
        d4321 = self._subtract(self.x4_x3_x2_x1, d432, d321)
        d54321 = self._subtract(self.x5_x4_x3_x2_x1, self.x5_dem_4(d5432), d4321)

        level3 = self.level3(d43 + d543)
        level2 = self.level2(d32 + d432 + d5432)
        level1 = self.level1(d21 + d321 + d4321 + d54321)
        out = self.output4(_resize(self.x5_dem_5(x5), d54) + d54)
        out = self.output3(_resize(out, level3) + level3)
        out = self.output2(_resize(out, level2) + level2)
        out = self.output1(_resize(out, level1) + level1)
        return _resize(out, images)


class MSNet(SubtractionNet):
    """MSNet: units take the absolute difference, pixel by pixel."""

    def difference(self, deeper: Tensor, shallower: Tensor) -> Tensor:
        return (deeper - shallower).abs()


class M2SNet(SubtractionNet):
    """M2SNet: units also compare boxes of 3 x 3 and of 5 x 5 pixels; all units share the two norms."""

    def __init__(self, channels: int = 64, layers: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__(channels, layers)
        self.conv_3 = BoxFilter(channels, 3)
        self.conv_5 = BoxFilter(channels, 5)

    def difference(self, deeper: Tensor, shallower: Tensor) -> Tensor:
        return (
            (deeper - shallower).abs()
            + (self.conv_3(deeper) - self.conv_3(shallower)).abs()
            + (self.conv_5(deeper) - self.conv_5(shallower)).abs()
        )


def _refine(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution 3x3, norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize with half-pixel centres; equal sizes add no node to a graph."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
