"""Published settings, those that cannot be, and the schedule."""

from __future__ import annotations

import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.models.subtraction import MULTIPLE
from msformer_deploy.training.supervised.settings import STRIDE, SupervisedSettings, scales_up_to, triangular


def test_the_defaults_are_the_published_ones():
    settings = SupervisedSettings()
    assert (settings.epochs, settings.batch, settings.lr, settings.side) == (50, 16, 0.05, 352)
    assert (settings.momentum, settings.weight_decay, settings.flip, settings.rotation) == (0.9, 5e-4, 0.5, 10)
    assert settings.scales == scales_up_to(352) == (224, 256, 288, 320, 352)
    assert STRIDE == MULTIPLE, "the rule of sides is the network's"


@pytest.mark.parametrize(("side", "expected"), [(64, (64,)), (128, (64, 96, 128)), (224, (96, 128, 160, 192, 224))])
def test_scales_of_other_sides_are_those_that_the_network_has(side, expected):
    assert scales_up_to(side) == expected
    assert SupervisedSettings(side=side, scales=expected).scales == expected


def test_the_learning_rate_goes_up_and_down_in_lines():
    rates = [triangular(epoch, 4) for epoch in range(4)]
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.4])
    assert [triangular(epoch, 3) for epoch in range(3)] == [0.5, 1, 0.5]
    assert triangular(0, 1) == 1
    assert triangular(0, 50) == pytest.approx(2 / 51)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"epochs": 0}, "epochs 0 is too few"),
        ({"batch": -1}, "batch -1 is too few"),
        ({"side": 350}, "side 350 does not fit"),
        ({"side": 32}, "side 32 does not fit"),
        ({"side": 1056}, "side 1056 does not fit"),
        ({"scales": (224, 100)}, "side 100 does not fit"),
        ({"scales": ()}, "no side for training"),
        ({"lr": 0.0}, "learning rate 0.0"),
        ({"lr": float("nan")}, "learning rate nan"),
        ({"lr": float("inf")}, "learning rate inf"),
        ({"weight_decay": -1.0}, "weight decay -1.0"),
        ({"lossnet_weight": float("nan")}, "weight nan of the feature loss"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"validation": 1.0}, "share of validation images 1.0"),
        ({"validation": float("nan")}, "share of validation images nan"),
        ({"backbone_lr_factor": 1.5}, "factor of the backbone's learning rate 1.5"),
        ({"flip": -0.1}, "flip -0.1"),
        ({"rotation": 181.0}, "rotation of 181.0"),
        ({"zoom": 0.5}, "zoom 0.5 is not from 1"),
        ({"zoom": float("nan")}, "zoom nan"),
        ({"zoom": 5.0}, "zoom 5.0"),
        ({"colour": -0.1}, "change of colour -0.1"),
        ({"colour": float("nan")}, "change of colour nan"),
    ],
)
def test_what_cannot_be_is_told(given, part):
    with pytest.raises(UsageError, match=part):
        SupervisedSettings(**given)
