"""The augmentation of images and masks in a batch: one geometric transform, and changes of brightness and colour."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Views(NamedTuple):
    """The geometric transform of each of B square pictures.

    Attributes:
        flips: bool (B,), flip horizontally.
        degrees: (B,), rotation after the flip, counter-clockwise, about the centre of the result.
        zooms: (B,), factors; above 1 enlarges.
        shifts: (B, 2) in -1..1, of columns and rows: the visible part of an enlarged picture, from one border to the
            other, or the position of a reduced picture in the result.
    """

    flips: Tensor
    degrees: Tensor
    zooms: Tensor
    shifts: Tensor


def warp(pictures: Tensor, views: Views, side: int) -> Tensor:
    """Transform square pictures and resize them, in one bilinear interpolation; pixels from outside are 0.

    Pass images that are already normalised, as the public code of MSNet does (Xiaoqi-Zhao-DLUT/MSNet-M2SNet), and masks
    with the same views.

    Args:
        pictures: (B, C, S, S).
        views: the transform of each picture.
        side: side of the result, pixels.

    Returns:
        (B, C, side, side) of the same dtype.
    """
    flips, degrees, zooms, shifts = (each.to(pictures) for each in views)
    angles, signs, spans = degrees * (math.pi / 180), 1 - 2 * flips, 1 / zooms
    cos, sin, (across, down) = spans * angles.cos(), spans * angles.sin(), (1 - spans).abs() * shifts.T
    # The matrix maps a position in the result to its position in the picture: it rotates back, then flips back.
    rows = [torch.stack([signs * cos, -signs * sin, across], dim=1), torch.stack([sin, cos, down], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), [*pictures.shape[:2], side, side], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def recolour(images: Tensor, gammas: Tensor, gains: Tensor) -> Tensor:
    """Change gamma and brightness of images.

    Args:
        images: (B, 3, S, S) in 0..1.
        gammas: (B,), exponents.
        gains: (B, 3), factors of each channel.

    Returns:
        images ** gamma * gain, clipped at 1.
    """
    return (images ** gammas.view(-1, 1, 1, 1) * gains[..., None, None]).clamp_(max=1)
