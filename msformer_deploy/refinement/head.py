"""Self-guided refinement: the three ways a frozen encoder's features become a label map.

``head`` and ``none`` work on features and a head, whatever made them; ``full`` trains a network on its image. All keep
the paper's stop (few labels left) and add a guard: a map of a single label says nothing, so the last state with at
least two is returned instead and ``collapsed`` reports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..kernels import cluster_argmax, head_refine_loop
from ..kernels.cpu import HeadLearner, gather
from ..kernels.reference import label_dtype
from ..losses.self_guided import Losses, S3Losses
from ..models.msformer import MSFormer
from ..models.s3net import S3Net
from ..registry import RefineSettings
from .passes import Passes


@dataclass(frozen=True)
class Step:
    """One update: losses and label count before it; the others only in mode ``full`` of the system that has them."""

    cross_entropy: float
    label_count: int
    inter_scale: float | None = None
    intra_scale: float | None = None
    affine: float | None = None
    spatial: float | None = None


@dataclass(frozen=True, eq=False)
class Refinement:
    """The outcome for one image.

    Attributes:
        labels: (S, S), uint8 (uint16 over 256 clusters), cluster ids.
        counts: (K,) int64, pixels per cluster.
        trace: one entry per update made.
        collapsed: whether the guard against a single label acted.
    """

    labels: Tensor
    counts: Tensor
    trace: list[Step] = field(default_factory=list)
    collapsed: bool = False

    @property
    def label_count(self) -> int:
        """Distinct labels in the map."""
        return int((self.counts > 0).sum())


Progress = Callable[[int, int], None]  # steps done, most steps
Lap = Callable[[str], None]  # the stage that has just ended


def refine_head(
    features: Tensor,
    head: Tensor,
    settings: RefineSettings,
    progress: Progress | None = None,
    lap: Lap | None = None,
) -> list[Refinement]:
    """Learn the cluster head on frozen features, in closed form; with zero steps, only apply it (mode ``none``).

    Args:
        features: (B, C, S, S) from the encoder; images of a batch do not influence one another. In memory channels may
            come first or, which saves gathering the samples, last (``torch.channels_last``).
        head: initial head (K, C), float32 (float64 for float64 features).
        settings: steps, lr, momentum, stride, stop_labels and head_scale are used.
        progress: called after every step; once at the end where CUDA kernels make all steps in one go.
        lap: called with the stage that has ended: "sample" once samples are gathered, "step" after every update,
            "argmax" at the end. CUDA kernels that make all steps in one go tell one "step"; no steps, none of both.

    Returns:
        one refinement per image. While it learns, labels are counted on the sampled pixels of the step.

    Raises:
        UsageError: there are fewer pixels than the stride needs.
    """
    lap = lap or _no_lap
    pixels = features.shape[2:].numel()
    if min(settings.stride, settings.steps + 1) > pixels:
        raise UsageError(
            f"refinement stride {settings.stride} is too large for {pixels} pixels, because some steps would"
            " have no sample; choose a smaller one"
        )
    heads = (settings.head_scale * head.detach()).expand(features.shape[0], -1, -1).contiguous()
    learned = _learn_in_one_go(features, heads, settings, progress, lap) or _learn(
        features, heads, settings, progress, lap
    )
    final, on_sample, single = _settle(features, learned, settings)
    labels, counts = (
        _share(features, final, on_sample, settings.regions)
        if 0 < settings.regions < final.shape[1]
        else cluster_argmax(features, final)
    )
    lap("argmax")
    outcomes = zip(labels, counts, learned.traces, learned.collapsed, single.tolist(), strict=True)
    return [
        Refinement(label_map, count, trace, fell or one_label) for label_map, count, trace, fell, one_label in outcomes
    ]


class _Learned(NamedTuple):
    """Where the closed-form learning of a batch ended."""

    head: Tensor  # (B, K, C)
    safe: Tensor  # (B, K, C), the last head seen with at least two labels
    collapsed: list[bool]  # per image: fell to one label and was set back to ``safe``
    traces: list[list[Step]]  # per image


def _learn(features: Tensor, head: Tensor, settings: RefineSettings, progress: Progress | None, lap: Lap) -> _Learned:
    """Update by update, from heads (B, K, C) that are changed in place; no step allocates a tensor."""
    images = range(head.shape[0])
    velocity, safe = torch.zeros_like(head), head.clone()
    active, collapsed = [True for _ in images], [False for _ in images]
    traces: list[list[Step]] = [[] for _ in images]
    if settings.steps:
        samples = gather(features, settings.stride, min(settings.stride, settings.steps), head.dtype)
        learner = HeadLearner(head, samples[0].shape[2])
        lap("sample")
    for step in range(settings.steps):
        found = learner.accumulate(samples[step % settings.stride], head, velocity, settings.momentum)
        for image, loss, label_count in zip(images, *found, strict=True):
            if active[image] and label_count >= 2:
                traces[image].append(Step(loss, label_count))
                safe[image].copy_(head[image])
                head[image].add_(velocity[image], alpha=-settings.lr)
            elif active[image]:
                collapsed[image] = True
                head[image].copy_(safe[image])
            active[image] &= label_count > max(1, settings.stop_labels)
        lap("step")
        if progress is not None:
            progress(step + 1, settings.steps)
        if not any(active):  # further updates would change nothing
            break
    return _Learned(head, safe, collapsed, traces)


def _learn_in_one_go(
    features: Tensor, head: Tensor, settings: RefineSettings, progress: Progress | None, lap: Lap
) -> _Learned | None:
    """The same on a GPU, all updates queued at once; None where kernels cannot do that."""
    done = head_refine_loop(
        features.flatten(2),
        head,
        steps=settings.steps,
        stride=settings.stride,
        lr=settings.lr,
        momentum=settings.momentum,
        stop_labels=settings.stop_labels,
    )
    if done is None:
        return None
    traces: list[list[Step]] = [[] for _ in range(features.shape[0])]
    label_counts = (done.counts > 0).sum(dim=2)
    learned = done.active[:-1] & (label_counts >= 2)
    for per_step in zip(learned.tolist(), done.loss.tolist(), label_counts.tolist(), strict=True):
        for trace, seen, loss, label_count in zip(traces, *per_step, strict=True):
            if seen:
                trace.append(Step(loss, label_count))
    lap("step")
    if progress is not None:
        progress(settings.steps, settings.steps)
    return _Learned(done.head, done.safe, done.collapsed.tolist(), traces)


def _settle(features: Tensor, learned: _Learned, settings: RefineSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Check the last update as the others were, on the sample that would come next.

    Returns:
        the heads (B, K, C) that count, pixels of each cluster (B, K) on that sample, and which (B,) fell to one label.
    """
    sample = features.flatten(2)[:, :, settings.steps % settings.stride :: settings.stride].unsqueeze(3)
    if features.is_cuda:
        sample = sample.contiguous()  # as the kernels read it
    counts = cluster_argmax(sample, learned.head)[1]
    single = (counts > 0).sum(dim=1) < 2
    if not bool(single.any()):
        return learned.head, counts, single
    head = torch.where(single[:, None, None], learned.safe, learned.head)
    return head, cluster_argmax(sample, head)[1], single


