"""MCSC's two networks and their answers; graphs of them are tried with the commands."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from msformer_deploy.models.mcsc import SwinSegmenter, UNetSegmenter, log_probabilities
from msformer_deploy.models.swin_unet import SwinUNet
from msformer_deploy.models.unet import UNet


def tiny() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    swin = SwinUNet(side=64, width=4, depths=(2, 1, 1, 1), heads=(1, 1, 2, 2), window=2)
    networks = {"unet": UNetSegmenter(UNet((2, 3, 4, 5, 6))), "swin": SwinSegmenter(swin)}
    return {name: network.eval() for name, network in networks.items()}


@pytest.mark.parametrize("network", tiny().values(), ids=["unet", "swin"])
def test_scores_and_maps_of_a_network(network):
    found = network(torch.rand(2, 1, 64, 64))
    assert found.logits.shape == (2, 4, 64, 64)
    assert found.full.shape[2:] == (64, 64)
    assert found.coarse.shape[2:] == (8, 8)
    torch.testing.assert_close(network.classifier(found.full), found.logits)


def test_the_coarse_map_of_the_transformer_has_its_tokens_in_their_places():
    network, images = tiny()["swin"], torch.rand(1, 1, 64, 64)
    tokens = network.network(images).eighth
    coarse = network(images).coarse
    torch.testing.assert_close(coarse[0, :, 3, 5], tokens[0, 3 * 8 + 5])


@torch.no_grad()
def test_answers_are_probabilities_and_that_of_both_is_their_mean():
    images, networks = torch.rand(2, 1, 64, 64), tiny()
    alone = {name: log_probabilities([network], images).exp() for name, network in networks.items()}
    both = log_probabilities(networks.values(), images).exp()
    for probabilities in (*alone.values(), both):
        assert probabilities.shape == (2, 4, 64, 64)
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 64, 64))
    assert not torch.allclose(alone["unet"], alone["swin"])
    torch.testing.assert_close(alone["unet"], networks["unet"](images).logits.softmax(dim=1))
    torch.testing.assert_close(both, (alone["unet"] + alone["swin"]) / 2)


@torch.no_grad()
def test_probabilities_too_small_for_a_float_have_a_logarithm():
    network = tiny()["unet"]
    network.classifier.bias[0] += 1000
    assert torch.isfinite(log_probabilities([network], torch.rand(1, 1, 64, 64))).all()
