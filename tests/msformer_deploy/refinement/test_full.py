"""Mode ``full``: the published loop of each system, its stop and its guard."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.refinement.full import refine_full
from msformer_deploy.refinement.outcome import Refinement
from msformer_deploy.registry import S3_PUBLISHED, RefineSettings
from msformer_deploy.weights.network import new_network

SIZES = ModelSizes(side=33, width=6, clusters=6, blocks=2)
S3_SIZES = ModelSizes(side=16, width=6, clusters=6, blocks=1, variant="plain")


def full(seed: int = 0, **settings: float) -> RefineSettings:
    return RefineSettings(mode="full", **{"steps": 4, "lr": 0.1, "stop_labels": 0} | settings)


@pytest.mark.slow
def test_full_refinement_repeats_and_lowers_the_loss():
    image = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    first, second = (refine_full(new_network(SIZES, 0), image, full(steps=8)) for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    assert first.trace == second.trace
    assert first.trace[-1].cross_entropy < first.trace[0].cross_entropy
    assert first.trace[-1].inter_scale < first.trace[0].inter_scale
    assert first.counts.sum() == 33 * 33


def test_stages_of_full_refinement_are_told_as_they_end():
    image, told = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(0)), []
    refine_full(new_network(SIZES, 0), image, full(), lap=told.append)
    assert told == ["step"] * 4 + ["argmax"]


def test_full_refinement_weights_matter():
    image = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    light = refine_full(new_network(SIZES, 0), image, full(inter_weight=0.0))
    heavy = refine_full(new_network(SIZES, 0), image, full(inter_weight=2.0))
    assert light.trace[0] == heavy.trace[0]
    assert heavy.trace[-1].inter_scale < light.trace[-1].inter_scale


def test_the_second_loop_of_the_notebook_has_other_weights_of_its_losses():
    """The one that drew the figures, as documented in docs/how-to/python.md."""
    image = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    settings = full(steps=2), full(steps=2, inter_weight=2.0, intra_weight=1.2)
    scores, figures = (refine_full(new_network(SIZES, 0), image, each).trace for each in settings)
    assert scores[0] == figures[0]
    assert scores[1] != figures[1]


@pytest.mark.slow
def test_full_refinement_stops_after_the_update_that_saw_few_labels():
    image = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    outcome = refine_full(new_network(SIZES, 0), image, full(steps=30, stop_labels=5))
    counts = [step.label_count for step in outcome.trace]
    assert counts[-1] <= 5
    assert all(count > 5 for count in counts[:-1])


@pytest.mark.parametrize("fall_at", [1, 2, 3])
def test_full_refinement_guard(fall_at):
    """From forward pass ``fall_at`` on, one cluster wins everywhere; 3 is the pass after the last update."""
    image = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    network, calls = new_network(SIZES, 0), []
    head = network.head

    def falling_head(features: torch.Tensor) -> torch.Tensor:
        calls.append(features)
        bonus = torch.zeros(SIZES.clusters)
        bonus[2] = 1e6 * (len(calls) > fall_at)
        return head(features) + bonus.view(1, -1, 1, 1)

    network.head = falling_head
    outcome = refine_full(network, image, full(steps=3))
    assert outcome.collapsed
    assert outcome.label_count >= 2
    assert len(outcome.trace) == fall_at
    before = refine_full(new_network(SIZES, 0), image, full(steps=fall_at - 1))
    assert torch.equal(outcome.labels, before.labels)


class TestFullRefinementOfS3Net:
    def refine(self, fall_at: int | None = None, **settings: float) -> Refinement:
        """The published loop on the small network, one cluster winning everywhere from a forward pass on."""
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        network = new_network(S3_SIZES, 0, "s3net")
        calls: list[torch.Tensor] = []

        def fall(module: torch.nn.Module, inputs: object, scores: torch.Tensor) -> torch.Tensor:
            calls.append(scores)
            bonus = torch.zeros(S3_SIZES.clusters)
            bonus[2] = 1e6 * (len(calls) > fall_at)
            return scores + bonus.view(1, -1, 1, 1)

        if fall_at is not None:
            network.bn4.register_forward_hook(fall)
        return refine_full(network, image, replace(S3_PUBLISHED, **{"steps": 4, "stop_labels": 0} | settings))

    def test_the_trace_has_its_losses(self):
        outcome = self.refine()
        assert len(outcome.trace) == 4
        for step in outcome.trace:
            assert step.cross_entropy > 0
            assert step.affine > 0
            assert step.spatial == 0
            assert step.inter_scale is step.intra_scale is None
        assert outcome.trace[-1].cross_entropy < outcome.trace[0].cross_entropy
        assert outcome.trace[-1].affine < outcome.trace[0].affine
        assert outcome.counts.sum() == 16 * 16
        assert (outcome.labels.shape, outcome.labels.dtype) == ((16, 16), torch.uint8)

    def test_it_repeats(self):
        first, second = self.refine(), self.refine()
        assert torch.equal(first.labels, second.labels)
        assert first.trace == second.trace

    @pytest.mark.parametrize(("least_steps", "steps", "made"), [(0, 9, 1), (1, 9, 1), (2, 9, 2), (6, 9, 6), (6, 3, 3)])
    def test_few_labels_do_not_stop_it_before_the_least_steps(self, least_steps, steps, made):
        """Of six clusters there are six labels at most, so that any map would do."""
        outcome = self.refine(stop_labels=6, least_steps=least_steps, steps=steps)
        assert len(outcome.trace) == made

    def test_many_labels_do_not_stop_it_after_the_least_steps(self):
        outcome = self.refine(stop_labels=5, least_steps=2, steps=20)
        counts = [step.label_count for step in outcome.trace]
        assert 2 < len(counts) < 20
        assert counts[-1] <= 5
        assert all(count > 5 for count in counts[:-1])

    @pytest.mark.parametrize("weight", ["cross_entropy_weight", "affine_weight"])
    def test_weights_matter(self, weight):
        light, heavy = self.refine(**{weight: 0.0}), self.refine(**{weight: 5.0})
        assert light.trace[0] == heavy.trace[0]
        loss = weight.removesuffix("_weight")
        assert getattr(heavy.trace[-1], loss) < getattr(light.trace[-1], loss)

    def test_the_weight_of_the_spatial_loss_does_not(self):
        assert self.refine(spatial_weight=0.0).trace == self.refine(spatial_weight=100.0).trace

    def test_repaired_losses_teach_something_else(self):
        published, repaired = self.refine(), self.refine(repaired=True)
        assert repaired.trace[0].spatial > 0
        assert repaired.trace[0].cross_entropy == published.trace[0].cross_entropy
        assert repaired.trace[0].affine != pytest.approx(published.trace[0].affine, rel=1e-3)
        assert repaired.trace[-1].spatial < repaired.trace[0].spatial
        assert not torch.equal(repaired.labels, published.labels)
        unweighted = self.refine(repaired=True, spatial_weight=0.0)
        assert unweighted.trace[0] == repaired.trace[0]
        assert repaired.trace[-1].spatial < unweighted.trace[-1].spatial

    def test_the_repaired_affine_loss_is_of_the_image_turned(self):
        """The network's answer for the image turned is compared with its turned answer for the image."""
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        model = new_network(S3_SIZES, 0, "s3net")
        with torch.no_grad():
            labels = model.scores(image).argmax(dim=1)
            auxiliary = model.auxiliary(model.attend(image.transpose(2, 3).flip(2)))
        expected = F.cross_entropy(auxiliary, labels.transpose(1, 2).flip(1)).item()
        assert self.refine(repaired=True).trace[0].affine == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("fall_at", [1, 2, 3])
    def test_the_guard(self, fall_at):
        """3 is the pass after the last update."""
        outcome = self.refine(fall_at, steps=3)
        assert outcome.collapsed
        assert outcome.label_count >= 2
        assert len(outcome.trace) == fall_at
        assert torch.equal(outcome.labels, self.refine(steps=fall_at - 1).labels)