def _share(features: Tensor, head: Tensor, counts: Tensor, regions: int) -> tuple[Tensor, Tensor]:
    """Labels and counts where only the most populous clusters compete; of equal ones, those that come first."""
    ids = counts.sort(dim=1, descending=True, stable=True).indices[:, :regions]
    ranks, shares = cluster_argmax(features, head.gather(1, ids[:, :, None].expand(-1, -1, head.shape[2])))
    labels = ids.gather(1, ranks.flatten(1).long()).view(ranks.shape).to(label_dtype(head.shape[1]))
    return labels, torch.zeros_like(counts).scatter(1, ids, shares)


def _no_lap(stage: str) -> None:
    """Nobody times this."""


def refine_full(
    model: MSFormer | S3Net,
    image: Tensor,
    settings: RefineSettings,
    progress: Progress | None = None,
    lap: Lap | None = None,
    passes: Passes | None = None,
) -> Refinement:
    """Train the whole network on one image, as published: SGD on all its losses until few labels are left.

    Args:
        model: a network at its initial state; it is trained in place.
        image: (1, 3, S, S), BGR in 0..1.
        settings: steps, lr, momentum, stop_labels, least_steps and the weights of the system's losses are used.
        progress: called after every step.
        lap: called with "step" after every update, and with "argmax" at the end.
        passes: how the steps compute; eagerly in float32 by default. The final map is made so in any case.

    Raises:
        BackendUnavailable: the passes cannot be compiled.
        DeployError: their gradients are no numbers.
    """
    lap, passes = lap or _no_lap, passes or Passes()
    learner = passes.learner(model, settings)
    trace: list[Step] = []
    safe = None
    while len(trace) < settings.steps:
        learner.clear()
        labels, losses = passes.forward(model, image, repaired=settings.repaired)
        # Together, because a GPU is waited for.
        *terms, distinct = torch.stack([*losses, _distinct(labels, model.clusters).to(image.dtype)]).tolist()
        label_count = int(distinct)
        if label_count < 2:
            break
        safe = labels
        if not learner.update(_total(losses, settings)):
            continue
        trace.append(Step(label_count=label_count, **dict(zip(losses._fields, terms, strict=True))))
        lap("step")
        if progress is not None:
            progress(len(trace), settings.steps)
        # The published loop tests the map from before the update, and updates all the same.
        if label_count <= settings.stop_labels and len(trace) >= settings.least_steps:
            break
    with torch.no_grad():
        labels = model.scores(image).argmax(dim=1)
    counts = _counts(labels, model.clusters)
    collapsed = bool((counts > 0).sum() < 2)
    if collapsed and safe is not None:
        labels, counts = safe, _counts(safe, model.clusters)
    lap("argmax")
    return Refinement(labels[0].to(label_dtype(model.clusters)), counts, trace, collapsed)


def _total(losses: Losses | S3Losses, settings: RefineSettings) -> Tensor:
    if isinstance(losses, S3Losses):
        return losses.total(settings.cross_entropy_weight, settings.affine_weight, settings.spatial_weight)
    return losses.total(settings.inter_weight, settings.intra_weight)


def _distinct(labels: Tensor, clusters: int) -> Tensor:
    """How many labels there are, without waiting for a GPU to tell."""
    return labels.new_zeros(clusters).scatter_(0, labels.flatten(), 1).sum()


def _counts(labels: Tensor, clusters: int) -> Tensor:
    return torch.bincount(labels.flatten(), minlength=clusters)
