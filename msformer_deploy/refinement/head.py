"""Modes ``head`` and ``none``: features of a frozen encoder, and a head, become a label map.

The loop keeps the paper's stop (few labels left) and adds a guard: a map of a single label says nothing, so the last
state with at least two is returned instead and ``collapsed`` reports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..backends.transfers import downloaded
from ..errors import UsageError
from ..kernels import cluster_argmax, head_refine_loop
from ..kernels.cpu import HeadLearner, gather
from ..kernels.reference import label_dtype
from ..registry import RefineSettings
from .outcome import Lap, Progress, Refinement, Step, no_lap


def refine_head(
    features: Tensor,
    head: Tensor,
    settings: RefineSettings,
    progress: Progress | None = None,
    lap: Lap | None = None,
) -> list[Refinement[Tensor]]:
    """Learn the cluster head on frozen features, in closed form; with zero steps, only apply it (mode ``none``).

    Args:
        features: (B, C, S, S) from the encoder; images of a batch do not influence one another. In memory channels may
            come first or, which saves gathering the samples, last (``torch.channels_last``).
        head: initial head (K, C), float32 (float64 for float64 features).
        settings: steps, lr, momentum, stride, stop_labels and head_scale are used.
        progress: called after every step; once where a GPU is given all steps in one go.
        lap: called with the stage that has ended: "sample" once samples are gathered, "step" after every update,
            "argmax" at the end. Where a GPU is given all steps in one go, there is one "step"; no steps, none of both.

    Returns:
        one refinement per image. While it learns, labels are counted on the sampled pixels of the step.

    Raises:
        UsageError: there are fewer pixels than the stride needs.
    """
    lap = lap or no_lap
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
    final, on_sample, single = _settle(features, learned.head, learned.safe, settings)
    labels, counts = (
        _share(features, final, on_sample, settings.regions)
        if 0 < settings.regions < final.shape[1]
        else cluster_argmax(features, final)
    )
    lap("argmax")
    return [Refinement(*each) for each in zip(labels, counts, *learned.tell(single), strict=True)]


class _Told(NamedTuple):
    """What the host is told of the learning."""

    traces: list[list[Step]]  # per image
    collapsed: list[bool]  # per image: it fell to one label, and was set back to the last state with two


class _Learned(NamedTuple):
    """Where the closed-form learning of a batch ended."""

    head: Tensor  # (B, K, C)
    safe: Tensor  # (B, K, C), the last head seen with at least two labels
    tell: Callable[[Tensor], _Told]  # takes which images (B,) fell to one label in the last update


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

    def tell(single: Tensor) -> _Told:
        return _Told(traces, [fell or last for fell, last in zip(collapsed, single.tolist(), strict=True)])

    return _Learned(head, safe, tell)


def _learn_in_one_go(
    features: Tensor, head: Tensor, settings: RefineSettings, progress: Progress | None, lap: Lap
) -> _Learned | None:
    """The same on a GPU, all updates queued at once; None on a CPU, and where there are no steps."""
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
    lap("step")
    if progress is not None:
        progress(settings.steps, settings.steps)

    def tell(single: Tensor) -> _Told:
        # In one copy, when all else is queued: the host waits for it.
        label_counts = (done.counts > 0).sum(dim=2)
        facts = (done.active[:-1] & (label_counts >= 2), done.loss, label_counts, done.collapsed | single)
        learned, loss, seen, collapsed = downloaded(facts)
        traces = [
            [Step(float(loss[step, image]), int(seen[step, image])) for step in np.flatnonzero(learned[:, image])]
            for image in range(len(collapsed))
        ]
        return _Told(traces, collapsed.tolist())

    return _Learned(done.head, done.safe, tell)


def _settle(features: Tensor, head: Tensor, safe: Tensor, settings: RefineSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Check the last update as the others were, on the sample that would come next.

    Returns:
        the heads (B, K, C) that count, pixels of each cluster (B, K) on that sample, and which (B,) fell to one label.
    """
    sample = features.flatten(2)[:, :, settings.steps % settings.stride :: settings.stride].unsqueeze(3)
    if features.is_cuda:
        sample = sample.contiguous()  # as the kernels read it
    counts = cluster_argmax(sample, head)[1]
    single = (counts > 0).sum(dim=1) < 2
    if not features.is_cuda and not bool(single.any()):  # asking a GPU would wait for all that is queued there
        return head, counts, single
    head = torch.where(single[:, None, None], safe, head)
    return head, cluster_argmax(sample, head)[1], single


def _share(features: Tensor, head: Tensor, counts: Tensor, regions: int) -> tuple[Tensor, Tensor]:
    """Labels and counts where only the most populous clusters compete; of equal ones, those that come first."""
    ids = counts.sort(dim=1, descending=True, stable=True).indices[:, :regions]
    ranks, shares = cluster_argmax(features, head.gather(1, ids[:, :, None].expand(-1, -1, head.shape[2])))
    labels = ids.gather(1, ranks.flatten(1).long()).view(ranks.shape).to(label_dtype(head.shape[1]))
    return labels, torch.zeros_like(counts).scatter(1, ids, shares)
