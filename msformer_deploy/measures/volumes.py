"""How well classes of a volume agree with the truth: Dice and HD95 of each, in millimetres where the spacing is known.

HD95 is MONAI's, as in :mod:`.scores`: the larger of the two directed 95th percentiles of distances between borders. A
score that is not defined is NaN, is left out of means and is counted; no empty mask ever raises a mean:

==================  ====  ====
empty               Dice  HD95
==================  ====  ====
prediction          0     NaN
truth               0     NaN
both                NaN   NaN
==================  ====  ====

As published, MCSC (Liu et al., BMVC 2023) gives 0 for both scores where a class is not predicted, which is the best
HD95 there is, and measures distances in voxels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scores import PERCENTILE

Spacing = tuple[float, float, float]  # millimetres between slices, rows and columns


@dataclass(frozen=True)
class VolumeScore:
    """Scores of one class of one volume; see the module for what they are.

    Attributes:
        volume: its name.
        class_id: from 1; background is not scored.
        dice: 0..1.
        hd95: in the unit of the spacing; None where it was not asked for.
        prediction_empty, truth_empty: whether the class is nowhere.
    """

    volume: str
    class_id: int
    dice: float
    hd95: float | None
    prediction_empty: bool
    truth_empty: bool


@dataclass(frozen=True)
class ClassSummary:
    """Scores of one class over volumes.

    Attributes:
        class_id: from 1.
        dice, hd95: means over volumes where they are defined, NaN where that is none; ``hd95`` None if not asked for.
        volumes: that were scored.
        dice_defined, hd95_defined: volumes in the means.
        missed: volumes that have the class, and none of it was predicted.
        invented: volumes without the class, and some of it was predicted.
    """

    class_id: int
    dice: float
    hd95: float | None
    volumes: int
    dice_defined: int
    hd95_defined: int
    missed: int
    invented: int


def score_volume(
    name: str,
    prediction: NDArray[Any],
    truth: NDArray[Any],
    classes: int,
    spacing: Spacing | None = None,
    *,
    distances: bool = True,
    published: bool = False,
) -> list[VolumeScore]:
    """Score every class but background.

    Args:
        name: of the volume.
        prediction, truth: class ids (S, H, W).
        classes: background among them.
        spacing: of voxels; None for distances in voxels.
        distances: whether HD95 is computed, which needs MONAI.
        published: empty masks as the public code has them; that goes with no spacing.

    Raises:
        ValueError: the shapes differ, or a spacing goes with ``published``.
    """
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise ValueError(f"volumes must have one shape (S, H, W), got {prediction.shape} and {truth.shape}")
    if published and spacing is not None:
        raise ValueError("published distances are in voxels; give no spacing")
    scores = []
    for class_id in range(1, classes):
        ours, theirs = prediction == class_id, truth == class_id
        nothing, absent = not ours.any(), not theirs.any()
        hd95 = None
        if distances:
            hd95 = math.nan if nothing or absent else _hd95(ours, theirs, spacing)
            hd95 = 0.0 if published and math.isnan(hd95) else hd95
        dice = math.nan if nothing and absent and not published else _dice(ours, theirs)
        scores.append(VolumeScore(name, class_id, dice, hd95, nothing, absent))
    return scores


def summarise(scores: Sequence[VolumeScore]) -> list[ClassSummary]:
    """The means of each class, in the order of the classes."""
    found = []
    for class_id in sorted({each.class_id for each in scores}):
        own = [each for each in scores if each.class_id == class_id]
        dice = [each.dice for each in own if not math.isnan(each.dice)]
        measured = [each.hd95 for each in own if each.hd95 is not None]
        hd95 = [each for each in measured if not math.isnan(each)]
        found.append(
            ClassSummary(
                class_id,
                _mean(dice),
                _mean(hd95) if measured else None,
                len(own),
                len(dice),
                len(hd95),
                sum(each.prediction_empty and not each.truth_empty for each in own),
                sum(each.truth_empty and not each.prediction_empty for each in own),
            )
        )
    return found


def _dice(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    return 2 * int((ours & theirs).sum()) / max(int(ours.sum()) + int(theirs.sum()), 1)


def _hd95(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], spacing: Spacing | None) -> float:
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    # Distances within the box that holds both are the same, and a fraction of the work.
    box = tuple(slice(int(places.min()), int(places.max()) + 1) for places in (ours | theirs).nonzero())
    one, other = (torch.from_numpy(np.pad(mask[box], 1))[None, None] for mask in (ours, theirs))
    steps = None if spacing is None else [float(each) for each in spacing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of how it calls itself
        distance = compute_hausdorff_distance(one, other, include_background=True, percentile=PERCENTILE, spacing=steps)
    return float(distance)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
