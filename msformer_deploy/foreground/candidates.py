"""Several plausible objects, where an image leaves open which one is meant, such as one cell or all cells.

Masks are compared where they are small and drawn at the image's size only when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..images.read import resize_linear, resize_nearest
from .confidence import Confidence, confidence_of, soft_dice
from .morphology import grown, numbered
from .rules import MAX_CANDIDATES
from .threshold import threshold_of

THRESHOLDS = (0.15, 0.3, 0.5, 0.7, 0.85)  # of the probability
PARTS = 2  # connected parts that are tried above each threshold
MIN_AREA = 0.003  # of the image; what is smaller is a speck
WIDER = 2  # steps to neighbours
MAX_IOU = 0.6  # with each candidate before; what overlaps more is the same object

Mask = NDArray[np.bool_]
Probability = NDArray[np.float32]
AnyCandidate = TypeVar("AnyCandidate", "Candidate", "VolumeCandidate")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One plausible object.

    Attributes:
        confidence: the DSC to expect of it (:mod:`.confidence`).
        probability: float32 (H, W) in 0..1, that a pixel is figure, at the image's size.
        threshold: the object is where the probability is above it,
        within: and where this is true, bool (S, S) over the whole image; None means everywhere.
        settle: changes that mask, so that it obeys prompts; None means that there are none.
    """

    confidence: Confidence
    probability: Probability
    threshold: float
    within: Mask | None = None
    settle: Callable[[Mask], Mask] | None = None

    @cached_property
    def mask(self) -> Mask:
        """Where the object is, bool (H, W) at the image's size; made when it is first asked for."""
        mask = self.probability > self.threshold
        if self.within is not None:
            mask &= resize_nearest(self.within, *mask.shape)
        return mask if self.settle is None else self.settle(mask)


@dataclass(frozen=True, eq=False)
class VolumeCandidate:
    """One plausible object in a volume.

    Attributes:
        confidence: the DSC to expect of it (:mod:`.confidence`).
        probability: float32 (N, S, S) in 0..1, that a voxel is figure.
        threshold: the object is where the probability is above it,
        within: and where this is true, bool (N, S, S); None means everywhere.
        settle: changes that mask in a slice, so that it obeys prompts; None means that there are none.
    """

    confidence: Confidence
    probability: Probability
    threshold: float
    within: Mask | None = None
    settle: Callable[[int, Mask], Mask] | None = None

    @property
    def mask(self) -> Mask:
        """Where the object is, bool (N, S, S), before it is settled."""
        above = self.probability > self.threshold
        return above if self.within is None else above & self.within

    def at_size(self, index: int, height: int, width: int) -> Mask:
        """Where the object is in a slice, bool (height, width)."""
        mask = resize_linear(self.probability[index], height, width) > self.threshold
        if self.within is not None:
            mask &= resize_nearest(self.within[index], height, width)
        return mask if self.settle is None else self.settle(index, mask)


def candidates(
    probability: Probability, at_size: Probability, settle: Callable[[Mask], Mask] | None = None
) -> list[Candidate]:
    """Up to :data:`.rules.MAX_CANDIDATES` plausible objects; equal arguments give equal ones.

    The first is the mask of ``auto``, at the threshold with the highest expected DSC (:mod:`.threshold`). The others
    are regions above :data:`THRESHOLDS`, all of a region or one of its heaviest connected parts, those with the highest
    soft Dice with the probability first.

    Args:
        probability: float32 (S, S) in 0..1, that a pixel is figure; objects are chosen on it.
        at_size: float32 (H, W), the same at the image's size; their masks are drawn from it.
        settle: changes a mask (H, W), so that it obeys prompts.
    """
    return [
        Candidate(confidence, at_size, threshold, within, settle)
        for confidence, threshold, within in _plausible(probability)
    ]


def volume_candidates(
    probability: Probability, settle: Callable[[int, Mask], Mask] | None = None
) -> list[VolumeCandidate]:
    """The same for a volume: one threshold for all slices, and parts that are connected through slices.

    Args:
        probability: float32 (N, S, S) in 0..1, that a voxel is figure.
        settle: changes the mask (H, W) of a slice, given its index, so that it obeys prompts.
    """
    return [
        VolumeCandidate(confidence, probability, threshold, within, settle)
        for confidence, threshold, within in _plausible(probability)
    ]


def _plausible(probability: Probability) -> Iterator[tuple[Confidence, float, Mask | None]]:
    """Confidence, threshold and ``within`` of each candidate."""
    threshold = threshold_of(probability)
    masks = [probability > threshold]
    yield confidence_of(masks[0], probability), threshold, None
    for region in sorted(_regions(probability), key=lambda each: -each.dice):
        if len(masks) == MAX_CANDIDATES:
            break
        mask = region.mask
        if all(_iou(mask, before) < MAX_IOU for before in masks):
            masks.append(mask)
            yield confidence_of(mask, probability), region.threshold, region.within


def take(found: Sequence[AnyCandidate], number: int, name: str) -> AnyCandidate:
    """The candidate of a number, counted from 1.

    Args:
        found: all that the image has.
        number: of the one that is wanted.
        name: of the image, for the message.

    Raises:
        ImageError: the image has fewer.
    """
    if number > len(found):
        count = "1 candidate" if len(found) == 1 else f"{len(found)} candidates"
        others = " or ".join(f"candidate:{each}" for each in range(1, len(found) + 1))
        raise ImageError(f"{name}: has only {count}, so candidate:{number} does not exist; choose {others}")
    return found[number - 1]


class _Region(NamedTuple):
    """What is above a threshold, or a part of it.

    Attributes:
        dice: soft Dice with the probability.
        threshold: of the probability.
        numbered: (S, S) or (N, S, S), the connected parts above the threshold, counted from 1; 0 elsewhere.
        part: number of the part; None means all parts.
    """

    dice: float
    threshold: float
    numbered: NDArray[np.intp]
    part: int | None

    @property
    def mask(self) -> Mask:
        return self.numbered > 0 if self.part is None else self.numbered == self.part

    @property
    def within(self) -> Mask | None:
        """Where to draw it: wider, for the probability at the image's size gives its border; without other parts."""
        if self.part is None:
            return None
        wider = grown(self.mask, WIDER) if self.mask.ndim == 2 else np.stack([grown(each, WIDER) for each in self.mask])
        return wider & ((self.numbered == 0) | self.mask)


def _regions(probability: Probability) -> Iterator[_Region]:
    """All regions that are neither specks nor the whole image; a speck of a volume is one of a slice."""
    minimum = MIN_AREA * probability.shape[-2] * probability.shape[-1]
    total, weights = float(probability.sum()), probability.ravel().astype(np.float64)
    for threshold in THRESHOLDS:
        parts = numbered(probability > threshold)
        areas, masses = np.bincount(parts.ravel()), np.bincount(parts.ravel(), weights)
        heaviest = 1 + np.argsort(-masses[1:], kind="stable")[:PARTS]
        for part, mass, area in (
            (None, masses[1:].sum(), areas[1:].sum()),
            *((int(each), masses[each], areas[each]) for each in heaviest),
        ):
            if minimum <= area < probability.size:
                yield _Region(soft_dice(float(mass), total, float(area)), threshold, parts, part)


def _iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())
