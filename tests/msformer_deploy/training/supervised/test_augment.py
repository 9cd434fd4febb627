"""Flip, rotation, zoom and scale: exactly what they say, and the same for image and mask; and light."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from msformer_deploy.training.supervised.augment import Views, recolour, warp


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))


def every(
    pictures: torch.Tensor,
    flip: bool = False,
    degrees: float = 0.0,
    side: int = 16,
    zoom: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> torch.Tensor:
    count = len(pictures)
    views = Views(
        torch.full((count,), flip),
        torch.full((count,), degrees),
        torch.full((count,), zoom),
        torch.tensor(shift).expand(count, 2),
    )
    return warp(pictures, views, side)


def test_nothing_asked_changes_nothing(pictures):
    torch.testing.assert_close(every(pictures, False, 0.0), pictures)


def test_a_flip_is_exact_and_of_its_own_picture_only(pictures):
    views = Views(torch.tensor([False, True, False]), torch.zeros(3), torch.ones(3), torch.zeros(3, 2))
    turned = warp(pictures, views, 16)
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
    views = Views(
        torch.tensor([True, False, True]),
        torch.tensor([-10.0, 3.0, 7.0]),
        torch.tensor([1.2, 1.0, 0.8]),
        torch.tensor([[0.5, -0.5], [1.0, 1.0], [-1.0, 0.3]]),
    )
    torch.testing.assert_close(warp(both, views, 12), torch.cat([warp(pictures, views, 12), warp(masks, views, 12)], 1))


@pytest.mark.parametrize("across", [-1, 0, 1])
@pytest.mark.parametrize("down", [-1, 0, 1])
def test_zoomed_in_a_part_is_seen_from_border_to_border(pictures, across, down):
    """At twice the size, in a view of half the side, pixels of the part are seen as they are."""
    first_column, first_row = 4 + 4 * across, 4 + 4 * down
    seen = every(pictures, side=8, zoom=2.0, shift=(across, down))
    torch.testing.assert_close(seen, pictures[..., first_row : first_row + 8, first_column : first_column + 8])


@pytest.mark.parametrize(("across", "left"), [(-1, 16), (0, 8), (1, 0)])
def test_zoomed_out_all_is_seen_somewhere_in_the_view(pictures, across, left):
    """At half the size, in a view of twice the side, likewise; around it there is nothing."""
    seen = every(pictures, side=32, zoom=0.5, shift=(across, 0.0))
    torch.testing.assert_close(seen[..., 8:24, left : left + 16], pictures)
    assert seen.count_nonzero() == pictures.count_nonzero()


def test_a_turn_of_what_is_enlarged_is_about_the_centre_of_the_view(pictures):
    straight, turned = (every(pictures, side=8, zoom=2.0, shift=(1.0, -1.0), degrees=turn) for turn in (0.0, 90.0))
    torch.testing.assert_close(turned, straight.rot90(1, (2, 3)))


class TestLight:
    def test_gamma_and_gain(self):
        images = torch.tensor([0.25, 0.5, 1.0]).expand(1, 3, 1, 3)
        found = recolour(images, torch.tensor([2.0]), torch.tensor([[1.0, 0.5, 3.0]]))[0, :, 0]
        expected = [[0.0625, 0.25, 1.0], [0.03125, 0.125, 0.5], [0.1875, 0.75, 1.0]]
        torch.testing.assert_close(found, torch.tensor(expected))

    def test_each_image_has_its_own_and_stays_as_it_was(self):
        images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        before = images.clone()
        found = recolour(images, torch.tensor([1.0, 2.0]), torch.ones(2, 3))
        torch.testing.assert_close(found, torch.stack([before[0], before[1] ** 2]))
        assert torch.equal(images, before)
