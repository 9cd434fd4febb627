"""Lungs in drawn CT slices: a bright body in air, dark lungs in it."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.lung import delineate

SIDE = 129
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
BODY = np.hypot(ROWS / 0.35, COLUMNS / 0.45) < 1
LEFT, RIGHT = (np.hypot(ROWS / 0.22, (COLUMNS - side) / 0.13) < 1 for side in (-0.2, 0.2))
WINDPIPE = np.hypot(ROWS + 0.05, COLUMNS) < 0.02


def slice_of(*dark: np.ndarray) -> np.ndarray:
    tissue = BODY & ~np.logical_or.reduce(dark)
    noise = 0.03 * np.random.default_rng(0).standard_normal((SIDE, SIDE))
    return np.repeat((np.where(tissue, 0.7, 0.1) + noise).clip(0, 1).astype(np.float32)[None], 3, axis=0)


@pytest.mark.parametrize("ids", [(0, 1), (5, 2)])
@pytest.mark.parametrize("lungs", [(LEFT, RIGHT), (LEFT,)], ids=["both", "one"])
def test_what_is_dark_inside_the_body_is_lung_and_the_air_around_is_not(ids, lungs):
    image = slice_of(*lungs)
    labels = np.where(image[0] > 0.4, *ids).astype(np.uint8)
    truth = np.logical_or.reduce(lungs)
    assert np.array_equal(delineate(labels, image), truth)


def test_the_windpipe_is_no_lung_and_vessels_are():
    image = slice_of(LEFT, RIGHT, WINDPIPE)
    vessel = np.hypot(ROWS - 0.05, COLUMNS + 0.2) < 0.03
    image[:, vessel] = 0.7
    labels = (image[0] > 0.4).astype(np.uint8)
    assert np.array_equal(delineate(labels, image), LEFT | RIGHT)


def test_of_many_clusters_the_darkest_inside_the_body_counts():
    image = slice_of(LEFT, RIGHT)
    labels = np.where(image[0] > 0.4, 3, 1).astype(np.uint8)
    labels[BODY & (ROWS > 0.25)] = 2
    labels[~BODY] = 7
    assert np.array_equal(delineate(labels, image), LEFT | RIGHT)


@pytest.mark.parametrize("image", [slice_of(), np.full((3, SIDE, SIDE), 0.5, np.float32)], ids=["no lungs", "flat"])
def test_nothing_dark_inside_a_body_is_no_lung(image):
    assert not delineate((image[0] > 0.4).astype(np.uint8), image).any()
