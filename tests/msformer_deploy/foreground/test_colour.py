"""Two regions of drawn images told apart by colour: vignettes, uneven light, hairs, and maps that say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.foreground.colour import SIDE, tell_apart
from msformer_deploy.foreground.view import View

ROWS, COLUMNS = np.mgrid[: 2 * SIDE - 1, : 2 * SIDE - 1] / (2 * SIDE - 2) - 0.5
DISTANCE = np.hypot(ROWS, COLUMNS)
LESION = np.hypot(ROWS / 0.2, (COLUMNS + 0.05) / 0.15) < 1
SKIN, PIGMENT = np.array([0.55, 0.65, 0.8]), np.array([0.25, 0.35, 0.5])
DISC = DISTANCE[::2, ::2] < 0.49


def picture(light: np.ndarray | float = 1.0) -> View:
    colours = np.where(LESION, PIGMENT[:, None, None], SKIN[:, None, None])
    noise = 0.02 * np.random.default_rng(0).standard_normal(colours.shape)
    return View(((colours + noise) * light).clip(0, 1).astype(np.float32))


def agreement(labels: np.ndarray, dark: int = 1) -> float:
    """DSC of a cluster and the lesion inside the disc."""
    found, truth = (labels == dark) & DISC, LESION[::2, ::2]
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize(("light", "dark"), [(0, 1), (7, 3)])
def test_a_map_that_is_right_stays_and_keeps_its_ids(light, dark):
    labels = np.where(LESION, dark, light).astype(np.uint16)
    drawn = tell_apart(labels, picture())
    assert drawn.shape == (SIDE, SIDE)
    assert drawn.dtype == labels.dtype
    assert set(np.unique(drawn)) == {light, dark}
    assert agreement(drawn, dark) > 0.97


@pytest.mark.parametrize("tilt", [-0.6, 0.6])
def test_skin_in_the_shade_is_skin(tilt):
    light = 0.75 + tilt * COLUMNS / 2
    shaded = (light < np.quantile(light, 0.25)) & (np.abs(ROWS) < 0.15)
    labels = (LESION | shaded).astype(np.uint8)
    assert agreement(tell_apart(labels, picture(light))) > 0.95 > agreement(labels[::2, ::2])


@pytest.mark.parametrize("size", [33, 97, 193])
def test_maps_of_other_sizes_are_fine(size):
    nearest = np.linspace(0, 2 * SIDE - 2, size).round().astype(int)
    labels = LESION[nearest[:, None], nearest].astype(np.uint8)
    assert agreement(tell_apart(labels, picture())) > 0.97


def test_light_that_changes_more_than_the_colours_differ_does_not_mislead():
    """The skin on the dark side is darker than the lesion on the bright one."""
    light = 0.6 + 0.7 * COLUMNS
    labels = (LESION & (light < 0.6) | (light < 0.35)).astype(np.uint8)
    assert agreement(tell_apart(labels, picture(light))) > 0.9


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_every_round_tells_the_regions_the_right_way_round(monkeypatch, rounds):
    monkeypatch.setattr("msformer_deploy.foreground.colour.ROUNDS", rounds)
    assert agreement(tell_apart(LESION.astype(np.uint8), picture())) > 0.97


def test_corners_keep_their_region():
    labels = (LESION | (DISTANCE > 0.55)).astype(np.uint8)
    drawn = tell_apart(labels, picture(np.where(DISTANCE > 0.55, 0.3, 1.0)))
    assert drawn[0, 0] == drawn[-1, -1] == 1
    assert agreement(drawn) > 0.97


def test_hairs_are_not_told_apart():
    hair = np.abs(ROWS - COLUMNS / 2 - 0.1) < 0.004
    image = picture().square
    image[:, hair] = 0.1
    assert agreement(tell_apart(LESION.astype(np.uint8), View(image))) > 0.95


@pytest.mark.parametrize("labels", [np.zeros_like(LESION), DISTANCE > 0.6, (LESION * 2) + (COLUMNS > 0)])
def test_other_maps_than_of_two_clusters_stay_as_they_are(labels):
    labels = labels.astype(np.uint8)
    assert tell_apart(labels, picture()) is labels


def test_a_flat_image_is_no_error():
    labels = LESION.astype(np.uint8)
    drawn = tell_apart(labels, View(np.full((3, *LESION.shape), 0.5, np.float32)))
    assert set(np.unique(drawn)) <= {0, 1}
