"""Mode ``full``: the whole network is trained on its image, as published."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.reference import label_dtype
from ..losses.self_guided import Losses, S3Losses
from ..models.msformer import MSFormer
from ..models.s3net import S3Net
from ..registry import RefineSettings
from .outcome import Lap, Progress, Refinement, Step, no_lap
from .passes import Passes


def refine_full(
    model: MSFormer | S3Net,
    image: Tensor,
    settings: RefineSettings,
    progress: Progress | None = None,
    lap: Lap | None = None,
    passes: Passes | None = None,
) -> Refinement[Tensor]:
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
    lap, passes = lap or no_lap, passes or Passes()
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
        scores = model.scores(image)
        labels = scores.argmax(dim=1)
    counts = _counts(labels, model.clusters)
    collapsed = bool((counts > 0).sum() < 2)
    if collapsed and safe is not None:
        labels, counts = safe, _counts(safe, model.clusters)
    lap("argmax")
    return Refinement(labels[0].to(label_dtype(model.clusters)), counts, trace, collapsed, scores[0])


def _total(losses: Losses | S3Losses, settings: RefineSettings) -> Tensor:
    if isinstance(losses, S3Losses):
        return losses.total(settings.cross_entropy_weight, settings.affine_weight, settings.spatial_weight)
    return losses.total(settings.inter_weight, settings.intra_weight)


def _distinct(labels: Tensor, clusters: int) -> Tensor:
    """How many labels there are, without waiting for a GPU to tell."""
    return labels.new_zeros(clusters).scatter_(0, labels.flatten(), 1).sum()


def _counts(labels: Tensor, clusters: int) -> Tensor:
    return torch.bincount(labels.flatten(), minlength=clusters)
