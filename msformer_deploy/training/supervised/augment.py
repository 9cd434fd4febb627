"""How images and masks of a batch are varied: seen otherwise, in one interpolation, and in other light."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Views(NamedTuple):
    """How each of B square pictures is seen.

    Attributes:
        flips: bool (B,), left and right change sides.
        degrees: (B,), counter-clockwise as seen, after the flip, about the centre of what is seen.
        zooms: (B,), above 1 enlarges.
        shifts: (B, 2) in -1..1, of columns and rows: which part is seen of an enlarged picture, from one border to the
            other, or where in the view a reduced one is.
    """

    flips: Tensor
    degrees: Tensor
    zooms: Tensor
    shifts: Tensor


def warp(pictures: Tensor, views: Views, side: int) -> Tensor:
    """Show square pictures otherwise, and resize them, with bilinear interpolation; what comes from outside is 0.

    Give it images that are normalised already, as the public code of MSNet turns them (Xiaoqi-Zhao-DLUT/MSNet-M2SNet),
    and masks with the same numbers.

    Args:
        pictures: (B, C, S, S).
        views: of each.
        side: of the result, pixels.

    Returns:
        (B, C, side, side) of the same type.
    """
    flips, degrees, zooms, shifts = (each.to(pictures) for each in views)
    angles, signs, spans = degrees * (math.pi / 180), 1 - 2 * flips, 1 / zooms
    cos, sin, (across, down) = spans * angles.cos(), spans * angles.sin(), (1 - spans).abs() * shifts.T
    # From a place in the result to the place in the picture that is seen there: turned back, then flipped back.
    rows = [torch.stack([signs * cos, -signs * sin, across], dim=1), torch.stack([sin, cos, down], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), [*pictures.shape[:2], side, side], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def recolour(images: Tensor, gammas: Tensor, gains: Tensor) -> Tensor:
    """Show images in other light.

    Args:
        images: (B, 3, S, S) in 0..1.
        gammas: (B,), exponents.
        gains: (B, 3), factors of each channel.

    Returns:
        images ** gamma * gain, cut at 1.
    """
    return (images ** gammas.view(-1, 1, 1, 1) * gains[..., None, None]).clamp_(max=1)
