"""Res2Net-50 v1b, 26w x 4s: Gao et al., "Res2Net: a new multi-scale backbone architecture" (TPAMI 2021).

State-dict names as in the public Res2Net code; version 1b has a stem of three 3x3 convolutions and pools before the
strided shortcuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

SCALE = 4  # groups of channels in a block; each also gets the output of the group before it
EXPANSION = 4  # output channels of a block divided by the channels of its stage
BASE_WIDTH = 26  # channels of a group for every 64 channels of a stage


class Stages(NamedTuple):
    """Features of images (B, 3, S, S); C is the number of channels of the stem."""

    x1: Tensor  # (B, C, S/4, S/4)
    x2: Tensor  # (B, 4C, S/4, S/4)
    x3: Tensor  # (B, 8C, S/8, S/8)
    x4: Tensor  # (B, 16C, S/16, S/16)
    x5: Tensor  # (B, 32C, S/32, S/32)


class Bottle2neck(nn.Module):
    """Residual block whose 3x3 convolution is split over four groups of channels.

    Args:
        inputs: input channels.
        planes: channels of the stage; the block has 4 times as many output channels.
        stride: stride of the 3x3 convolutions and of the shortcut.
        opens_stage: whether this is the first block of a stage. In a first block, the groups do not feed one another,
            the fourth group is pooled instead of passed through, and the shortcut changes size and channels.
    """

    def __init__(self, inputs: int, planes: int, stride: int = 1, *, opens_stage: bool = False) -> None:
        super().__init__()
        width, outputs = planes * BASE_WIDTH // 64, planes * EXPANSION
        self.conv1 = nn.Conv2d(inputs, SCALE * width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(SCALE * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False) for _ in range(SCALE - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(SCALE - 1))
        self.conv3 = nn.Conv2d(SCALE * width, outputs, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.opens_stage = opens_stage
        if opens_stage:
            self.pool = nn.AvgPool2d(kernel_size=3, stride=stride, padding=1)
            self.downsample = nn.Sequential(
                nn.AvgPool2d(kernel_size=stride, stride=stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(inputs, outputs, kernel_size=1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        *groups, last = self.relu(self.bn1(self.conv1(x))).chunk(SCALE, dim=1)
        found: list[Tensor] = []
        for group, conv, norm in zip(groups, self.convs, self.bns, strict=True):
            seen = group if self.opens_stage or not found else found[-1] + group
            found.append(self.relu(norm(conv(seen))))
        found.append(self.pool(last) if self.opens_stage else last)
        out = self.bn3(self.conv3(torch.cat(found, dim=1)))
        return self.relu(out + (self.downsample(x) if self.opens_stage else x))


class Res2Net(nn.Module):
    """The backbone without its classifier; a state dict with a classifier (``fc``) loads too.

    Args:
        channels: channels C of the stem and of the first stage; a smaller number keeps the structure.
        layers: blocks in each of the four stages.
    """

    def __init__(self, channels: int = 64, layers: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        stem = channels // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, stem, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem, stem, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem, channels, kernel_size=3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        first, second, third, fourth = layers
        self.layer1 = _stage(channels, channels, first, stride=1)
        self.layer2 = _stage(4 * channels, 2 * channels, second, stride=2)
        self.layer3 = _stage(8 * channels, 4 * channels, third, stride=2)
        self.layer4 = _stage(16 * channels, 8 * channels, fourth, stride=2)
        self.register_load_state_dict_pre_hook(_without_classifier)

    def forward(self, images: Tensor) -> Stages:
        x1 = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x2 = self.layer1(x1)
        x3 = self.layer2(x2)
        x4 = self.layer3(x3)
        return Stages(x1, x2, x3, x4, self.layer4(x4))


def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottle2neck(inputs, planes, stride, opens_stage=True)
    return nn.Sequential(first, *(Bottle2neck(EXPANSION * planes, planes) for _ in range(blocks - 1)))


def _without_classifier(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Drop the classifier from a state dict that is loaded; load_state_dict works on a copy."""
    for name in ("fc.weight", "fc.bias"):
        state.pop(prefix + name, None)
