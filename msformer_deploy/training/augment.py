"""Flip, rotation and scale of a batch, in one interpolation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(pictures: Tensor, flips: Tensor, degrees: Tensor, side: int) -> Tensor:
    """Flip, turn and resize square pictures with bilinear interpolation; what comes from outside is 0.

    Give it images that are normalised already, as the public code of MSNet turns them (Xiaoqi-Zhao-DLUT/MSNet-M2SNet),
    and masks with the same numbers.

    Args:
        pictures: (B, C, S, S).
        flips: bool (B,), left and right change sides.
        degrees: (B,), counter-clockwise as seen, after the flip, about the centre.
        side: of the result, pixels.

    Returns:
        (B, C, side, side) of the same type.
    """
    angles = degrees.to(pictures) * (math.pi / 180)
    signs = 1 - 2 * flips.to(pictures)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # From a place in the result to the place in the picture that is seen there: turned back, then flipped back.
    rows = [torch.stack([signs * cos, -signs * sin, zero], dim=1), torch.stack([sin, cos, zero], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), [*pictures.shape[:2], side, side], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
