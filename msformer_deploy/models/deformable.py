"""Modulated deformable convolution (Zhu et al., "Deformable ConvNets v2", CVPR 2019, equation 1) in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.ops import NAMESPACE

TAPS = 9  # of a 3x3 kernel, row by row


def deform_conv(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    """3x3 convolution, stride 1 and padding 1. An offset moves each tap, and a factor scales it.

    Values between pixels are bilinear; values outside the image are 0. Differentiable in all arguments.

    Args:
        x: images (B, C, H, W).
        weight: (D, C, 3, 3); there is no bias.
        offset: (1, 18, H, W), shared by the batch: for each tap the pair (down, right), in pixels.
        mask: (1, 9, H, W), the factor of each tap.

    Returns:
        (B, D, H, W).
    """
    batch, channels, height, width = x.shape
    # All taps in one call, stacked along the rows.
    grid = sampling_grid(offset).reshape(1, TAPS * height, width, 2).expand(batch, -1, -1, -1)
    taps = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    taps = taps.view(batch, channels, TAPS, height, width) * mask
    return F.conv2d(taps.flatten(1, 2), weight.flatten(2).flatten(1)[:, :, None, None])


def sampling_grid(offset: Tensor) -> Tensor:
    """Sampling points of the taps (9, H, W, 2), as (x, y); -1 and 1 are the centres of the outermost pixels.

    Args:
        offset: as in :func:`deform_conv`.
    """
    height, width = offset.shape[2:]
    pairs = offset.view(TAPS, 2, height, width)
    taps = torch.arange(TAPS, device=offset.device)
    rows, columns = (torch.arange(size, device=offset.device) for size in (height, width))
    down = pairs[:, 0] + (rows[:, None] + (taps // 3 - 1)[:, None, None])
    right = pairs[:, 1] + (columns + (taps % 3 - 1)[:, None, None])
    return torch.stack([2 * right / (width - 1) - 1, 2 * down / (height - 1) - 1], dim=3)


OPERATOR = "deform_conv"

# The frozen encoder calls this operator, so that the exporter emits one ONNX DeformConv and not its parts.
frozen_deform_conv = torch.library.custom_op(f"{NAMESPACE}::{OPERATOR}", deform_conv, mutates_args=())


@frozen_deform_conv.register_fake
def _shape(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], *x.shape[2:]))
