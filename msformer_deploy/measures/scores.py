"""Scores of a mask against the truth.

DSC, HM and XOR are those of :mod:`.overlap`, IoU is 1 - HM. HD95 and the surface Dice are MONAI's. HD95 is the larger
of the two directed 95th percentiles of the distances between the masks' border pixels. The surface Dice is the share of
border pixels of both masks that lie within a tolerance of the other's border. Both use pixels of the grid on which the
masks are compared: the image's own grid, except in the ``published`` protocol.

An undefined score is NaN. It is counted but left out of means, so no empty mask ever raises a mean:

==================  ====  ==  ===  ====  =====  ============
empty               DSC   HM  XOR  IoU   HD95   surface Dice
==================  ====  ==  ===  ====  =====  ============
prediction          0     1   1    0     NaN    0
truth               0     1   NaN  0     NaN    0
both                NaN   NaN NaN  NaN   NaN    NaN
==================  ====  ==  ===  ====  =====  ============
"""

from __future__ import annotations

import importlib
import math
import warnings
from dataclasses import dataclass

from ..images.truth import Mask
from .overlap import overlap

PERCENTILE = 95


@dataclass(frozen=True)
class Scores:
    """Scores of one mask; see the module for what they are.

    Attributes:
        dsc, hm, xor, iou: scores of the overlap.
        hd95: pixels, or what :func:`.volumes.score_mask` says; None if it was not computed.
        surface_dice: 0..1; None if it was not computed.
        prediction_pixels, truth_pixels: sizes of the masks on the grid on which they are compared; of volumes in
            voxels.
    """

    dsc: float
    hm: float
    xor: float
    iou: float
    hd95: float | None
    surface_dice: float | None
    prediction_pixels: int
    truth_pixels: int


NAMES = ("dsc", "iou", "hm", "xor", "hd95", "surface_dice")
SMALLER_IS_BETTER = ("hm", "xor", "hd95")


def surfaces_missing() -> str | None:
    """Why surface scores cannot be computed, as one line; None if they can."""
    try:
        importlib.import_module("monai.metrics")
    except ImportError as error:
        return f"HD95 and surface Dice are left out: MONAI is missing ({error}); install msformer-deploy[evaluate]"
    return None


def score(prediction: Mask, truth: Mask, tolerance: float | None) -> Scores:
    """Score a mask.

    Args:
        prediction, truth: bool (H, W).
        tolerance: tolerance of the surface Dice, pixels; None leaves the surface scores out.
    """
    found = overlap(prediction, truth)
    hd95, surface_dice = (None, None) if tolerance is None else surface_scores(prediction, truth, tolerance)
    return Scores(
        dsc=found.dsc,
        hm=found.hm,
        xor=found.xor,
        iou=1 - found.hm,
        hd95=hd95,
        surface_dice=surface_dice,
        prediction_pixels=int(prediction.sum()),
        truth_pixels=int(truth.sum()),
    )


def surface_scores(prediction: Mask, truth: Mask, tolerance: float) -> tuple[float, float]:
    """HD95 in pixels and surface Dice by MONAI; for empty masks see the module.

    Args:
        prediction, truth: bool (H, W).
        tolerance: pixels.
    """
    if not (prediction.any() and truth.any()):
        return math.nan, 0.0 if prediction.any() or truth.any() else math.nan
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    ours, theirs = (torch.from_numpy(mask)[None, None] for mask in (prediction, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns about its own calls
        distance = compute_hausdorff_distance(ours, theirs, include_background=True, percentile=PERCENTILE)
        surface = compute_surface_dice(ours, theirs, [tolerance], include_background=True)
    return float(distance), float(surface)
