"""LossNet: how far prediction and mask are apart in the eyes of VGG-16, at four depths. It learns nothing itself.

Zhao et al., MICCAI 2021, arXiv 2108.05082. VGG-16 is that of Simonyan and Zisserman, arXiv 1409.1556, with weights
named as in torchvision, from a file of the user's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise
from ..weights.checkpoint_import import check_weights, read_weights

SIDE = 224  # pixels, of the images VGG-16 learned from
CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))  # output channels; pooled between the tuples


class LossNet(nn.Module):
    """Mean squared difference of VGG-16's features of prediction and mask, summed over four depths.

    Args:
        weights: a .safetensors or .pth file of VGG-16; what is not needed of it is not looked at.

    Raises:
        UsageError: the file cannot be read, or holds no VGG-16.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.depths: list[int] = []  # where each piece of the layers ends
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
        """The loss of logits (B, 1, H, W) against masks (B, 1, H, W) in 0..1: scalar, float32.

        Gradients flow into the logits alone.
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
