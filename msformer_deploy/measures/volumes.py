"""Scores of volumes against the truth: of classes or of one mask, HD95 in millimetres if the spacing is known.

HD95 is MONAI's, as in :mod:`.scores`: the larger of the two directed 95th percentiles of distances between borders. An
undefined score is NaN. It is counted but left out of means, so no empty mask ever raises a mean:

==================  ====  ====
empty               Dice  HD95
==================  ====  ====
prediction          0     NaN
truth               0     NaN
both                NaN   NaN
==================  ====  ====

The published evaluation of MCSC (Liu et al., BMVC 2023) gives 0 for both scores if a class is not predicted, although 0
is the best possible HD95, and measures distances in voxels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .overlap import overlap
from .scores import PERCENTILE, Scores

VoxelSize = tuple[float, float, float]  # millimetres between slices, rows and columns


@dataclass(frozen=True)
class VolumeScore:
    """Scores of one class of one volume; see the module for what they are.

    Attributes:
        volume: name of the volume.
        class_id: from 1; background is not scored.
        dice: 0..1.
        hd95: in the unit of the spacing; None if it was not computed.
        prediction_empty, truth_empty: whether the class is absent.
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
        dice, hd95: means over the volumes where they are defined, NaN if there are none; ``hd95`` is None if it was not
            computed.
        volumes: number of scored volumes.
        dice_defined, hd95_defined: number of volumes in the means.
        missed: number of volumes with the class where none of it was predicted.
        invented: number of volumes without the class where some of it was predicted.
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
    spacing: VoxelSize | None = None,
    *,
    distances: bool = True,
    published: bool = False,
) -> list[VolumeScore]:
    """Score every class except background.

    Args:
        name: name of the volume.
        prediction, truth: class ids (S, H, W).
        classes: number of classes, background included.
        spacing: spacing of voxels, millimetres; None for distances in voxels.
        distances: compute HD95, which needs MONAI.
        published: score empty masks as the public code does; give no spacing then.

    Raises:
        ValueError: the shapes differ, or ``published`` and a spacing are both given.
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


def score_mask(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: VoxelSize | None, *, distances: bool = True
) -> Scores:
    """Score a mask of a volume as :func:`.scores.score` does a mask of an image.

    There is no surface Dice, whose tolerance is in pixels of an image.

    Args:
        prediction, truth: bool (S, H, W).
        spacing: spacing of voxels, millimetres; None for distances in voxels.
        distances: compute HD95, which needs MONAI.
    """
    found = overlap(prediction, truth)
    hd95 = None
    if distances:
        hd95 = _hd95(prediction, truth, spacing) if prediction.any() and truth.any() else math.nan
    counts = int(prediction.sum()), int(truth.sum())
    return Scores(found.dsc, found.hm, found.xor, 1 - found.hm, hd95, None, *counts)


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


def _hd95(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], spacing: VoxelSize | None) -> float:
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    # Distances within the box that holds both masks are the same, with a fraction of the work.
    box = tuple(slice(int(places.min()), int(places.max()) + 1) for places in (ours | theirs).nonzero())
    one, other = (torch.from_numpy(np.pad(mask[box], 1))[None, None] for mask in (ours, theirs))
    steps = None if spacing is None else [float(each) for each in spacing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns about its own calls
        distance = compute_hausdorff_distance(one, other, include_background=True, percentile=PERCENTILE, spacing=steps)
    return float(distance)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
