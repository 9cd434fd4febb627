"""Normalisation as a part of the network, and not of its weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from msformer_deploy.models.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise


def test_the_network_sees_each_channel_less_its_mean_over_its_std():
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    seen = Normalise(nn.Identity(), IMAGENET_MEAN, IMAGENET_STD)(images)
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        torch.testing.assert_close(seen[:, channel], (images[:, channel] - mean) / std)


def test_the_state_dict_is_the_networks_alone():
    network = nn.Conv2d(3, 1, 1)
    module = Normalise(network, IMAGENET_MEAN, IMAGENET_STD)
    assert list(module.state_dict()) == ["network.weight", "network.bias"]
    module.load_state_dict({f"network.{name}": tensor for name, tensor in network.state_dict().items()})
    assert list(module.parameters()) == list(network.parameters())


def test_it_moves_and_converts_with_the_network():
    module = Normalise(nn.Conv2d(3, 1, 1), IMAGENET_MEAN, IMAGENET_STD)
    assert module.double()(torch.zeros(1, 3, 2, 2, dtype=torch.float64)).dtype == torch.float64
    assert module.to("meta").mean.is_meta


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.2, 0.2)), ((0.5,), (0.0,)), ((0.5,), (-1.0,))])
def test_impossible_settings_are_refused(mean, std):
    with pytest.raises(ValueError, match="std"):
        Normalise(nn.Identity(), mean, std)
