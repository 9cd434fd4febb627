"""Learning on a volume: one head and one figure for all of its slices, so that a cluster means the same in every slice.

Both are learned as on an image (:mod:`.head`, :mod:`..models.figure`), in NumPy, from pixels of all slices: the head
from samples, the figure from sums over pixels, which do not grow with the number of slices. For a volume of one slice
the results are those of the whole-method graph up to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..images.read import resize_linear
from ..registry import FigureSettings, RefineSettings

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

MAX_SAMPLES = 20_000  # pixels of the whole volume for one update of the head
FIGURE = FigureSettings()


class Slice(NamedTuple):
    """What is found in a slice, at the network's side.

    Attributes:
        labels: (S, S) cluster ids, uint8 (uint16 over 256 clusters).
        probability: (S, S) float32, that a pixel is figure.
    """

    labels: NDArray[np.integer]
    probability: Floats


class Learner:
    """What is learned on a volume.

    First :meth:`see` takes every slice, then :meth:`learn` is called once, and then :meth:`apply` gives the result of
    any slice.

    Args:
        head: the initial head, float32 (K, C).
        settings: the refinement, mode ``head`` or ``none``.
        slices: number of slices.
        side: S, of the features.

    Attributes:
        counts: (K,) int64, pixels of each cluster in all slices that :meth:`apply` has seen.
        collapsed: whether learning fell to a single label and was set back.

    Raises:
        UsageError: there are fewer pixels than the stride needs.
    """

    def __init__(self, head: Floats, settings: RefineSettings, slices: int, side: int) -> None:
        if min(settings.stride, settings.steps + 1) > side * side:
            raise UsageError(
                f"refinement stride {settings.stride} is too large for {side * side} pixels, because some steps would"
                " have no sample; choose a smaller one"
            )
        self._settings, self._side = settings, side
        self._start = np.float32(settings.head_scale) * head
        # Of a large volume, every slice gives fewer pixels, other ones than its neighbours.
        self._thinned = max(1, -(-slices * side * side // settings.stride // MAX_SAMPLES))
        phases = min(settings.stride, settings.steps + 1)
        self._samples: list[list[Floats]] = [[] for _ in range(phases)]
        self._seen = 0
        self._figure = FigureSums(head.shape[1])
        self._ids = np.zeros(0, np.int64)
        self._head = self._start
        self.counts = np.zeros(len(head), np.int64)
        self.collapsed = False

    def see(self, features: Floats, logits: Floats) -> None:
        """Take pixels of a slice to learn from.

        Args:
            features: (C, S, S).
            logits: (N, N), of the prior, that a pixel is figure.
        """
        rows = _rows(features)
        step = self._settings.stride * self._thinned
        own = self._settings.stride * (self._seen % self._thinned)
        for phase, samples in enumerate(self._samples):
            samples.append(np.ascontiguousarray(rows[phase + own :: step]))
        self._figure.add(features, logits)
        self._seen += 1

    def learn(self) -> None:
        """Learn the head and the figure on what was seen."""
        samples = [np.concatenate(each) for each in self._samples]
        self._samples.clear()
        head, counts, self.collapsed = learn_head(samples, self._start, self._settings)
        clusters, regions = len(head), self._settings.regions
        if 0 < regions < clusters:  # of equal ones, those that come first
            self._ids = np.argsort(-counts, kind="stable")[:regions]
        else:
            self._ids = np.arange(clusters)
        self._head = head[self._ids]
        self._figure.solve()

    def apply(self, features: Floats, logits: Floats, image: Floats) -> Slice:
        """The result of a slice.

        Args:
            features, logits: as :meth:`see` has taken them.
            image: (3, S, S) float32 in 0..1, whose edges the probability follows.
        """
        rows = _rows(features)
        ranks = (rows @ self._head.T).argmax(axis=1)
        kind = np.uint8 if self.counts.size <= 256 else np.uint16
        labels = self._ids[ranks].astype(kind).reshape(self._side, self._side)
        self.counts += np.bincount(labels.ravel(), minlength=self.counts.size)
        learned = self._figure.logits(rows).reshape(self._side, self._side)
        probability = _sigmoid(resize_linear(logits, self._side, self._side) + learned)
        return Slice(labels, _on_edges(probability, image.mean(axis=0)))


def learn_head(samples: list[Floats], head: Floats, settings: RefineSettings) -> tuple[Floats, NDArray[np.int64], bool]:
    """The closed-form learning of the head, see :func:`.head.refine_head`.

    Args:
        samples: (n, C) pixels for each phase of the stride.
        head: (K, C), scaled.
        settings: steps, lr, momentum, stride and stop_labels are used.

    Returns:
        the head, the pixels of each of its clusters on the last sample, and whether it fell to one label.
    """
    head, velocity = head.copy(), np.zeros_like(head)
    safe, active, collapsed = head.copy(), True, False
    for step in range(settings.steps):
        rows = samples[step % settings.stride]
        scores = rows @ head.T
        winners = scores.argmax(axis=1)
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        scores[np.arange(len(rows)), winners] -= 1
        velocity = np.float32(settings.momentum) * velocity + scores.T @ rows / np.float32(len(rows))
        labels = np.unique(winners).size
        if labels >= 2:
            safe = head.copy()
            head -= np.float32(settings.lr) * velocity
        else:
            collapsed, head = True, safe.copy()
        active = labels > max(1, settings.stop_labels)
        if not active:
            break
    rows = samples[settings.steps % settings.stride]
    counts = _counted(rows, head)
    if np.count_nonzero(counts) < 2:
        head, collapsed = safe, True
        counts = _counted(rows, head)
    return head, counts, collapsed


def _counted(rows: Floats, head: Floats) -> NDArray[np.int64]:
    return np.bincount((rows @ head.T).argmax(axis=1), minlength=len(head)).astype(np.int64)


class FigureSums:
    """What :func:`..models.figure.learn` fits, from sums over the pixels of all slices.

    The weights give figure and ground the same sum, and that is only known at the end: so there are two sets of sums,
    weighted for the figure and for the ground.

    Args:
        channels: C, of the features.
    """

    def __init__(self, channels: int) -> None:
        size = channels + 2  # features, target, and 1
        self._sums = np.zeros((2, size, size))
        self._shift: Floats | None = None  # near the mean: sums of squares lose digits far from it
        self._direction, self._offset, self._gain = np.zeros(channels, np.float32), np.float32(0), np.float32(0)

    def add(self, features: Floats, logits: Floats) -> None:
        """Add the pixels of a slice: features (C, S, S), logits (N, N)."""
        side = features.shape[1]
        stride = max(1, side // FIGURE.grid)
        rows = _rows(features[:, ::stride, ::stride])
        p = _sigmoid(resize_linear(logits, side, side)[::stride, ::stride]).reshape(-1, 1)
        target = 2 * p - 1
        weight = np.abs(target) + np.float32(FIGURE.no_weight)
        if self._shift is None:
            self._shift = rows.mean(axis=0)
        joined = np.concatenate([rows - self._shift, target, np.ones_like(target)], axis=1)
        for sums, share in zip(self._sums, (p, 1 - p), strict=True):
            sums += joined.T @ (weight * share * joined)

    def solve(self) -> None:
        """Fit the linear function of the features."""
        assert self._shift is not None
        of_figure, of_ground = self._sums
        moments = (of_figure / of_figure[-1, -1] + of_ground / of_ground[-1, -1]) / 2
        centre, level = moments[:-2, -1], moments[-2, -1]
        spread = np.sqrt(np.maximum(np.diag(moments)[:-2] - centre**2, 0)) + FIGURE.no_spread
        covariance = (moments[:-2, :-2] - np.outer(centre, centre)) / np.outer(spread, spread)
        right = (moments[:-2, -2] - centre * level) / spread
        coefficients = _conjugate_gradients(covariance, right)
        total = moments[-2, -2] - level**2
        unexplained = total - 2 * coefficients @ right + coefficients @ covariance @ coefficients
        explained = max(1 - unexplained / total, 0.0)
        direction = coefficients / spread
        self._direction = direction.astype(np.float32)
        self._offset = np.float32(level - (centre + self._shift) @ direction)
        self._gain = np.float32(FIGURE.gain * explained**2)

    def logits(self, rows: Floats) -> Floats:
        """What is added to the prior's logits of pixels with features (n, C): (n,)."""
        score = rows @ self._direction + self._offset
        return np.asarray(self._gain * np.clip(score, -FIGURE.clip, FIGURE.clip))


