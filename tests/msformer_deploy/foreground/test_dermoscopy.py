"""The lesion in drawn dermoscopic images: vignettes, hairs, and maps that say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.foreground.borders import SIDE
from msformer_deploy.foreground.dermoscopy import delineate
from msformer_deploy.foreground.view import View

ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
DISTANCE = np.hypot(ROWS, COLUMNS)
LESION = np.hypot(ROWS / 0.2, (COLUMNS + 0.05) / 0.15) < 1
SKIN, PIGMENT = np.array([0.55, 0.65, 0.8]), np.array([0.25, 0.35, 0.5])


def picture(light: np.ndarray | float = 1.0, seed: int = 0) -> View:
    colours = np.where(LESION, PIGMENT[:, None, None], SKIN[:, None, None])
    noise = 0.02 * np.random.default_rng(seed).standard_normal((3, SIDE, SIDE))
    return View(((colours + noise) * light).clip(0, 1).astype(np.float32))


def dsc(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("ids", [(0, 1), (7, 3)])
def test_the_darker_region_is_the_lesion_whatever_its_id(ids):
    labels = np.where(LESION, *ids).astype(np.uint8)
    mask = delineate(labels, picture())
    assert mask.dtype == bool
    assert dsc(mask, LESION) > 0.98


def test_a_region_that_joins_the_lesion_to_dark_corners_is_cut():
    vignette = DISTANCE > 0.5
    bridge = (np.abs(COLUMNS + 0.05) < 0.012) & (ROWS < 0)
    labels = (LESION | vignette | bridge).astype(np.uint8)
    light = np.where(vignette, 0.3, 1.0)
    assert dsc(delineate(labels, picture(light)), LESION) > 0.97


def test_what_lies_outside_the_disc_is_no_lesion_however_it_hangs_together():
    labels = (LESION | (COLUMNS < -0.15) & (np.abs(ROWS) < 0.1) | (COLUMNS < -0.45)).astype(np.uint8)
    mask = delineate(labels, picture())
    assert mask[LESION].all()
    assert not mask[DISTANCE > 0.5].any()


def test_hairs_are_no_lesion():
    hair = np.abs(ROWS - COLUMNS / 2 - 0.1) < 0.004
    assert dsc(delineate((LESION | hair).astype(np.uint8), picture()), LESION) > 0.95


def test_maps_of_other_sizes_are_fine():
    """Where all clusters are kept, labels and image come as the network has them."""
    small = np.s_[..., ::3, ::3]
    mask = delineate(LESION[small].astype(np.uint8), View(picture().square[small]))
    assert mask.shape == LESION[small].shape
    assert dsc(mask, LESION[small]) > 0.95


def test_a_map_of_one_region_has_no_lesion():
    assert not delineate(np.zeros((SIDE, SIDE), np.uint8), picture()).any()
    outside = (DISTANCE > 0.6).astype(np.uint8)
    assert not delineate(outside, picture()).any()


def test_a_lesion_that_fills_the_disc_is_still_one():
    labels = (DISTANCE < 0.495).astype(np.uint8)
    assert delineate(labels, picture()).dtype == bool
