"""Random weights of VGG-16's features, by torchvision's names."""

from __future__ import annotations

import torch

CONVOLUTIONS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
CONVOLUTIONS |= {17: (256, 512), 19: (512, 512), 21: (512, 512)}


def weights() -> dict[str, torch.Tensor]:
    """Weights by torchvision's names, some of them of layers that come later."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for index, (inputs, outputs) in CONVOLUTIONS.items():
        scale = (2 / (9 * inputs)) ** 0.5
        state[f"features.{index}.weight"] = scale * torch.randn(outputs, inputs, 3, 3, generator=generator)
        state[f"features.{index}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return state | {"features.24.bias": torch.zeros(512), "classifier.6.bias": torch.zeros(1000)}
