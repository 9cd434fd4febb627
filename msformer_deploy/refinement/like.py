"""A head that corrected images teach, for the other images of their folder: correct a few masks, and carry on.

For each pixel of a coarse grid it sees what the label-free rule says there and around, colours and their spread around
the pixel, and where the pixel is. These, and fixed random functions of them (an extreme learning machine: Huang et al.,
Neurocomputing 2006), are weighed by least squares with a ridge penalty (Hoerl & Kennard 1970): closed form, in NumPy.

The sum is a logit, which replaces a part of the label-free logit. How large that part is, is chosen on the corrected
images: each is segmented by a head that has not seen it, and the part with the highest mean DSC is taken. So a head
that explains the corrected masks no better than the label-free rule changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..foreground.blur import gaussian
from ..foreground.threshold import threshold_of
from ..images.read import resize_linear

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

GRID = 48  # pixels of the side of the grid
AROUND_FIGURE = (1.5, 4.0, 8.0)  # standard deviations of Gaussians on the grid, over the label-free probability
AROUND_COLOUR = (0.75, 2.0, 5.0)  # over colours
SEEN = 29  # numbers of each pixel of the grid, see :func:`seen`
HIDDEN = 100  # random functions
RIDGE = 0.1  # penalty of what is seen, as a part of its variance
RIDGE_HIDDEN = 5.0  # of the random functions; of k corrected images it is divided by k
PARTS = (0.0, 0.35, 0.7, 1.0)  # of the label-free logit that may be replaced
PART_OF_ONE = 0.2  # where one image is corrected, and none is left to judge by
CLIP = 7.0  # of logits
FARTHEST = 5.0  # deviations from the mean of what is seen; what is farther counts as this
_SURE = 1e-3  # probabilities are kept away from 0 and 1 by this
_FLATTEST = 1e-2  # added to deviations, so that nothing is divided by 0
_STEPS = 15  # of Newton's method for the two numbers that make a logit of the sum
_SEED = 0  # of the random functions


class Example(NamedTuple):
    """A corrected image.

    Attributes:
        pixels: (3, S, S) float32, BGR in 0..1, at the network's side.
        figure: (S, S) float32, the label-free probability that a pixel is figure.
        mask: (H, W) bool, corrected.
    """

    pixels: Floats
    figure: Floats
    mask: NDArray[np.bool_]


class Identity(NamedTuple):
    """What a head belongs to.

    Attributes:
        system: its name.
        side: S, pixels of the network's input.
        encoder: SHA-256 that says which encoder gave the label-free probability.
    """

    system: str
    side: int
    encoder: str


@dataclass(frozen=True, eq=False)
class LearnedHead:
    """A head that corrected images taught.

    Attributes:
        identity: what it belongs to.
        source: SHA-256 of the corrected images and masks.
        images: number of corrected images.
        part: of the label-free logit that it replaces, 0..1.
        centre, spread: (SEEN,) mean and deviation of what is seen of a pixel.
        coefficients: (SEEN + HIDDEN,) of what is seen, standardised, and of the random functions of that.
        offset: of the logit.
    """

    identity: Identity
    source: str
    images: int
    part: float
    centre: Floats
    spread: Floats
    coefficients: Floats
    offset: float

    def apply(self, pixels: Floats, figure: Floats, prompted: Floats | None = None) -> Floats:
        """The probability (S, S) that a pixel is figure, float32.

        Args:
            pixels: (3, S, S) float32, BGR in 0..1.
            figure: (S, S) float32, label-free.
            prompted: the same with prompts; what they add to its logit is added to the result's.
        """
        if self.part == 0:
            return figure if prompted is None else prompted
        rows = _rows(seen(pixels, figure), self.centre, self.spread)
        found = _mixed(rows @ self.coefficients + np.float32(self.offset), figure, self.part)
        if prompted is not None:
            found += _logit(prompted) - _logit(figure)
        return _sigmoid(found)


def learn(examples: Sequence[Example], identity: Identity) -> LearnedHead:
    """Learn a head on corrected images, of which there is at least one."""
    views = [seen(each.pixels, each.figure) for each in examples]
    truths = [_at_grid(each.mask) for each in examples]
    every = np.concatenate(views)
    centre, spread = every.mean(axis=0), every.std(axis=0) + np.float32(_SURE)
    rows = [_rows(each, centre, spread) for each in views]
    moments = [_moments(*each) for each in zip(rows, truths, strict=True)]
    whole = sum(moments, np.zeros_like(moments[0]))

    def fitted(left_out: int | None) -> tuple[Floats, float]:
        kept = [index for index in range(len(rows)) if index != left_out]
        total = whole if left_out is None else whole - moments[left_out]
        coefficients = _solve(total / len(kept), len(views[0][0]), len(kept))
        scores = np.concatenate([rows[index] @ coefficients for index in kept])
        slope, offset = _calibrated(scores, np.concatenate([truths[index] for index in kept]))
        return (slope * coefficients).astype(np.float32), offset

    part = PART_OF_ONE
    if len(examples) > 1:
        reached = np.zeros(len(PARTS))
        for index, example in enumerate(examples):
            coefficients, offset = fitted(index)
            logits = rows[index] @ coefficients + np.float32(offset)
            reached += [_dsc(_sigmoid(_mixed(logits, example.figure, each)), example.mask) for each in PARTS]
        part = PARTS[int(reached.argmax())]  # of equal ones the smallest
    coefficients, offset = fitted(None)
    return LearnedHead(identity, _source(examples), len(examples), part, centre, spread, coefficients, offset)


def seen(pixels: Floats, figure: Floats) -> Floats:
    """What is seen of each pixel of the grid, (GRID², SEEN); arguments as for :meth:`LearnedHead.apply`."""
    figure = resize_linear(figure, GRID, GRID)
    colours = np.stack([resize_linear(each, GRID, GRID) for each in pixels])
    colours = (colours - colours.mean()) / (colours.std() + _FLATTEST)
    places = np.linspace(-1, 1, GRID, dtype=np.float32)
    y, x = np.meshgrid(places, places, indexing="ij")
    maps = [_logit(figure), figure, *(gaussian(figure, each) for each in AROUND_FIGURE), *colours]
    for each in AROUND_COLOUR:
        around = gaussian(colours, each)
        spread = np.sqrt(np.maximum(gaussian(colours**2, each) - around**2, 0)).mean(axis=0)
        maps += [*around, spread]
    maps += [x, y, x * x, y * y, x * y, x**3, y**3, x * x * y, x * y * y]
    return np.stack(maps).reshape(len(maps), -1).T.astype(np.float32)


def _source(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for each in examples:
        digest.update(repr(each.mask.shape).encode() + np.packbits(each.mask).tobytes())
        digest.update(np.ascontiguousarray(each.pixels).tobytes())
    return digest.hexdigest()


def _rows(view: Floats, centre: Floats, spread: Floats) -> Floats:
    """What is seen, standardised, and random functions of that: (GRID², SEEN + HIDDEN)."""
    rows = np.clip((view - centre) / spread, -FARTHEST, FARTHEST)
    random = np.random.default_rng(_SEED)
    weights = random.standard_normal((rows.shape[1], HIDDEN)).astype(np.float32) / np.float32(np.sqrt(rows.shape[1]))
    return np.concatenate([rows, np.maximum(rows @ weights + random.uniform(-2, 2, HIDDEN).astype(np.float32), 0)], 1)


def _moments(rows: Floats, truth: Floats) -> Doubles:
    """Means of products of what is seen, a constant and the target -1..1 of one image."""
    all_of_it = np.column_stack([rows, np.ones(len(rows)), 2 * truth - 1]).astype(np.float64)
    return np.asarray(all_of_it.T @ all_of_it / len(rows))


def _solve(moments: Doubles, seen_of_it: int, images: int) -> Floats:
    """Coefficients of the ridge regression, without a constant."""
    means = moments[:-2, -2]
    covariance = moments[:-2, :-2] - np.outer(means, means)
    right = moments[:-2, -1] - means * moments[-2, -1]
    spread = np.sqrt(np.maximum(np.diag(covariance), 0)) + _SURE
    penalty = np.full(len(means), RIDGE_HIDDEN / images)
    penalty[:seen_of_it] = RIDGE
    solved = np.linalg.solve(covariance / np.outer(spread, spread) + np.diag(penalty), right / spread)
    return np.asarray(solved / spread, np.float32)


def _calibrated(scores: Floats, truth: Floats) -> tuple[float, float]:
    """Slope and offset that make logits of scores: a logistic regression on one number (Platt 1999)."""
    inputs = np.column_stack([scores, np.ones(len(scores))]).astype(np.float64)
    found = np.zeros(2)
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-np.clip(inputs @ found, -30, 30)))
        curved = (inputs.T * np.maximum(likely * (1 - likely), 1e-4)) @ inputs + 1e-6 * np.eye(2)
        found = found + np.linalg.solve(curved, inputs.T @ (truth - likely))
    return float(found[0]), float(found[1])


def _mixed(logits: Floats, figure: Floats, part: float) -> Floats:
    """Logits on the grid and the label-free ones at the network's side, (S, S)."""
    fine = resize_linear(np.clip(logits, -CLIP, CLIP).reshape(GRID, GRID), *figure.shape)
    return np.asarray(np.float32(part) * fine + np.float32(1 - part) * _logit(figure))


def _dsc(probability: Floats, mask: NDArray[np.bool_]) -> float:
    found = resize_linear(probability, *mask.shape) > threshold_of(probability)
    total = int(found.sum()) + int(mask.sum())
    return 2 * int((found & mask).sum()) / total if total else 1.0


def _at_grid(mask: NDArray[np.bool_]) -> Floats:
    return (resize_linear(mask.astype(np.float32), GRID, GRID) > 0.5).astype(np.float32).ravel()


def _logit(probability: Floats) -> Floats:
    kept = np.clip(probability, _SURE, 1 - _SURE)
    return np.log(kept / (1 - kept), dtype=np.float32)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), np.float32)
