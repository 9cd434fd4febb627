"""What the rows of a benchmark compute: how far that agrees with torch, and with ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..measures.overlap import agreement, match_labels, overlap

if TYPE_CHECKING:
    from ..segmenter import Segmentation


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a row gave for one image.

    Attributes:
        labels: (S, S) cluster ids at network resolution.
        mask: (H, W) bool, at the image's size.
    """

    labels: NDArray[np.integer]
    mask: NDArray[np.bool_]


Outcomes = dict[int, Outcome]  # by the image's place


def outcome_of(result: Segmentation) -> Outcome:
    """What is kept of a segmentation."""
    return Outcome(result.network_labels, result.mask)


def save(path: Path, outcomes: Outcomes) -> None:
    """Write outcomes for another process, as an uncompressed ``.npz``."""
    arrays: dict[str, Any] = {}
    for place, outcome in outcomes.items():
        arrays |= {f"labels {place}": outcome.labels, f"mask {place}": outcome.mask}
    np.savez(path, **arrays)


def load(path: Path) -> Outcomes:
    """Read what :func:`save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        places = [int(name.partition(" ")[2]) for name in file.files if name.startswith("labels ")]
        return {place: Outcome(file[f"labels {place}"], file[f"mask {place}"]) for place in places}


def compared(outcomes: Outcomes, reference: Outcomes) -> dict[str, float | None]:
    """Agreement with torch on the images that both have.

    Returns:
        ``label_agreement``, the mean share of pixels with one label once cluster ids are matched, and ``dice_torch``,
        the mean DSC of the masks; None where there is no image, or no mask that is not empty on both sides.
    """
    pairs = [(outcomes[place], reference[place]) for place in outcomes.keys() & reference.keys()]
    matched = [(match_labels(got.labels, right.labels), right.labels) for got, right in pairs]
    return {
        "label_agreement": _mean([agreement(*labels) for labels in matched]),
        "dice_torch": _mean([overlap(got.mask, right.mask).dsc for got, right in pairs]),
    }


def dice_truth(outcomes: Outcomes, truth: Callable[[int], NDArray[np.bool_] | None]) -> float | None:
    """Mean DSC of the label-free masks against ground truth at the images' own size; None where there is none.

    Args:
        outcomes: of a row.
        truth: the mask of an image by its place, or None.
    """
    masks = ((outcome.mask, truth(place)) for place, outcome in outcomes.items())
    return _mean([overlap(got, right).dsc for got, right in masks if right is not None])


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None
