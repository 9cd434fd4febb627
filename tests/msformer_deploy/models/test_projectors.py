"""The projectors of MCSC: sizes, unit vectors, and what the two networks share."""

from __future__ import annotations

import torch

from msformer_deploy.models.projectors import Projector, Projectors


def count(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_published_sizes():
    projectors = Projectors()
    assert count(projectors.full) == 62_080
    assert count(projectors.coarse) == 115_712


def test_unit_vectors_of_both_networks_one_after_the_other():
    torch.manual_seed(0)
    projectors = Projectors((2, 5), (3, 6), hidden=8, outputs=7)
    full, coarse = projectors(
        (torch.randn(2, 2, 8, 8), torch.randn(2, 5, 1, 1)), (torch.randn(2, 3, 8, 8), torch.randn(2, 6, 1, 1))
    )
    assert full.shape == (4, 7, 8, 8)
    assert coarse.shape == (4, 7, 1, 1)
    for each in (full, coarse):
        torch.testing.assert_close(each.norm(dim=1), torch.ones_like(each[:, 0]))


def test_each_network_has_its_own_first_layer_and_both_the_same_last():
    torch.manual_seed(0)
    projector = Projector(2, 3, hidden=8, outputs=7, norm=True)
    cnn, transformer = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)
    found = projector(cnn, transformer)
    normed = torch.nn.functional.layer_norm(transformer.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2)
    for index, hidden in enumerate((projector.cnn(cnn), projector.transformer(normed))):
        expected = torch.nn.functional.normalize(projector.shared(hidden.relu()), dim=1)
        torch.testing.assert_close(found[index], expected[0])


def test_only_the_coarse_map_of_the_transformer_is_normalised():
    projectors = Projectors()
    assert isinstance(projectors.coarse.norm, torch.nn.LayerNorm)
    assert isinstance(projectors.full.norm, torch.nn.Identity)
