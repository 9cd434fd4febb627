"""Sides that the network has and how many updates there are."""

from __future__ import annotations

import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.models.msformer import PATCH as PATCH_OF_THE_NETWORK
from msformer_deploy.pretraining.settings import PATCH, PretrainSettings, steps_of


def test_the_rule_of_sides_is_the_network_s():
    assert PATCH == PATCH_OF_THE_NETWORK


@pytest.mark.parametrize("side", [33, 97, 193, 1025])
def test_sides_that_fit(side):
    assert PretrainSettings(side=side).side == side


@pytest.mark.parametrize("side", [-31, 0, 1, 32, 96, 1057])
def test_sides_that_do_not(side):
    with pytest.raises(UsageError, match=f"side {side} does not fit"):
        PretrainSettings(side=side)


@pytest.mark.parametrize(("epochs", "images", "batch", "expected"), [(1, 4, 2, 2), (3, 5, 2, 9), (2, 1, 4, 2)])
def test_steps_show_every_image_in_every_pass(epochs, images, batch, expected):
    assert steps_of(epochs, images, batch) == expected
