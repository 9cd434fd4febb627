"""S3-Net's loop arranged as published, against ours, on a small network."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import scripts
import torch
from torch import nn
from torch.nn import functional as F

from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.models.s3net import ChannelNorm, S3Net
from msformer_deploy.refinement.full import refine_full
from msformer_deploy.registry import S3_PUBLISHED
from msformer_deploy.weights.network import new_network

SIZES = ModelSizes(16, 6, 6, 2, "plain")


@pytest.fixture
def published() -> ModuleType:
    return scripts.load("published_s3")


def image() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()


def logits_of(network: nn.Module) -> list[torch.Tensor]:
    """Logits of every pass that the network will make."""
    seen: list[torch.Tensor] = []
    network.get_submodule("bn4").register_forward_hook(lambda *each: seen.append(each[2].detach()))
    return seen


def test_every_norm_is_torchs_own(published):
    drawn = new_network(SIZES, 0, "s3net")
    norms = [name for name, module in drawn.named_modules() if isinstance(module, ChannelNorm)]
    kept = {name: value.clone() for name, value in drawn.state_dict().items()}
    network = published.as_published(drawn)
    assert {type(network.get_submodule(name)) for name in norms} == {nn.BatchNorm2d}
    assert len(norms) == 4 + SIZES.blocks
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    network(image().float())
    assert network.bn1.num_batches_tracked == 1, "in train mode"


@pytest.mark.parametrize(
    ("stop_labels", "least_steps", "steps"), [(0, 6, 10), (3, 6, 9), (3, 10, 10), (6, 6, 6), (6, 0, 1)]
)
def test_ours_goes_through_the_same_states(published, stop_labels, least_steps, steps):
    """The logits of every pass, the one after the last update included, and the stop; in float64, as rounding grows."""
    settings = replace(S3_PUBLISHED, steps=10, stop_labels=stop_labels, least_steps=least_steps)
    theirs: S3Net = published.as_published(new_network(SIZES, 0, "s3net")).double()
    expected = logits_of(theirs)
    labels, made = published.refine_as_published(theirs, image(), settings)
    ours = new_network(SIZES, 0, "s3net").double()
    got = logits_of(ours)
    outcome = refine_full(ours, image(), settings)
    assert len(outcome.trace) == made == steps
    assert len(got) == len(expected) == steps + 1
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    assert torch.equal(outcome.labels.long(), labels)
    for step, logits in zip(outcome.trace, expected, strict=False):
        assert step.label_count == len(logits.argmax(dim=1).unique())
        assert step.cross_entropy == pytest.approx(F.cross_entropy(logits, logits.argmax(dim=1)).item())
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8, msg=name)
