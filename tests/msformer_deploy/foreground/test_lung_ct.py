"""Lungs in maps drawn from CT slices: air around a body, and air in it."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.foreground.lung_ct import delineate

SIDE = 129
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
BODY = np.hypot(ROWS / 0.35, COLUMNS / 0.45) < 1
LEFT, RIGHT = (np.hypot(ROWS / 0.22, (COLUMNS - side) / 0.13) < 1 for side in (-0.2, 0.2))
WINDPIPE = np.hypot(ROWS + 0.05, COLUMNS) < 0.02
TABLE = (np.abs(ROWS - 0.42) < 0.01) & (np.abs(COLUMNS) < 0.3)


def map_of(*air: np.ndarray, tissue: int = 0, gas: int = 1) -> np.ndarray:
    return np.where(BODY & ~np.logical_or.reduce(air), tissue, gas).astype(np.uint8)


@pytest.mark.parametrize("ids", [(0, 1), (5, 2)])
@pytest.mark.parametrize("lungs", [(LEFT, RIGHT), (LEFT,)], ids=["both", "one"])
def test_air_inside_the_body_is_lung_and_the_air_around_is_not(ids, lungs):
    found = delineate(map_of(*lungs, tissue=ids[0], gas=ids[1]))
    assert np.array_equal(found, np.logical_or.reduce(lungs))


def test_the_windpipe_and_the_table_are_no_lung_and_vessels_are():
    labels = map_of(LEFT, RIGHT, WINDPIPE)
    labels[np.hypot(ROWS - 0.05, COLUMNS + 0.2) < 0.03] = 0
    labels[TABLE] = 0
    assert np.array_equal(delineate(labels), LEFT | RIGHT)


def test_of_many_clusters_that_of_the_air_around_counts():
    labels = map_of(LEFT, RIGHT, tissue=3, gas=7)
    labels[BODY & (ROWS > 0.25)] = 2
    assert np.array_equal(delineate(labels), LEFT | RIGHT)


def test_a_body_that_fills_the_image_has_lungs_as_well():
    labels = np.where(LEFT | RIGHT, 4, 9).astype(np.uint8)
    labels[:10, :10] = 4
    assert np.array_equal(delineate(labels), LEFT | RIGHT)


@pytest.mark.parametrize("labels", [map_of(), np.zeros((SIDE, SIDE), np.uint8)], ids=["body", "nothing"])
def test_where_there_is_no_air_in_a_body_there_is_no_lung(labels):
    found = delineate(labels)
    assert found.dtype == bool
    assert not found.any()
