"""Flip, rotation and scale: exactly what they say, and the same for image and mask."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from msformer_deploy.training.augment import warp


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))


def every(pictures: torch.Tensor, flip: bool, degrees: float, side: int = 16) -> torch.Tensor:
    count = len(pictures)
    return warp(pictures, torch.full((count,), flip), torch.full((count,), degrees), side)


def test_nothing_asked_changes_nothing(pictures):
    torch.testing.assert_close(every(pictures, False, 0.0), pictures)


def test_a_flip_is_exact_and_of_its_own_picture_only(pictures):
    turned = warp(pictures, torch.tensor([False, True, False]), torch.zeros(3), 16)
    torch.testing.assert_close(turned, torch.stack([pictures[0], pictures[1].flip(-1), pictures[2]]))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_counter_clockwise_after_the_flip(pictures, quarters):
    torch.testing.assert_close(every(pictures, False, 90.0 * quarters), pictures.rot90(quarters, (2, 3)))
    torch.testing.assert_close(every(pictures, True, 90.0 * quarters), pictures.flip(-1).rot90(quarters, (2, 3)))


def test_a_small_turn_is_about_the_centre_and_fills_with_zero():
    ones = torch.ones(1, 1, 33, 33)
    turned = every(ones, False, 10.0, 33)[0, 0]
    assert turned[16, 16] == 1
    assert turned[0, 0] == turned[0, -1] == turned[-1, 0] == turned[-1, -1] == 0
    torch.testing.assert_close(turned, turned.rot90(1))


@pytest.mark.parametrize("side", [10, 16, 12])
def test_scale_is_bilinear_without_smoothing(pictures, side):
    expected = F.interpolate(pictures, size=(side, side), mode="bilinear", align_corners=False)
    torch.testing.assert_close(every(pictures, False, 0.0, side), expected)


def test_image_and_mask_stay_together(pictures):
    masks = (pictures[:, :1] > 0.5).float()
    both = torch.cat([pictures, masks], dim=1)
    flips, degrees = torch.tensor([True, False, True]), torch.tensor([-10.0, 3.0, 7.0])
    apart = torch.cat([warp(pictures, flips, degrees, 12), warp(masks, flips, degrees, 12)], dim=1)
    torch.testing.assert_close(warp(both, flips, degrees, 12), apart)
