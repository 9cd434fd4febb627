"""Networks from seeds and bundles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from msformer_deploy.bundle.folder import HEAD, WEIGHTS, ModelSizes
from msformer_deploy.errors import BundleError
from msformer_deploy.weights.network import (
    initial_head,
    load_network,
    new_network,
    read_network,
    tie_upsampling,
    write_network,
)

SIZES = ModelSizes(side=33, width=8, clusters=6, blocks=2)


def test_a_seed_gives_one_network_and_leaves_the_caller_s_randomness_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = (new_network(SIZES, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["linear_up.weight"], other["linear_up.weight"])


def test_the_initial_head_is_the_network_s():
    assert torch.equal(initial_head(SIZES, 3), new_network(SIZES, 3).linear_down.weight)


def test_a_bundle_keeps_the_published_initialisation(tiny_bundle):
    loaded, drawn = (
        load_network(tiny_bundle).state_dict(),
        new_network(tiny_bundle.sizes, tiny_bundle.seed).state_dict(),
    )
    assert loaded.keys() == drawn.keys()
    assert all(torch.equal(loaded[name], drawn[name]) for name in drawn)


def test_what_is_written_is_read_again(tmp_path):
    network = new_network(SIZES, 3)
    write_network(network, tmp_path)
    again, known = read_network(tmp_path / WEIGHTS, SIZES).state_dict(), network.state_dict()
    assert all(torch.equal(again[name], known[name]) for name in known)
    assert torch.equal(load_file(tmp_path / HEAD)["head"], network.linear_down.weight)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, HEAD}


def test_weights_that_do_not_fit_are_refused(tiny_bundle):
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        load_network(replace(tiny_bundle, sizes=replace(tiny_bundle.sizes, width=9)))


def test_a_flat_area_has_no_checkerboard_once_the_upsampling_is_tied():
    """Between the pixels of a flat image's middle, the coarse half of the features must not alternate."""
    image = torch.full((1, 3, 33, 33), 0.5)
    image[:, :, :3] = 0.1

    def alternation(network):
        coarse = network.encode(image).features[0, :8, 12:24, 12:24]
        return (coarse[:, :, 1:] - coarse[:, :, :-1]).abs().max().item()

    with torch.no_grad():
        assert alternation(new_network(SIZES, 0)) > 0.1
        assert alternation(tie_upsampling(new_network(SIZES, 0))) < 1e-4
