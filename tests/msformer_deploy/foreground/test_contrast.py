"""The contrast of masks of drawn images: large where the two sides look different, small where they look alike."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.foreground.contrast import contrast_of
from msformer_deploy.foreground.view import View

SIDE = 257
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
OBJECT = np.hypot(ROWS, COLUMNS) < 0.2


def picture(contrast: float, noise: float = 0.1) -> View:
    ground = np.array([0.4, 0.5, 0.6])[:, None, None] + contrast * OBJECT
    drawn = ground + noise * np.random.default_rng(0).standard_normal((3, SIDE, SIDE))
    return View(drawn.clip(0, 1).astype(np.float32))


def test_it_grows_with_the_contrast_and_is_from_0_to_1():
    values = [contrast_of(OBJECT, picture(contrast)) for contrast in (0.0, 0.02, 0.05, 0.1, 0.3)]
    assert values == sorted(values)
    assert values[0] < 0.1
    assert 0.99 < values[-1] <= 1


def test_it_is_what_two_gaussians_of_that_distance_share():
    contrast = noise = 0.1
    distance = np.sqrt(3) * contrast / noise
    share = np.random.default_rng(1).standard_normal(200_000) < distance / 2
    assert contrast_of(OBJECT, picture(contrast)) == pytest.approx(2 * share.mean() - 1, abs=0.05)


def test_a_mask_in_the_wrong_place_has_little():
    beside = np.hypot(ROWS - 0.3, COLUMNS - 0.3) < 0.1
    assert contrast_of(OBJECT, picture(0.2)) > 0.8
    assert contrast_of(beside, picture(0.2)) < 0.2


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((SIDE, SIDE), bool),
        np.ones((SIDE, SIDE), bool),
        np.arange(SIDE * SIDE).reshape(SIDE, SIDE) < 2,
        np.arange(SIDE * SIDE).reshape(SIDE, SIDE) > 2,
    ],
    ids=["empty", "full", "hardly a pixel inside", "hardly a pixel outside"],
)
def test_extreme_masks_have_none(mask):
    assert contrast_of(mask, picture(0.2)) == 0


def test_a_flat_image_has_none():
    assert contrast_of(OBJECT, View(np.full((3, SIDE, SIDE), 0.5, np.float32))) == 0


@pytest.mark.parametrize(("side", "within"), [(33, 0.25), (129, 0.1), (193, 0.1)])
def test_other_sizes_give_about_the_same(side, within):
    nearest = np.linspace(0, SIDE - 1, side).round().astype(int)
    small = np.ix_(nearest, nearest)
    full = contrast_of(OBJECT, picture(0.15))
    nearest = View(picture(0.15).square[(slice(None), *small)])
    assert contrast_of(OBJECT[small], nearest) == pytest.approx(full, abs=within)
