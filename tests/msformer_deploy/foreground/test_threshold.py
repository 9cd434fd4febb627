"""The threshold with the highest expected DSC: against all thresholds, and where nothing is figure."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.foreground.confidence import evidence
from msformer_deploy.foreground.threshold import LOWEST, threshold_of


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("power", [1, 3])
def test_no_other_threshold_has_a_higher_soft_dice(seed: int, power: int) -> None:
    probability = np.random.default_rng(seed).random((20, 30), np.float32) ** power
    best = evidence(probability > threshold_of(probability), probability)[0]
    others = [evidence(probability > each, probability)[0] for each in np.linspace(LOWEST, 0.9, 200)]
    assert best >= max(others) - 1e-3


@pytest.mark.parametrize("certain", [0.5, 0.3, 1.0])
def test_what_is_certain_is_cut_at_a_half(certain: float) -> None:
    probability = np.zeros((10, 10), np.float32)
    probability[: round(10 * certain)] = 1
    assert threshold_of(probability) == pytest.approx(0.5)


@pytest.mark.parametrize("value", [0, 0.01, 0.1, 0.19])
def test_what_is_hardly_figure_has_an_empty_mask(value: float) -> None:
    probability = np.full((10, 10), value, np.float32)
    assert threshold_of(probability) == LOWEST
    assert not (probability > threshold_of(probability)).any()


def test_an_uncertain_object_is_taken_whole() -> None:
    probability = np.full((10, 10), 0.02, np.float32)
    probability[2:6, 2:6] = 0.45
    assert np.array_equal(probability > threshold_of(probability), probability > 0.4)
