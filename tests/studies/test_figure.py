"""Variations of the mask: that each changes what it says, and that choices are made without a data set."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import scripts

from msformer_deploy.models import figure


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return scripts.load("figure")


def test_variations_differ_and_leave_the_constants_as_they_were(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:65, :65]
    disc = ((rows - 30) ** 2 + (columns - 35) ** 2 < 200).astype(np.float32)
    pixels = np.stack([0.7 - 0.4 * disc + 0.05 * rng.standard_normal(disc.shape) for _ in range(3)]).astype(np.float32)
    features = np.stack([disc, *rng.standard_normal((7, 65, 65))]).astype(np.float32)[None]
    before = {name: getattr(figure, name) for name in ("GAIN", "RIDGE", "GRID", "RADIUS", "CONTRAST")}
    found = script.Varied(65).probabilities(pixels, features)
    assert list(found) == [*script.PARTS, *script.CONSTANTS]
    assert all(each.shape == (65, 65) and 0 <= each.min() <= each.max() <= 1 for each in found.values())
    for name, each in found.items():
        assert name == script.DEFAULT or not np.array_equal(each, found[script.DEFAULT]), name
    assert before == {name: getattr(figure, name) for name in before}


def test_choices_are_made_without_the_data_set(script: ModuleType) -> None:
    names = [name for name in script.CONSTANTS if name not in script.WITHOUT]
    means = {source: dict.fromkeys([*script.PARTS, *script.CONSTANTS], 0.5) for source in ("x", "y", "z")}
    means["x"][names[1]] = 0.9  # good on x alone, where it may not count
    means["x"]["no learning"] = means["y"]["no learning"] = means["z"]["no learning"] = 1.0
    means["y"][names[2]] = means["z"][names[2]] = 0.6
    chosen = script.chosen_without(means)
    assert chosen["x"] == names[2]
    assert chosen["y"] == chosen["z"] == names[1]
