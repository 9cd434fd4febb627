"""S3-Net: Karimijafarbigloo et al., ICCVW 2023 (CVAMD), arXiv 2309.00143; state-dict names as in xmindflow/SSCT."""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .deformable import TAPS, deform_conv, frozen_deform_conv

LARGE_KERNELS = ((3, 1), (5, 2), (7, 3))  # side and dilation


class S3Output(NamedTuple):
    """Outputs of a full forward pass."""

    logits: Tensor  # (B, K, S, S)
    auxiliary: Tensor  # (B, K, S, S), logits taken before the deformable convolution; not rotated


class ChannelNorm(nn.BatchNorm2d):
    """BatchNorm2d as the published code uses it: batch of one, train mode, so each image has its own statistics.

    It is a subclass of BatchNorm2d only so that the published state dict, with its running statistics, loads strictly.
    The statistics are never read or written, and each image of a batch is normalised alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every channel of every image of ``x`` (B, C, H, W) over its own pixels."""
        x = x.to(self.weight.dtype)  # autocast may give a half type
        if torch.is_grad_enabled():
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        # Along rows first: a runtime that sums all pixels in one float loses digits.
        centred = x - _mean(x)
        scale = self.weight[:, None, None] * (_mean(centred.square()) + self.eps).rsqrt()
        return centred * scale + self.bias[:, None, None]


class LargeKernelGate(nn.Module):
    """Inception-like large-kernel attention: depthwise convolutions of growing size are mixed and scale their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(width, width, kernel_size=5, padding=2, groups=width)
        self.spatial_convs = nn.ModuleList(
            nn.Conv2d(width, width, kernel_size=side, padding=side // 2 * step, dilation=step, groups=width)
            for side, step in LARGE_KERNELS
        )
        self.conv1 = nn.Conv2d(len(LARGE_KERNELS) * width, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv0(x)
        gate: Tensor = self.conv1(torch.cat([conv(near) for conv in self.spatial_convs], dim=1))
        return x * gate


class AttentionBlock(nn.Module):
    """Residual block around the gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_1x1_1 = nn.Conv2d(width, width, kernel_size=1)
        self.spatial_gating = LargeKernelGate(width)
        self.proj_1x1_2 = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.proj_1x1_2(self.spatial_gating(F.gelu(self.proj_1x1_1(x))))
        return x + added


class DeformableConv(nn.Module):
    """A deformable convolution whose offsets and factors are parameters, one for every pixel."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        # Uniform in [0, 1), factors and weights included, as published; the norm after it removes the scale.
        self.weight = nn.Parameter(torch.rand(width, width, 3, 3))
        self.offset = nn.Parameter(torch.rand(1, 2 * TAPS, side, side))
        self.mask = nn.Parameter(torch.rand(1, TAPS, side, side))

    def forward(self, x: Tensor) -> Tensor:
        return deform_conv(x, self.weight, self.offset, self.mask)


class S3Net(nn.Module):
    """The self-guided network: stem, attention blocks, a deformable convolution, a head, and an auxiliary head.

    Args:
        side: image side S; the offsets of the deformable convolution fix it.
        width: channels C of every layer, and the number of clusters K.
        blocks: attention blocks.

    Raises:
        ValueError: a size is out of range.
    """

    def __init__(self, side: int = 256, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        for name, value, minimum in (("side", side, 2), ("width", width, 2), ("blocks", blocks, 1)):
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {value}")
        self.side, self.width, self.clusters = side, width, width
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, padding=1)
        self.bn1 = ChannelNorm(width)
        self.conv2 = nn.ModuleList(AttentionBlock(width) for _ in range(blocks))
        self.bn2 = nn.ModuleList(ChannelNorm(width) for _ in range(blocks))
        self.convdeform = DeformableConv(side, width)
        self.bn3 = ChannelNorm(width)
        self.conv3 = nn.Conv2d(width, width, kernel_size=1)
        self.bn4 = ChannelNorm(width)
        self.conv_aux = nn.Conv2d(width, width, kernel_size=1)
        self.bn_aux = ChannelNorm(width)

    def attend(self, images: Tensor) -> Tensor:
        """Output of the stem and the attention blocks (B, C, S, S) for images (B, 3, S, S), BGR in 0..1."""
        if images.shape[1:] != (3, self.side, self.side):
            raise ValueError(f"images must have shape (B, 3, {self.side}, {self.side}), got {tuple(images.shape)}")
        x: Tensor = self.bn1(self.conv1(images))
        for block, norm in zip(self.conv2, self.bn2, strict=True):
            x = norm(block(x))
        return x

    def sample(self, attended: Tensor) -> Tensor:
        """Output of the deformable convolution and its norm (B, C, S, S) for the output of :meth:`attend`."""
        sampled: Tensor = self.bn3(self.convdeform(attended))
        return sampled

    def encode(self, images: Tensor, *, deformable: bool) -> Tensor:
        """Features (B, C, S, S): the output of :meth:`attend`, or of :meth:`sample` with ``deformable``."""
        attended = self.attend(images)
        return self.sample(attended) if deformable else attended

    def scores_of(self, sampled: Tensor) -> Tensor:
        """Cluster logits (B, K, S, S) for the output of :meth:`sample`."""
        logits: Tensor = self.bn4(self.conv3(sampled))
        return logits

    def auxiliary(self, attended: Tensor) -> Tensor:
        """Logits (B, K, S, S) of the auxiliary head for the output of :meth:`attend`."""
        scores: Tensor = self.bn_aux(self.conv_aux(attended))
        return scores

    def forward(self, images: Tensor) -> S3Output:
        attended = self.attend(images)
        return S3Output(self.scores_of(self.sample(attended)), self.auxiliary(attended))

    def scores(self, images: Tensor) -> Tensor:
        """Cluster logits (B, K, S, S) of images (B, 3, S, S), BGR in 0..1."""
        return self(images).logits


class S3Features(NamedTuple):
    """Outputs of the frozen encoder."""

    features: Tensor  # (B, C, S, S)


class S3Encoder(nn.Module):
    """Images (B, 3, S, S), BGR in 0..1, to :class:`S3Features`; later changes of ``model`` have no effect.

    Args:
        model: the network whose weights are copied.
        deformable: end with the deformable convolution, at its fixed sampling points, and its norm. Without training,
            its offsets and factors are noise from pixel to pixel, and all its weights are positive, so its channels are
            similar. Masks are better without it on all data sets that were measured (``docs/explanation/s3net.md``).
    """

    def __init__(self, model: S3Net, *, deformable: bool = False) -> None:
        super().__init__()
        self._model = deepcopy(model).requires_grad_(False)
        self.deformable = deformable

    def forward(self, images: Tensor) -> S3Features:
        attended = self._model.attend(images)
        if not self.deformable:
            return S3Features(attended)
        sampled: DeformableConv = self._model.convdeform
        return S3Features(self._model.bn3(frozen_deform_conv(attended, sampled.weight, sampled.offset, sampled.mask)))


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
