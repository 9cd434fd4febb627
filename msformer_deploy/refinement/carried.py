"""Prompts of a volume, carried from slice to slice.

A point prompts its own slice. From there the object is followed up and down: where it was in one slice, and where the
next looks like it, the point that is deepest inside each part is a point of the next. It ends where nothing looks like
it, or where nothing that is found overlaps with it or looks like it. How the object looks is learned on the slices with
points: a linear function of the features (:class:`.volume.FigureFit`); halfway between its means on the object and
around it is the limit.

A box prompts all slices that it reaches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..foreground.morphology import grown, numbered, parts_of, shrunk
from ..foreground.prompts import Mask, Point, Prompts, disc
from ..foreground.threshold import threshold_of
from ..foreground.volume_prompts import Placed
from .volume import FigureFit

STRIDE = 3  # between the pixels, in rows and columns, on which the look of the ground is learned
UNSURE = 0.02  # a pixel counts as no surer than this is from 0 or 1
MIN_PART = 0.1  # of the object in a slice; smaller parts are not followed
WIDER = 2  # steps to neighbours around what is followed, for the probability at the volume's size gives its border

Floats = NDArray[np.float32]


def carried(
    placed: Placed,
    probability: Floats,
    size: tuple[int, int],
    features: Callable[[int], Floats],
    figure: Callable[[int, Prompts], Floats],
) -> Floats:
    """The probability that a voxel is figure, float32 (N, S, S), with prompts.

    With neither a box nor a point inside the object, slices without a point keep what they have.

    Args:
        placed: the prompts.
        probability: (N, S, S), without prompts.
        size: height and width of the slices, in whose pixels prompts are.
        features: gives those of a slice, (C, S, S).
        figure: gives the probability (S, S) of a slice with prompts.
    """

    def prompted(index: int, shown: Prompts) -> Floats:
        return shown.within(figure(index, shown), *size)

    own = {index: shown for index in range(len(probability)) if (shown := placed.of(index)) is not None}
    if placed.with_boxes:
        own = {index: shown for index, shown in own.items() if shown.boxes}
    found = np.zeros_like(probability) if placed.seeds or placed.with_boxes else probability.copy()
    for index, shown in own.items():
        found[index] = prompted(index, shown)
    if not placed.seeds:
        return found
    look = _Look({index: found[index] for index in placed.seeds}, features)
    reached: set[int] = set()
    for way in (range(placed.seeds[0], len(found)), range(placed.seeds[-1], -1, -1)):
        before: Mask | None = None  # the object in the slice before
        for index in way:
            shown, seed = own.get(index, Prompts()), index in placed.seeds
            points = [] if before is None else _deepest(before, look.like(index), shown, size)
            if points and (shown.boxes or not placed.with_boxes):
                here = prompted(index, Prompts((*shown.points, *points), shown.boxes))
            elif seed:
                here = found[index]
            else:
                before = None
                continue
            mask = here > threshold_of(here)
            if not seed:
                assert before is not None
                kept = look.same(index, mask, before)
                if not kept.any():
                    before = None
                    continue
                mask, here = kept, np.where(mask & ~grown(kept, WIDER), np.float32(0), here)
            found[index] = np.maximum(found[index], here) if index in reached else here
            reached.add(index)
            before = mask
    return found


class _Look:
    """How the object looks, and what is around it.

    Args:
        seeds: the probability (S, S) of the slices with points inside the object, by index.
        features: gives those of a slice.
    """

    def __init__(self, seeds: dict[int, Floats], features: Callable[[int], Floats]) -> None:
        self._features = features
        self._fit = FigureFit(len(features(next(iter(seeds)))))
        self._limit = np.inf  # what is nowhere or everywhere in its own slices looks like nothing in others
        masks = np.stack([each > threshold_of(each) for each in seeds.values()])
        if not masks.any() or masks.all():
            return
        for (index, probability), mask in zip(seeds.items(), masks, strict=True):
            learned = grown(mask, WIDER)
            learned[::STRIDE, ::STRIDE] = True
            known = np.clip(probability[learned], UNSURE, 1 - UNSURE)
            self._fit.add(np.ascontiguousarray(features(index)[:, learned].T), known)
        self._fit.solve()
        values = np.stack([self._values(index) for index in seeds])
        self._limit = float(values[masks].mean() + values[~masks].mean()) / 2

    def _values(self, index: int) -> Floats:
        return self._fit.logits(np.tensordot(self._fit.direction, self._features(index), 1))

    def like(self, index: int) -> Mask:
        """Where a slice looks more like the object than like what is around it, bool (S, S)."""
        return self._values(index) > self._limit

    def same(self, index: int, mask: Mask, before: Mask) -> Mask:
        """The parts of a mask that are the object of the slice before.

        They overlap with it, and look more like the object than like what is around it.
        """
        parts, values = numbered(mask), self._values(index)
        means = np.bincount(parts.ravel(), values.ravel()) / np.maximum(np.bincount(parts.ravel()), 1)
        met = np.unique(parts[mask & before])
        return np.isin(parts, met[means[met] > self._limit])


def _deepest(before: Mask, like: Mask, shown: Prompts, size: tuple[int, int]) -> list[Point]:
    """Points for a slice, in pixels of the volume: one in each part of the object, as deep as possible.

    Args:
        before: (S, S), the object in the slice before.
        like: (S, S), where this slice looks like the object.
        shown: in the slice; the points do not contradict it.
        size: height and width of the slices.
    """
    side, bounds = len(before), shown.bounds(*size)
    scale = np.array(size) / side
    free = before & like
    for x, y, inside in shown.points:
        if not inside:
            free &= disc(side, *((np.array((y, x)) + 0.5) / scale - 0.5)) == 0
    found = []
    for part in parts_of(free):
        if part.sum() < MIN_PART * before.sum():
            continue
        while (smaller := shrunk(part, 1)).any():
            part = smaller
        places = np.argwhere(part)
        nearest = np.square(places - places.mean(axis=0)).sum(axis=1).argmin()
        row, column = ((places[nearest] + 0.5) * scale).astype(int).tolist()
        allowed = bounds is None or bounds[row, column]
        if allowed and Point(column, row, inside=False) not in shown.points:  # large voxels may hold both
            found.append(Point(column, row))
    return found
