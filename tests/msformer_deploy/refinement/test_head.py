"""The three refinement modes: the closed-form loop, its stop and its guard, and the published loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.errors import UsageError
from msformer_deploy.refinement.head import Refinement, refine_full, refine_head
from msformer_deploy.registry import S3_PUBLISHED, RefineSettings
from msformer_deploy.weights.network import new_network

SIZES = ModelSizes(side=33, width=6, clusters=6, blocks=2)
S3_SIZES = ModelSizes(side=16, width=6, clusters=6, blocks=1, variant="plain")


def blobs(batch: int = 1, side: int = 12, channels: int = 8, seed: int = 0) -> torch.Tensor:
    """Features (B, C, S, S) of four quadrants, each around its own centre."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, 4, channels, generator=generator)
    quadrant = (torch.arange(side) >= side // 2).long()
    ids = 2 * quadrant[:, None] + quadrant
    noise = 0.1 * torch.randn(batch, channels, side, side, generator=generator)
    return centres[:, ids].permute(0, 3, 1, 2) + noise


def random_head(clusters: int = 10, channels: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.randn(clusters, channels, generator=torch.Generator().manual_seed(seed))


def sgd_oracle(features: torch.Tensor, head: torch.Tensor, settings: RefineSettings) -> torch.Tensor:
    """The same learning by autograd, with no guard and no stop; labels (S, S)."""
    weight = (settings.head_scale * head).requires_grad_()
    optimiser = torch.optim.SGD([weight], lr=settings.lr, momentum=settings.momentum)
    pixels = features[0].flatten(1).T
    for step in range(settings.steps):
        scores = pixels[step % settings.stride :: settings.stride] @ weight.T
        optimiser.zero_grad()
        F.cross_entropy(scores, scores.argmax(dim=1)).backward()
        optimiser.step()
    return (pixels @ weight.T).argmax(dim=1).view(features.shape[2:])


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("steps", [0, 1, 7, 20])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_head_refinement_is_sgd_on_strided_pixels(stride, steps, scale):
    features, head = blobs(), random_head()
    settings = RefineSettings(steps=steps, stride=stride, lr=0.2, stop_labels=0, head_scale=scale)
    outcome = refine_head(features, head, settings)[0]
    assert torch.equal(outcome.labels.long(), sgd_oracle(features, head, settings))
    assert outcome.counts.sum() == 12 * 12
    assert outcome.label_count == outcome.labels.unique().numel()
    assert len(outcome.trace) == steps
    assert not outcome.collapsed


def test_a_batch_learns_what_its_images_learn_alone():
    features, head, settings = blobs(batch=3), random_head(), RefineSettings(steps=9, stride=4)
    together = refine_head(features, head, settings)
    for index, outcome in enumerate(together):
        alone = refine_head(features[index : index + 1], head, settings)[0]
        assert torch.equal(outcome.labels, alone.labels)
        assert [step.label_count for step in outcome.trace] == [step.label_count for step in alone.trace]


def test_learning_stops_at_few_labels_without_stopping_the_other_images():
    features, head = blobs(batch=2), random_head()
    features[0] = torch.linspace(-1, 1, 144).view(1, 12, 12)  # along one direction, so few clusters can win
    settings = RefineSettings(steps=12, stride=1, lr=0.05, stop_labels=2, head_scale=1.0)
    few, many = refine_head(features, head, settings)
    assert [step.label_count for step in few.trace] == [2]
    assert len(many.trace) == 12
    assert torch.equal(many.labels, refine_head(features[1:], head, settings)[0].labels)
    assert torch.equal(few.labels.long(), sgd_oracle(features[:1], head, replace(settings, steps=1)))


def test_the_guard_returns_the_last_state_with_two_labels():
    """A case that falls to one label under plain SGD: the map from the update before comes back."""
    generator = torch.Generator().manual_seed(0)
    features = 0.3 * torch.randn(1, 3, 8, 8, generator=generator)
    features[:, 0] += 1
    head = torch.randn(4, 3, generator=generator)
    settings = RefineSettings(steps=20, stride=2, lr=2.0, stop_labels=0, head_scale=1.0)
    outcome = refine_head(features, head, settings)[0]
    learned = len(outcome.trace)
    fallen = sgd_oracle(features, head, replace(settings, steps=learned))
    assert fallen.flatten()[learned % 2 :: 2].unique().numel() == 1
    assert outcome.collapsed
    assert outcome.label_count >= 2
    assert torch.equal(outcome.labels.long(), sgd_oracle(features, head, replace(settings, steps=learned - 1)))
    last = refine_head(features, head, replace(settings, steps=learned))[0]  # no step left that would notice
    assert last.collapsed
    assert torch.equal(last.labels, outcome.labels)
    assert last.trace == outcome.trace


def test_the_last_update_is_checked_on_the_next_sample():
    """Two labels on even pixels, on which the only step learns, and one on odd pixels, which come next."""
    features, head = torch.zeros(1, 2, 4, 4), torch.eye(2)
    features[:, 0] = 1
    features[:, :, 0, 0] = torch.tensor([0.0, 1.0])
    settings = RefineSettings(steps=1, stride=2, lr=1e-6, stop_labels=0, head_scale=1.0)
    outcome = refine_head(features, head, settings)[0]
    assert outcome.collapsed
    assert len(outcome.trace) == 1
    assert not refine_head(features, head, replace(settings, steps=2))[0].trace[1:]


def most_populous(features: torch.Tensor, head: torch.Tensor, settings: RefineSettings) -> torch.Tensor:
    """Labels (S, S) of one image when only the clusters with most pixels of the next sample compete."""
    learned = replace(settings, regions=0)
    pixels = features[0].flatten(1).T
    sample = refine_head(features, head, learned)[0].labels.flatten()[
        settings.steps % settings.stride :: settings.stride
    ]
    counts = sample.long().bincount(minlength=len(head))
    kept = sorted(range(len(head)), key=lambda cluster: (-int(counts[cluster]), cluster))[: settings.regions]
    weight = (settings.head_scale * head).requires_grad_()
    optimiser = torch.optim.SGD([weight], lr=settings.lr, momentum=settings.momentum)
    for step in range(settings.steps):
        scores = pixels[step % settings.stride :: settings.stride] @ weight.T
        optimiser.zero_grad()
        F.cross_entropy(scores, scores.argmax(dim=1)).backward()
        optimiser.step()
    return torch.tensor(kept)[(pixels @ weight[kept].T).argmax(dim=1)].view(features.shape[2:])


@pytest.mark.parametrize("regions", [2, 3, 9])
@pytest.mark.parametrize(("steps", "stride"), [(0, 8), (3, 8), (8, 4)])
def test_the_most_populous_clusters_share_all_pixels(steps, stride, regions):
    features, head = blobs(batch=3), random_head()
    settings = RefineSettings(steps=steps, stride=stride, lr=0.05, stop_labels=0, regions=regions)
    for index, outcome in enumerate(refine_head(features, head, settings)):
        expected = most_populous(features[index : index + 1], head, settings)
        assert torch.equal(outcome.labels.long(), expected)
        assert outcome.labels.dtype == torch.uint8
        assert torch.equal(outcome.counts, expected.flatten().bincount(minlength=len(head)))


@pytest.mark.parametrize("regions", [10, 11])
def test_as_many_regions_as_clusters_are_all(regions):
    features, head = blobs(), random_head()
    kept = refine_head(features, head, RefineSettings(regions=regions))[0]
    assert torch.equal(kept.labels, refine_head(features, head, RefineSettings())[0].labels)


@pytest.mark.parametrize("steps", [0, 5])
def test_a_single_label_from_the_start_is_reported(steps):
    features, head = torch.ones(1, 2, 5, 5), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    outcome = refine_head(features, head, RefineSettings(steps=steps, stride=2))[0]
    assert outcome.collapsed
    assert outcome.label_count == 1
    assert outcome.trace == []


def test_progress_is_reported_per_step():
    seen: list[tuple[int, int]] = []
    refine_head(blobs(), random_head(), RefineSettings(steps=4, stop_labels=0), lambda *step: seen.append(step))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("steps", [0, 3])
def test_stages_are_told_as_they_end(steps):
    told: list[str] = []
    refine_head(blobs(), random_head(), RefineSettings(steps=steps, stop_labels=0), lap=told.append)
    assert told == ["sample", *["step"] * steps, "argmax"][steps == 0 :]


@pytest.mark.parametrize("stride", [1, 5])
def test_features_may_be_channels_last_in_memory(stride):
    features, head, settings = blobs(batch=2), random_head(), RefineSettings(steps=6, stride=stride, stop_labels=0)
    last = features.contiguous(memory_format=torch.channels_last)
    for got, expected in zip(refine_head(last, head, settings), refine_head(features, head, settings), strict=True):
        assert torch.equal(got.labels, expected.labels)
        assert [each.cross_entropy for each in got.trace] == pytest.approx(
            [each.cross_entropy for each in expected.trace], abs=1e-6
        )


@pytest.mark.parametrize(("steps", "stride"), [(4, 5), (20, 40)])
def test_a_stride_beyond_the_pixels_is_refused(steps, stride):
    """Of four pixels there are four phases; the check of the last update takes one more than the steps."""
    features, head = blobs(side=2), random_head()
    with pytest.raises(UsageError, match=f"stride {stride} is too large for 4 pixels"):
        refine_head(features, head, RefineSettings(steps=steps, stride=stride))
    refine_head(features, head, RefineSettings(steps=3, stride=stride))


def allocations(run: Callable[[], object]) -> int:
    """Tensors that were given memory."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    return sum(event.name() == "[memory]" and event.nbytes() > 0 for event in events)


def test_no_step_allocates_a_tensor():
    features, head = blobs(batch=2), random_head()
    few, many = (RefineSettings(steps=steps, stride=4, stop_labels=0) for steps in (4, 16))
    allocated = allocations(lambda: refine_head(features, head, few))
    assert allocated > 0
    assert allocations(lambda: refine_head(features, head, many)) == allocated


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


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "best"},
        {"steps": -1},
        {"stride": 0},
        {"stop_labels": -1},
        {"lr": 0.0},
        {"momentum": 1.0},
        {"head_scale": 0},
    ],
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(UsageError):
        RefineSettings(**values)
