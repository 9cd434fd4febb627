"""LossNet: the difference between prediction and mask in the features of a frozen VGG-16, at four depths.

Zhao et al., MICCAI 2021, arXiv 2108.05082. VGG-16: Simonyan and Zisserman, arXiv 1409.1556. The user provides its
weights, named as in torchvision.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise
from ..weights.checkpoint_import import check_weights, read_weights

SIDE = 224  # pixels, side of VGG-16's training images
CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))  # output channels; pooled between tuples


class LossNet(nn.Module):
    """Mean squared difference between VGG-16's features of prediction and mask, summed over four depths.

    Args:
        weights: a .safetensors or .pth file of VGG-16; weights of other layers are ignored.

    Raises:
        UsageError: the file cannot be read, or does not hold VGG-16.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.depths: list[int] = []  # index of the layer after each depth
        inputs = 3
        for block in CONVOLUTIONS:
            if layers:
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            for outputs in block:
                layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ReLU()]
                inputs = outputs
            self.depths.append(len(layers))
        self.features = nn.Sequential(*layers)
        expected = self.state_dict()
        found = {name: tensor for name, tensor in read_weights(weights).items() if name in expected}
        check_weights(found, expected, weights, "VGG-16, named as in torchvision")
        self.load_state_dict(found)
        self.requires_grad_(False)
        self.normalise = Normalise(nn.Identity(), IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss of logits (B, 1, H, W) against masks (B, 1, H, W) in 0..1: a float32 scalar.

        Only the logits get a gradient.
        """
        seen = self._prepare(logits.float().sigmoid())
        with torch.no_grad():
            wanted = self._prepare(masks.float())
        loss = logits.new_zeros((), dtype=torch.float32)
        start = 0
        for end in self.depths:
            piece = self.features[start:end]
            seen = piece(seen)
            with torch.no_grad():
                wanted = piece(wanted)
            loss = loss + F.mse_loss(seen.float(), wanted.float())
            start = end
        return loss

    def _prepare(self, maps: Tensor) -> Tensor:
        images: Tensor = self.normalise(maps.expand(-1, 3, -1, -1))
        return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
