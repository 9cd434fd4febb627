"""The DSC to expect of masks and probabilities that were drawn."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.foreground.confidence import LOW, confidence_of, evidence, soft_dice

SIDE = 60
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
DISC = np.hypot(ROWS - 30, COLUMNS - 30) < 15
NOTHING, EVERYTHING = np.zeros((SIDE, SIDE), bool), np.ones((SIDE, SIDE), bool)


def probability(inside: float, outside: float) -> np.ndarray:
    return np.where(DISC, np.float32(inside), np.float32(outside))


@pytest.mark.parametrize(("mask", "why"), [(NOTHING, "empty"), (EVERYTHING, "whole image")])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_empty_and_full_masks_are_in_doubt_whatever_the_probability(mask, why, value):
    got = confidence_of(mask, np.full((SIDE, SIDE), value, np.float32))
    assert (got.value, got.low) == (0, 0)
    assert got.doubt is not None
    assert why in got.doubt


def test_a_sure_mask_is_not_in_doubt():
    got = confidence_of(DISC, probability(1.0, 0.0))
    assert got.value > 0.85
    assert got.doubt is None


def test_it_falls_with_the_soft_dice_of_the_mask():
    given = probability(0.95, 0.02)
    masks = [np.hypot(ROWS - 30, COLUMNS - 30 - shift) < 15 for shift in (0, 3, 6, 12, 25)]
    dices = [evidence(mask, given)[0] for mask in masks]
    values = [confidence_of(mask, given).value for mask in masks]
    assert dices == sorted(dices, reverse=True)
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


def test_it_grows_with_how_sure_the_probability_is():
    values = [confidence_of(DISC, probability(inside, 0.0)).value for inside in (0.51, 0.6, 0.8, 1.0)]
    assert values == sorted(values)
    assert values[0] < LOW < values[-1]


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_holds_the_value_within_0_and_1_and_doubt_is_below_the_bound(seed):
    rng = np.random.default_rng(seed)
    given = rng.random((SIDE, SIDE), np.float32) ** rng.uniform(0.1, 8)
    got = confidence_of(given > rng.uniform(0.05, 0.95), given)
    assert 0 <= got.low <= got.value <= got.high <= 1
    assert (got.doubt is not None) == (got.value < LOW)


def test_a_doubt_says_what_is_to_be_expected():
    got = confidence_of(DISC, probability(0.6, 0.2))
    assert got.value < LOW
    assert got.doubt is not None
    assert f"{got.value:.2f}" in got.doubt


def test_evidence_is_the_soft_dice_and_the_mean_probability_of_figure():
    given = probability(0.8, 0.1)
    inside, outside = 0.8 * DISC.sum(), 0.1 * (~DISC).sum()
    dice, sureness = evidence(DISC, given)
    assert dice == pytest.approx(2 * inside / (inside + outside + DISC.sum()), abs=1e-5)
    assert sureness == pytest.approx((0.8 * inside + 0.1 * outside) / (inside + outside), abs=1e-5)
    assert soft_dice(0, 0, 0) == 1, "nothing is expected, and nothing is there"
