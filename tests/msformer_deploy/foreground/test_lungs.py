"""Lungs in label maps drawn from a chest CT: air around a body, and air in it, through slices."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.foreground.lungs import delineate

SHAPE = (24, 97, 97)
SLICES, ROWS, COLUMNS = np.meshgrid(*(np.linspace(-0.5, 0.5, side) for side in SHAPE), indexing="ij")
BODY = np.hypot(ROWS / 0.35, COLUMNS / 0.45) < 1
# They begin and end within the volume.
LEFT, RIGHT = ((ROWS / 0.22) ** 2 + ((COLUMNS - side) / 0.14) ** 2 + (SLICES / 0.35) ** 2 < 1 for side in (-0.2, 0.2))
WINDPIPE = (np.hypot(ROWS + 0.05, COLUMNS) < 0.028) & (SLICES < -0.1)
BRONCHI = (np.abs(ROWS + 0.05) < 0.028) & (np.abs(COLUMNS) < 0.2) & (np.abs(SLICES + 0.1) < 0.03)
TABLE = (np.abs(ROWS - 0.42) < 0.012) & (np.abs(COLUMNS) < 0.4)
BOWEL = ((ROWS - 0.05) / 0.1) ** 2 + (COLUMNS / 0.1) ** 2 + ((SLICES - 0.47) / 0.05) ** 2 < 1
SHADES = np.array([0.45, 0.1])


def chest(*air: np.ndarray, body: np.ndarray = BODY) -> np.ndarray:
    """Cluster 0 is tissue, 1 is air."""
    return np.where(body & ~np.logical_or.reduce(air), 0, 1).astype(np.uint8)


def dsc(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.parametrize("lungs", [(LEFT, RIGHT), (LEFT,)], ids=["both", "one"])
def test_air_inside_the_body_is_lung_and_slices_without_it_are_empty(lungs: tuple[np.ndarray, ...]) -> None:
    truth = np.logical_or.reduce(lungs)
    found = delineate(chest(*lungs), SHADES)
    assert dsc(found, truth) > 0.97
    assert not found[~truth.any(axis=(1, 2))].any()


@pytest.mark.parametrize(("size", "kept"), [(0.7, True), (0.4, False)], ids=["a third", "a sixteenth"])
def test_the_other_lung_may_be_much_smaller_but_no_speck(size: float, kept: bool) -> None:
    distance = np.sqrt((ROWS / 0.22) ** 2 + ((COLUMNS - 0.2) / 0.14) ** 2 + (SLICES / 0.35) ** 2)
    other = distance < size
    found = delineate(chest(LEFT, other), SHADES)
    assert dsc(found, LEFT | other if kept else LEFT) > 0.97
    assert found[other].any() == kept


def test_windpipe_and_bronchi_that_join_the_lungs_are_no_lung() -> None:
    found = delineate(chest(LEFT, RIGHT, WINDPIPE, BRONCHI), SHADES)
    assert dsc(found, LEFT | RIGHT) > 0.95
    assert not found[SLICES < -0.36].any()
    assert found[WINDPIPE & (SLICES < -0.14)].mean() < 0.01


@pytest.mark.parametrize("gap", [0.06, 0.0], ids=["below", "touching"])
def test_a_table_is_no_body_and_the_air_over_it_no_lung(gap: float) -> None:
    table = np.roll(TABLE, -round((0.06 - gap) * SHAPE[1]), axis=1)
    labels = chest(LEFT, RIGHT)
    labels[table] = 0
    found = delineate(labels, SHADES)
    assert dsc(found, LEFT | RIGHT) > 0.97
    assert not found[~BODY].any()


@pytest.mark.parametrize("lungs", [(LEFT, RIGHT), (LEFT,)], ids=["both", "one"])
def test_gas_in_the_bowel_is_large_in_a_few_slices_only(lungs: tuple[np.ndarray, ...]) -> None:
    found = delineate(chest(*lungs, BOWEL), SHADES)
    assert dsc(found, np.logical_or.reduce(lungs)) > 0.97
    assert not found[BOWEL].any()


def test_lungs_that_touch_before_and_behind_the_heart_leave_it_out() -> None:
    joined = (np.abs(np.abs(ROWS) - 0.14) < 0.03) & (np.abs(COLUMNS) < 0.2) & (np.abs(SLICES) < 0.1)
    truth = LEFT | RIGHT | joined
    found = delineate(chest(truth), SHADES)
    assert dsc(found, truth) > 0.97
    assert not found[(np.hypot(ROWS, COLUMNS) < 0.04) & ~truth].any()


def test_vessels_are_in_the_lung() -> None:
    vessel = np.hypot(ROWS - 0.05, COLUMNS + 0.2) < 0.025
    found = delineate(chest(LEFT & ~vessel, RIGHT), SHADES)
    assert found[vessel & LEFT & (np.abs(SLICES) < 0.2)].all()


def test_noise_changes_little() -> None:
    labels = chest(LEFT, RIGHT, WINDPIPE)
    labels ^= (np.random.default_rng(0).random(SHAPE) < 0.01).astype(np.uint8)
    assert dsc(delineate(labels, SHADES), LEFT | RIGHT) > 0.93


def test_a_body_that_fills_the_slices_has_lungs_as_well() -> None:
    assert dsc(delineate(chest(LEFT, RIGHT, body=np.ones(SHAPE, bool)), SHADES), LEFT | RIGHT) > 0.97


@pytest.mark.parametrize("air", [(LEFT, RIGHT), (LEFT, RIGHT, WINDPIPE, BRONCHI), (LEFT,)], ids=["two", "all", "one"])
def test_air_may_be_white_as_in_inverted_volumes(air: tuple[np.ndarray, ...]) -> None:
    truth = np.logical_or.reduce(air[:2])
    assert dsc(delineate(chest(*air), SHADES[::-1]), truth) > 0.95


def test_of_many_clusters_the_dark_ones_are_air() -> None:
    labels = chest(LEFT, RIGHT) * np.uint8(3)
    labels[LEFT | RIGHT] = 5
    labels[BODY & (ROWS > 0.25)] = 2
    labels[BODY & (ROWS < -0.28)] = 1
    shades = np.array([0.45, 0.9, 0.4, 0.0, 0.0, 0.12, 0.0])  # of 4 and 6 there is none
    assert dsc(delineate(labels, shades), LEFT | RIGHT) > 0.97


@pytest.mark.parametrize(
    "labels", [chest(), chest(WINDPIPE), np.zeros(SHAPE, np.uint8)], ids=["no-air", "windpipe", "one-cluster"]
)
def test_where_there_is_no_large_air_in_a_body_there_is_no_lung(labels: np.ndarray) -> None:
    found = delineate(labels, SHADES)
    assert (found.dtype, found.shape) == (bool, SHAPE)
    assert not found.any()
