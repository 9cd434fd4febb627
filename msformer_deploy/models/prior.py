"""The prior: a small network that knows what a figure on a ground is, trained on synthetic scenes alone.

A U-Net (Ronneberger et al., MICCAI 2015) with residual blocks (He et al., CVPR 2016). It works from half the image's
side downwards and returns to the full side by moving channels into space (Shi et al., CVPR 2016), so that the costly
maps of full size are left out. Every operator is a plain one of ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

WIDTHS = (16, 32, 64, 96, 160)  # channels at a half, quarter, ... of the side
MULTIPLE = 2 ** len(WIDTHS)  # of which height and width must be
PROMPTS = 3  # channels: positive points, negative points, box
SIDE = 96  # pixels, at which the network is trained
_FLATTEST = 1e-2  # added to the deviation of the intensities, so that a flat image is not divided by 0


class Down(nn.Module):
    """Halve a map, then add two 3x3 convolutions to it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve = _convolution(inputs, outputs, stride=2)
        self.first = _convolution(outputs, outputs)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.rectify = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(x)
        return self.rectify(x + self.second(self.first(x)))


class Up(nn.Module):
    """Double a coarse map, put the fine one beside it, then convolve twice."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, fine, 1)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.convolve = nn.Sequential(_convolution(2 * fine, fine), _convolution(fine, fine))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return self.convolve(torch.cat([fine, self.enlarge(self.reduce(coarse))], dim=1))


class Prior(nn.Module):
    """A network that gives the logit of "this pixel is figure" from an image and prompts.

    Args:
        widths: numbers of channels of the levels, fine to coarse.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3 + PROMPTS, widths[0], 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        self.down = nn.ModuleList(Down(*pair) for pair in pairwise(widths))
        self.whole = nn.Conv2d(widths[-1], widths[-1], 1)  # of the mean over the map: what kind of image this is
        self.up = nn.ModuleList(Up(*pair) for pair in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.head = nn.Sequential(nn.Conv2d(widths[0], 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, images: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Logits (B, 1, H, W).

        Args:
            images: float32 (B, 3, H, W), RGB in 0..1; H and W are multiples of 32. Brightness and contrast of an image
                do not matter: its mean over all channels becomes 0 and its deviation 1.
            prompts: float32 (P, 3, H, W) in 0..1, zeros where there is no prompt: discs around positive points, discs
                around negative points, 1 inside the box. P divides B: each is for the next B / P images. None means no
                prompts at all.
        """
        centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
        deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        maps = [self._begin(centred / (deviation + _FLATTEST), prompts)]
        for down in self.down:
            maps.append(down(maps[-1]))
        x = maps.pop()
        x = x + self.whole(x.mean(dim=(2, 3), keepdim=True))
        for up in self.up:
            x = up(x, maps.pop())
        return self.head(x)

    def _begin(self, images: Tensor, prompts: Tensor | None) -> Tensor:
        convolution, *rest = self.stem
        assert isinstance(convolution, nn.Conv2d)
        kernel, stride, padding = convolution.weight, convolution.stride, convolution.padding
        x = F.conv2d(images, kernel[:, :3], convolution.bias, stride, padding)
        # A convolution is linear: prompts add to what the image gives, and those that are zeros add nothing.
        if prompts is not None:
            shown = F.conv2d(prompts, kernel[:, 3:], None, stride, padding)
            if len(shown) != len(x):
                x = torch.cat(
                    [part + own for part, own in zip(x.chunk(len(shown)), shown.chunk(len(shown)), strict=True)]
                )
            else:
                x = x + shown
        for each in rest:
            x = each(x)
        return x


def fused(prior: Prior) -> Prior:
    """A copy in evaluation mode whose batch normalisations are part of its convolutions; results agree to rounding."""
    copy = deepcopy(prior).eval()
    for layers in [each for each in copy.modules() if isinstance(each, nn.Sequential)]:
        for index, (first, second) in enumerate(pairwise(layers)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                layers[index], layers[index + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return copy


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
