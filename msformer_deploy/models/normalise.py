"""Normalisation of images to the scale of a network's training, as a part of the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Per channel, RGB in 0..1: mean and deviation of the ImageNet training images, as torchvision states them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """A network for images in 0..1: computes (image - mean) / std, then the network.

    Args:
        network: takes normalised images (B, C, H, W).
        mean, std: one per channel, of images in 0..1. They are settings, not weights: no state dict holds them.

    Raises:
        ValueError: mean and std are not of one length, or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean {tuple(mean)} and std {tuple(std)} must be of one length, each std above 0")
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Output of the network for images (B, C, H, W) in 0..1."""
        return self.network((images - self.mean) / self.std)
