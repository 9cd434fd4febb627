"""Learning on a volume: one head and one figure for all of its slices, so that a cluster means the same in every slice.

Both are learned as on an image (:mod:`.head`, :mod:`..models.figure`), in NumPy, from samples of all slices; their
number has a limit, so that memory does not grow with the number of slices. For a volume of one slice the results are
those of the whole-method graph up to rounding.
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

MAX_SAMPLES = 20_000  # pixels of the whole volume for one update of the head, and for the figure
FIGURE = FigureSettings()


class SliceResult(NamedTuple):
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
        self._grid = max(1, side // FIGURE.grid)
        self._grid_thinned = max(1, -(-slices * len(range(0, side, self._grid)) ** 2 // MAX_SAMPLES))
        self._figure = FigureFit(head.shape[1])
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
        grid = _rows(features[:, :: self._grid, :: self._grid])
        known = _sigmoid(resize_linear(logits, self._side, self._side)[:: self._grid, :: self._grid]).ravel()
        every = slice(self._seen % self._grid_thinned, None, self._grid_thinned)
        self._figure.add(np.ascontiguousarray(grid[every]), known[every])
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

    def apply(self, features: Floats, logits: Floats, image: Floats) -> SliceResult:
        """The result of a slice.

        Args:
            features, logits: as :meth:`see` has taken them.
            image: (3, S, S) float32 in 0..1, whose edges the probability follows.
        """
        products = _rows(features) @ np.concatenate([self._head, self._figure.direction[None]]).T
        ranks = products[:, :-1].argmax(axis=1)
        kind = np.uint8 if self.counts.size <= 256 else np.uint16
        labels = self._ids[ranks].astype(kind).reshape(self._side, self._side)
        self.counts += np.bincount(labels.ravel(), minlength=self.counts.size)
        learned = self._figure.logits(products[:, -1]).reshape(self._side, self._side)
        probability = _sigmoid(resize_linear(logits, self._side, self._side) + learned)
        return SliceResult(labels, _on_edges(probability, image.mean(axis=0)))


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


class FigureFit:
    """The linear function of the features that :func:`..models.figure.learn` adds to the prior's logits.

    It is fitted once, to samples of all slices: a product of matrices for every slice would wake the threads of a
    matrix library, which compete with those of the encoder.

    Args:
        channels: C, of the features.
    """

    def __init__(self, channels: int) -> None:
        self._rows: list[Floats] = []
        self._probability: list[Floats] = []
        self.direction, self._offset, self._gain = np.zeros(channels, np.float32), np.float32(0), np.float32(0)

    def add(self, rows: Floats, probability: Floats) -> None:
        """Add pixels: features (n, C), and what the prior says of them (n,)."""
        self._rows.append(rows)
        self._probability.append(probability)

    def solve(self) -> None:
        """Fit the function, and drop the pixels."""
        rows = np.concatenate(self._rows).astype(np.float64)
        p = np.concatenate(self._probability).astype(np.float64)
        self._rows.clear()
        self._probability.clear()
        target = 2 * p - 1
        weight = np.abs(target) + FIGURE.no_weight
        weight *= (p / (weight @ p) + (1 - p) / (weight @ (1 - p))) / 2
        centre, level = weight @ rows, weight @ target
        rows -= centre
        spread = np.sqrt(weight @ np.square(rows)) + FIGURE.no_spread
        rows /= spread
        target -= level
        weighted = rows.T * weight
        coefficients = _conjugate_gradients(weighted @ rows, weighted @ target)
        missed = target - rows @ coefficients
        explained = max(1 - float(weight @ np.square(missed)) / float(weight @ np.square(target)), 0.0)
        direction = coefficients / spread
        self.direction = direction.astype(np.float32)
        self._offset = np.float32(level - centre @ direction)
        self._gain = np.float32(FIGURE.gain * explained**2)

    def logits(self, products: Floats) -> Floats:
        """What is added to the prior's logits of pixels, from the products of their features with the direction."""
        return np.asarray(self._gain * np.clip(products + self._offset, -FIGURE.clip, FIGURE.clip))


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
    radius = max(1, round(FIGURE.radius * len(guide)))

    def mean(maps: Floats) -> Floats:
        return _windowed(_windowed(maps, radius).swapaxes(1, 2), radius).swapaxes(1, 2)

    average, guided, squared, product = mean(np.stack([values, guide, guide * guide, guide * values]))
    slope = (product - guided * average) / (squared - guided * guided + np.float32(FIGURE.contrast))
    slope, offset = mean(np.stack([slope, average - slope * guided]))
    return np.clip(slope * guide + offset, 0, 1).astype(np.float32)


def _windowed(maps: Floats, radius: int) -> Floats:
    """Means down the columns of maps (B, H, W), over windows that the border cuts off."""
    height = maps.shape[1]
    sums = np.zeros((maps.shape[0], height + 1, maps.shape[2]))
    np.cumsum(maps, axis=1, out=sums[:, 1:])
    places = np.arange(height)
    first, last = np.maximum(places - radius, 0), np.minimum(places + radius + 1, height)
    return ((sums[:, last] - sums[:, first]) / (last - first)[:, None]).astype(np.float32)


def _rows(features: Floats) -> Floats:
    """Features (C, S, S), channels first or last in memory, as (S * S, C): a view of whole maps."""
    return features.transpose(1, 2, 0).reshape(-1, len(features))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), np.float32)
