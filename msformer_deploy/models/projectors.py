"""The projectors of MCSC: they map the features of both networks to unit vectors of one space, at each of two scales.

Liu et al., BMVC 2023, arXiv 2306.14293. Only the contrastive loss uses them; they are not deployed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 256
OUTPUTS = 128


class Projector(nn.Module):
    """A 1x1 convolution for each network, ReLU, and a shared 1x1 convolution: each pixel is projected alone.

    Args:
        cnn: channels of the convolutional network's map.
        transformer: channels of the transformer's map.
        hidden, outputs: channels between and after the convolutions.
        norm: apply a LayerNorm over the channels of the transformer's map first.
    """

    def __init__(
        self, cnn: int, transformer: int, hidden: int = HIDDEN, outputs: int = OUTPUTS, norm: bool = False
    ) -> None:
        super().__init__()
        self.cnn = nn.Conv2d(cnn, hidden, kernel_size=1)
        self.norm = nn.LayerNorm(transformer) if norm else nn.Identity()
        self.transformer = nn.Conv2d(transformer, hidden, kernel_size=1)
        self.shared = nn.Conv2d(hidden, outputs, kernel_size=1)

    def forward(self, cnn: Tensor, transformer: Tensor) -> Tensor:
        """Unit vectors (2B, D, H, W): those of the convolutional network's maps, then those of the transformer's.

        Args:
            cnn: (B, C1, H, W).
            transformer: (B, C2, H, W).
        """
        normed = self.norm(transformer.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        hidden = torch.cat([self.cnn(cnn), self.transformer(normed)])
        return F.normalize(self.shared(F.relu(hidden)), dim=1)


class Projectors(nn.Module):
    """The projectors for maps of the full image size and for maps of an eighth of it.

    Args:
        unet: channels of the U-Net's maps at the two scales.
        swin: channels of the Swin-UNet's maps at the two scales.
        hidden, outputs: as in :class:`Projector`.
    """

    def __init__(
        self,
        unet: tuple[int, int] = (16, 128),
        swin: tuple[int, int] = (96, 192),
        hidden: int = HIDDEN,
        outputs: int = OUTPUTS,
    ) -> None:
        super().__init__()
        self.full = Projector(unet[0], swin[0], hidden, outputs)
        self.coarse = Projector(unet[1], swin[1], hidden, outputs, norm=True)

    def forward(self, unet: tuple[Tensor, Tensor], swin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Unit vectors at both scales, as :class:`Projector` returns them.

        Args:
            unet, swin: maps at the full and at the coarse scale.
        """
        return self.full(unet[0], swin[0]), self.coarse(unet[1], swin[1])
