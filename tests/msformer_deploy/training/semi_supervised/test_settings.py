"""MCSC's schedules at the published length and at shorter ones, and settings that cannot be."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.training.semi_supervised.settings import SemiSupervisedSettings

PUBLISHED = SemiSupervisedSettings()
SHORT = replace(PUBLISHED, iterations=400)


@pytest.mark.parametrize(
    ("iteration", "steps"), [(0, 0), (149, 0), (150, 1), (299, 1), (15_000, 100), (30_000, 200), (39_999, 200)]
)
def test_the_weight_of_pseudo_labels_rises_in_steps_of_150_iterations(iteration, steps):
    assert PUBLISHED.pseudo_weight_at(iteration) == pytest.approx(0.1 * math.exp(-5 * (1 - steps / 200) ** 2))


def test_ends_of_the_ramp():
    assert PUBLISHED.pseudo_weight_at(0) == pytest.approx(6.7e-4, rel=1e-2)
    assert PUBLISHED.pseudo_weight_at(30_000) == 0.1
    assert replace(PUBLISHED, pseudo_ramp=0).pseudo_weight_at(0) == 0.1


def test_a_shorter_run_has_everything_in_proportion_and_a_longer_one_does_not():
    for share in (0, 0.1, 0.5, 0.75, 0.99):
        assert SHORT.pseudo_weight_at(round(share * 400)) == pytest.approx(
            PUBLISHED.pseudo_weight_at(round(share * 40_000))
        )
    assert [SHORT.contrasts_unlabelled(iteration) for iteration in (0, 29, 30)] == [False, False, True]
    longer = replace(PUBLISHED, iterations=80_000)
    for settings in (PUBLISHED, longer):
        assert [settings.contrasts_unlabelled(iteration) for iteration in (2_999, 3_000)] == [False, True]
        assert settings.pseudo_weight_at(30_000) == 0.1 > settings.pseudo_weight_at(29_000)


def test_validations_begin_after_1000_iterations_and_one_is_the_last():
    assert [PUBLISHED.validates(epoch) for epoch in (0, 4, 5, 199)] == [False, False, True, True]
    several = replace(SHORT, validation_interval=5)
    assert [several.validates(epoch) for epoch in (0, 1, 2)] == [False, False, True]
    never = replace(SHORT, validation_interval=100, validation_start=40_000)
    assert [never.validates(epoch) for epoch in range(4)] == [False, False, False, True]


def test_learning_rates():
    assert [PUBLISHED.falling(iteration) for iteration in (0, 20_000)] == pytest.approx([1, 0.5**0.9])
    assert [PUBLISHED.warmed_up(iteration) for iteration in (0, 1_000, 2_000)] == pytest.approx([1e-3, 0.5005, 1])
    assert PUBLISHED.warmed_up(2_000 + 19_000) == pytest.approx(0.5**0.9)
    assert PUBLISHED.warmed_up(39_999) > 0
    assert replace(PUBLISHED, warm_up=0.0).warmed_up(0) == 1


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"iterations": 300}, "300 iterations are not a multiple of the 200 between two validations"),
        ({"iterations": 0}, "0 iterations"),
        ({"validation_interval": 0}, "of the 0 between"),
        ({"labelled_batch": 0}, "0 labelled slices in a batch"),
        ({"unlabelled_batch": 0}, "0 unlabelled slices in a batch"),
        ({"unet_lr": 0.0}, "learning rate 0.0 of the U-Net"),
        ({"swin_lr": math.nan}, "learning rate nan of the Swin-UNet"),
        ({"projector_lr": math.inf}, "learning rate inf of the projectors"),
        ({"weight_decay": -1.0}, "weight decay -1.0 is below 0"),
        ({"pseudo_weight": math.nan}, "weight of pseudo labels nan"),
        ({"contrastive_weight": -0.1}, "weight of the contrastive loss -0.1"),
        ({"temperature": 0.0}, "temperature 0.0 is not above 0"),
        ({"warm_up": 1.0}, "share 1.0 of the run"),
        ({"side": 256}, "side 256 does not fit windows of 7; choose a multiple of 224"),
        ({"side": 0}, "side 0"),
        ({"window": 0}, "windows of 0"),
        ({"classes": 1}, "1 class is too few"),
        ({"full_block": 225}, "a block of 225 pixels does not fit the 224 of the full scale"),
        ({"coarse_block": 29}, "a block of 29 pixels does not fit the 28 of the coarse scale"),
        ({"most_groups": 0}, "0 groups of blocks"),
    ],
)
def test_what_cannot_be_is_one_line(changed, part):
    with pytest.raises(UsageError, match=part) as caught:
        replace(PUBLISHED, **changed)
    assert "\n" not in str(caught.value)


def test_settings_need_no_torch():
    code = "import sys, msformer_deploy.training.semi_supervised.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
