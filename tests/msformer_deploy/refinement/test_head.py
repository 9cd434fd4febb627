"""The closed-form learning of the head: its loop, its stop and its guard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from msformer_deploy import kernels
from msformer_deploy.errors import UsageError
from msformer_deploy.refinement.head import _settle, refine_head
from msformer_deploy.registry import RefineSettings


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


class PosesAsGpu(TorchFunctionMode):
    """Tensors say that they are on a GPU. Copies to the host are counted, and other waits for the GPU refused."""

    copies = 0

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function == torch.Tensor.is_cuda.__get__:
            return True
        assert function not in (torch.Tensor.__bool__, torch.Tensor.item, torch.Tensor.tolist)
        self.copies += function == torch.Tensor.cpu
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("falls", [False, True])
def test_settling_on_a_gpu_waits_for_nothing(falls):
    features, settings = blobs(batch=2), RefineSettings(steps=3, stride=2)
    safe = torch.stack([random_head(seed=seed) for seed in (1, 2)])
    learned = safe.roll(1, 0)
    if falls:
        learned[0] = 0  # of equal scores the first cluster wins everywhere
    with PosesAsGpu() as pose:
        found = _settle(features, learned, safe, settings)
    assert pose.copies == 0
    for one, other in zip(found, _settle(features, learned, safe, settings), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(found[0][0], safe[0]) == falls


@pytest.mark.parametrize("regions", [0, 3])
def test_learning_on_a_gpu_waits_once_for_all_steps_and_images(regions):
    """What is told of the steps comes in one copy, after all work is queued."""
    features, settings = blobs(batch=3), RefineSettings(steps=5, stride=2, lr=0.5, regions=regions)
    features[1] = 1  # falls to one label
    with PosesAsGpu() as pose, kernels.using("reference"):
        found = refine_head(features, random_head(), settings)
    assert pose.copies == 1
    for got, right in zip(found, refine_head(features, random_head(), settings), strict=True):
        assert torch.equal(got.labels, right.labels)
        assert torch.equal(got.counts, right.counts)
        assert got.collapsed == right.collapsed
        assert [step.label_count for step in got.trace] == [step.label_count for step in right.trace]
        assert [step.cross_entropy for step in got.trace] == pytest.approx(
            [step.cross_entropy for step in right.trace], rel=1e-5
        )
    assert [each.collapsed for each in found] == [False, True, False]


def test_a_fall_in_the_last_update_on_a_gpu_is_reported():
    """As above: two labels on even pixels, on which the only step learns, and one on odd pixels, which come next."""
    features = torch.zeros(1, 2, 4, 4)
    features[:, 0] = 1
    features[:, :, 0, 0] = torch.tensor([0.0, 1.0])
    settings = RefineSettings(steps=1, stride=2, lr=1e-6, stop_labels=0, head_scale=1.0)
    with PosesAsGpu(), kernels.using("reference"):
        (outcome,) = refine_head(features, torch.eye(2), settings)
    assert outcome.collapsed
    assert len(outcome.trace) == 1