def _conjugate_gradients(covariance: Doubles, right: Doubles) -> Doubles:
    """As in :mod:`..models.figure`: few steps, residuals kept orthogonal to all before them."""
    solution, residual, direction = np.zeros_like(right), right.copy(), right.copy()
    energy = residual @ residual
    known = [residual / np.sqrt(max(energy, FIGURE.no_energy))]
    for _ in range(min(FIGURE.steps, right.size)):
        ahead = covariance @ direction + FIGURE.ridge * direction
        length = energy / max(direction @ ahead, FIGURE.no_energy)
        solution = solution + length * direction
        residual = residual - length * ahead
        basis = np.stack(known)
        residual = residual - (basis @ residual) @ basis
        before, energy = energy, residual @ residual
        known.append(residual / np.sqrt(max(energy, FIGURE.no_energy)))
        direction = residual + energy / max(before, FIGURE.no_energy) * direction
    return solution


def _on_edges(values: Floats, guide: Floats) -> Floats:
    """The guided filter of :mod:`..models.figure`: (S, S) values follow the edges of (S, S) grey values."""
    side = len(guide)
    places = np.arange(side)
    near = (np.abs(places[:, None] - places) <= max(1, round(FIGURE.radius * side))).astype(np.float32)
    near /= near.sum(axis=1, keepdims=True)

    def mean(maps: Floats) -> Floats:
        return near @ maps @ near.T

    average, guided, squared, product = mean(np.stack([values, guide, guide * guide, guide * values]))
    slope = (product - guided * average) / (squared - guided * guided + np.float32(FIGURE.contrast))
    slope, offset = mean(np.stack([slope, average - slope * guided]))
    return np.clip(slope * guide + offset, 0, 1).astype(np.float32)


def _rows(features: Floats) -> Floats:
    """Features (C, S, S), channels first or last in memory, as (S * S, C): a view of whole maps."""
    return features.transpose(1, 2, 0).reshape(-1, len(features))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), np.float32)
