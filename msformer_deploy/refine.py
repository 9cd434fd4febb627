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

from .kernels import cluster_argmax, head_refine_loop, head_refine_step
from .kernels.reference import label_dtype
from .models.msformer import MSFormer
from .objectives import self_guided_losses
from .registry import RefineSettings


@dataclass(frozen=True)
class Step:
    """One update: losses and label count before it. ``inter_scale`` and ``intra_scale`` only in mode ``full``."""

    cross_entropy: float
    label_count: int
    inter_scale: float | None = None
    intra_scale: float | None = None


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


class HeadState(NamedTuple):
    """Where the closed-form learning of a batch stands. Tensors only, so that one step also traces into a graph."""

    head: Tensor  # (B, K, C)
    velocity: Tensor  # (B, K, C)
    safe: Tensor  # (B, K, C), the last head seen with at least two labels
    active: Tensor  # (B,) bool, still learning
    collapsed: Tensor  # (B,) bool, fell to one label and was set back to ``safe``


def begin(head: Tensor, batch: int, settings: RefineSettings) -> HeadState:
    """Initial state of a batch that starts from one head (K, C)."""
    heads = (settings.head_scale * head).expand(batch, -1, -1).contiguous()
    active = torch.ones(batch, dtype=torch.bool, device=head.device)
    return HeadState(heads, torch.zeros_like(heads), heads, active, ~active)


def _sample(features: Tensor, settings: RefineSettings, step: int) -> Tensor:
    """The pixels (B, C, n) that a step learns on: every stride-th, each step starting one further."""
    return features.flatten(2)[:, :, step % settings.stride :: settings.stride].contiguous()


def update(state: HeadState, samples: Tensor, settings: RefineSettings) -> tuple[HeadState, Tensor, Tensor]:
    """One update of every active head: new state, loss (B,) and label count (B,) before it."""
    updated, velocity, loss, counts = head_refine_step(
        samples, state.head, state.velocity, lr=settings.lr, momentum=settings.momentum
    )
    label_count = (counts > 0).sum(dim=1)
    learning, single = state.active & (label_count >= 2), state.active & (label_count < 2)
    safe = _where(learning, state.head, state.safe)
    return (
        HeadState(
            head=_where(learning, updated, _where(single, safe, state.head)),
            velocity=velocity,
            safe=safe,
            active=learning & (label_count > settings.stop_labels),
            collapsed=state.collapsed | single,
        ),
        loss,
        label_count,
    )


def settle(state: HeadState, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Final heads (B, K, C) and collapsed (B,), once the last update is checked too.

    Two labels on a sample are two labels on the whole map, so this costs no second full argmax.
    """
    _, counts = cluster_argmax(samples.unsqueeze(2), state.head)
    single = (counts > 0).sum(dim=1) < 2
    return _where(single, state.safe, state.head), state.collapsed | single


def _where(condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Choose per image: condition (B,), values (B, K, C)."""
    return torch.where(condition[:, None, None], chosen, other)


def refine_head(
    features: Tensor, head: Tensor, settings: RefineSettings, progress: Progress | None = None
) -> list[Refinement]:
    """Learn the cluster head on frozen features, in closed form; with zero steps, only apply it (mode ``none``).

    Args:
        features: (B, C, S, S) from the encoder; images of a batch do not influence one another.
        head: initial head (K, C), float32 (float64 for float64 features).
        settings: steps, lr, momentum, stride, stop_labels and head_scale are used.
        progress: called after every step; once at the end where CUDA kernels make all steps in one go.

    Returns:
        one refinement per image. While it learns, labels are counted on the sampled pixels of the step.
    """
    learned = _learn_in_one_go(features, head, settings, progress)
    state, traces = learned or _learn(features, head, settings, progress)
    heads, collapsed = settle(state, _sample(features, settings, settings.steps))
    labels, counts = cluster_argmax(features, heads)
    return [
        Refinement(labels[image], counts[image], trace, bool(collapsed[image])) for image, trace in enumerate(traces)
    ]


def _learn(
    features: Tensor, head: Tensor, settings: RefineSettings, progress: Progress | None
) -> tuple[HeadState, list[list[Step]]]:
    """Update by update: the state after the last, and the trace of every image."""
    samples = [_sample(features, settings, step) for step in range(min(settings.stride, settings.steps))]
    state = begin(head, features.shape[0], settings)
    traces: list[list[Step]] = [[] for _ in range(features.shape[0])]
    for step in range(settings.steps):
        before = state
        state, loss, label_count = update(state, samples[step % settings.stride], settings)
        _extend(traces, before.active & (label_count >= 2), loss, label_count)
        if progress is not None:
            progress(step + 1, settings.steps)
        if not state.active.any():  # further updates would change nothing
            break
    return state, traces


def _learn_in_one_go(
    features: Tensor, head: Tensor, settings: RefineSettings, progress: Progress | None
) -> tuple[HeadState, list[list[Step]]] | None:
    """The same on a GPU, all updates queued at once; None where kernels cannot do that."""
    start = begin(head, features.shape[0], settings)
    done = head_refine_loop(
        features.flatten(2),
        start.head,
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
    for step in zip(learned.cpu(), done.loss.cpu(), label_counts.cpu(), strict=True):
        _extend(traces, *step)
    if progress is not None:
        progress(settings.steps, settings.steps)
    return HeadState(done.head, done.velocity, done.safe, done.active[-1], done.collapsed), traces


def _extend(traces: list[list[Step]], learned: Tensor, loss: Tensor, label_count: Tensor) -> None:
    for trace, seen, value, count in zip(traces, learned.tolist(), loss.tolist(), label_count.tolist(), strict=True):
        if seen:
            trace.append(Step(value, count))


def refine_full(
    model: MSFormer, image: Tensor, settings: RefineSettings, progress: Progress | None = None
) -> Refinement:
    """Train the whole network on one image, as published: SGD on all three losses until few labels are left.

    Args:
        model: a network at its initial state; it is trained in place.
        image: (1, 3, S, S), BGR in 0..1.
        settings: steps, lr, momentum, stop_labels and both weights are used.
        progress: called after every step.
    """
    optimiser = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum)
    trace: list[Step] = []
    safe = None
    for step in range(settings.steps):
        output = model(image)
        labels = output.logits.detach().argmax(dim=1)
        label_count = int((_counts(labels, model.clusters) > 0).sum())
        if label_count < 2:
            break
        safe = labels
        losses = self_guided_losses(output.logits, labels, output.attention, output.consistency)
        optimiser.zero_grad()
        torch.autograd.backward(losses.total(settings.inter_weight, settings.intra_weight))
        optimiser.step()
        trace.append(
            Step(losses.cross_entropy.item(), label_count, losses.inter_scale.item(), losses.intra_scale.item())
        )
        if progress is not None:
            progress(step + 1, settings.steps)
        # The published loop tests the map from before the update, and updates all the same.
        if label_count <= settings.stop_labels:
            break
    with torch.no_grad():
        labels = model.head(model.encode(image).features).argmax(dim=1)
    counts = _counts(labels, model.clusters)
    collapsed = bool((counts > 0).sum() < 2)
    if collapsed and safe is not None:
        labels, counts = safe, _counts(safe, model.clusters)
    return Refinement(labels[0].to(label_dtype(model.clusters)), counts, trace, collapsed)


def _counts(labels: Tensor, clusters: int) -> Tensor:
    return torch.bincount(labels.flatten(), minlength=clusters)
