"""Statistics of latency samples: percentiles, warnings, and ratios with intervals. No sample is ever removed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)
NOISY = 0.10  # coefficient of variation, or (p95 - p50) / p50, above which samples are noisy
DRIFT = 0.05  # change over the whole measurement, relative to the median, above which it is drift
CONFIDENCE = 0.95  # of every interval
RESAMPLES = 2000  # of every bootstrap: each 2.5 % tail holds 50 of them
SEED = 0

_DRIFT_CONFIDENCE = 0.99  # stricter: at 0.95, every twentieth quiet row would get a warning
_DRIFT_POINTS = 20  # medians of consecutive samples: single samples are correlated, and chance would look like drift
_MIN_FOR_DRIFT = 10
_RESAMPLED_AT_ONCE = 1_000_000  # values


class Interval(NamedTuple):
    """A ratio and its interval of :data:`CONFIDENCE`; both ends are None if the spread is unknown."""

    ratio: float
    low: float | None
    high: float | None


def summarise(samples_ms: Sequence[float]) -> dict[str, float | int | None]:
    """Return percentiles and moments of the samples.

    Args:
        samples_ms: latencies in milliseconds, at least one.

    Returns:
        ``p50_ms``, ``p90_ms``, ``p95_ms``, ``p99_ms`` (linear between order statistics), ``min_ms``, ``max_ms``,
        ``mean_ms``, ``std_ms`` (of a sample, n - 1), ``cv`` (std over mean) and ``iterations``. ``std_ms`` and ``cv``
        are None for a single sample.
    """
    samples = _array(samples_ms)
    mean = float(samples.mean())
    std = float(samples.std(ddof=1)) if samples.size > 1 else None
    return {
        **{
            f"p{percentile}_ms": float(value)
            for percentile, value in zip(PERCENTILES, np.percentile(samples, PERCENTILES), strict=True)
        },
        "min_ms": float(samples.min()),
        "max_ms": float(samples.max()),
        "mean_ms": mean,
        "std_ms": std,
        "cv": None if std is None else std / mean,
        "iterations": int(samples.size),
    }


def warnings(samples_ms: Sequence[float]) -> list[str]:
    """Return warnings on few samples, noise and drift, one line each.

    Drift is the slope of Theil (1950) and Sen (1968) over the order of measurement, times the number of samples. It is
    reported if its interval excludes zero and it is more than :data:`DRIFT` of the median.

    Args:
        samples_ms: latencies in milliseconds in order of measurement, at least one.
    """
    samples = _array(samples_ms)
    found = [*_few(samples.size)]
    p50, p95 = np.percentile(samples, (50, 95))
    spread = samples.std(ddof=1) / samples.mean() if samples.size > 1 else 0.0
    tail = (p95 - p50) / p50
    if max(spread, tail) > NOISY:
        found.append(
            f"noisy: coefficient of variation {spread:.0%}, p95 {tail:.0%} above p50 (the limit is {NOISY:.0%})"
        )
    change = _drift(samples)
    if abs(change) > DRIFT:
        found.append(
            f"drift: {abs(change):.0%} {'slower' if change > 0 else 'faster'} at the end than at the start;"
            " the cause may be heat, other work or a short warm-up"
        )
    return found


def speedup(baseline_blocks: Sequence[Sequence[float]], blocks: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """Return how many times as fast a row is as the baseline, from blocks of both that alternated.

    The ratio is the geometric mean, over pairs of blocks, of the ratio of their medians. Its interval is a percentile
    bootstrap at two levels: it draws pairs of blocks, and samples within each block (Davison & Hinkley 1997, section
    3.8).

    Args:
        baseline_blocks: milliseconds of the baseline, block by block; no block is empty.
        blocks: milliseconds of the row, in the same number of blocks.

    Returns:
        ``ratio``, ``low`` and ``high``; both ends are None if each side has only one sample.

    Raises:
        ValueError: there are no blocks, the numbers of blocks differ, or a block is empty.
    """
    if not blocks:
        raise ValueError("a speed-up needs at least one pair of blocks")
    pairs = [(_array(before), _array(after)) for before, after in zip(baseline_blocks, blocks, strict=True)]
    logs = [np.log(np.median(before) / np.median(after)) for before, after in pairs]
    ratio = float(np.exp(np.mean(logs)))
    if len(pairs) == 1 and max(each.size for each in pairs[0]) == 1:
        return Interval(ratio, None, None)._asdict()
    rng = np.random.default_rng(SEED)
    resampled = np.array([[_resampled_medians(each, 1, rng) for each in pair] for pair in pairs])  # (pairs, 2, R)
    drawn = rng.integers(len(pairs), size=(len(pairs), RESAMPLES))
    before, after = (resampled[drawn, side, rng.integers(RESAMPLES, size=drawn.shape)] for side in (0, 1))
    return _interval(ratio, np.exp(np.log(before / after).mean(axis=0)))._asdict()


def ratio_of_medians(before_ms: Sequence[float], after_ms: Sequence[float]) -> Interval:
    """Return how many times as fast ``after_ms`` is as ``before_ms``, two separate measurements.

    Consecutive samples are correlated (the load of the host, the rotation of images). So the circular block bootstrap
    of Politis & Romano (1992) draws whole runs; a run is as long as the square root of the number of samples.

    Args:
        before_ms, after_ms: milliseconds in order of measurement, at least one each.

    Returns:
        the ratio of the medians; no interval if either side has only one sample.
    """
    before, after = _array(before_ms), _array(after_ms)
    ratio = float(np.median(before) / np.median(after))
    if min(before.size, after.size) < 2:
        return Interval(ratio, None, None)
    rng = np.random.default_rng(SEED)
    medians = [_resampled_medians(each, round(each.size**0.5), rng) for each in (before, after)]
    return _interval(ratio, medians[0] / medians[1])


def _array(samples: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(samples, np.float64)
    if array.size == 0:
        raise ValueError("there are no samples to summarise")
    return array


def _few(count: int) -> list[str]:
    """Return a warning on the percentiles above which there is less than one sample."""
    lost = [f"p{percentile}" for percentile in PERCENTILES if count * (100 - percentile) < 100]
    if not lost:
        return []
    verb = "is" if len(lost) == 1 else "are"
    return [f"few samples: {', '.join(lost)} {verb} nearly the maximum; p99 needs 100 samples"]


def _drift(samples: NDArray[np.float64]) -> float:
    """Relative change from the first sample to the last; 0 if it may be chance."""
    if samples.size < _MIN_FOR_DRIFT:
        return 0.0
    parts = np.array_split(samples, min(samples.size, _DRIFT_POINTS))
    points = np.array([np.median(part) for part in parts])
    slope, low, high = theil_sen(points, _DRIFT_CONFIDENCE)
    return 0.0 if low <= 0 <= high else float(slope * (points.size - 1) / np.median(samples))


def theil_sen(values: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """The slope of values over their places, which a few values far from the others do not change.

    It is the median slope of all pairs (Theil 1950). Its interval is between two of these slopes, by the normal
    approximation of Kendall's statistic (Sen 1968, equation 2.6, for ties among the values).

    Args:
        values: (n,), at least two.
        confidence: of the interval, 0..1.

    Returns:
        slope per place, low and high end of its interval.
    """
    first, second = np.triu_indices(values.size, 1)
    slopes = np.sort((values[second] - values[first]) / (second - first))
    counts = np.array([values.size, *np.unique(values, return_counts=True)[1]])
    terms = counts * (counts - 1) * (2 * counts + 5)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(np.sqrt((terms[0] - terms[1:].sum()) / 18))
    low = max(round((slopes.size - half) / 2) - 1, 0)
    high = min(round((slopes.size + half) / 2), slopes.size - 1)
    return float(np.median(slopes)), float(slopes[low]), float(slopes[high])


def _resampled_medians(samples: NDArray[np.float64], run: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians (RESAMPLES,) of resampled ``samples``, drawn with replacement in circular runs of length ``run``."""
    runs = -(-samples.size // run)
    at_once = max(1, _RESAMPLED_AT_ONCE // (runs * run))
    medians = []
    for first in range(0, RESAMPLES, at_once):
        starts = rng.integers(samples.size, size=(min(at_once, RESAMPLES - first), runs, 1))
        drawn = (starts + np.arange(run)).reshape(len(starts), -1)[:, : samples.size] % samples.size
        medians.append(np.median(samples[drawn], axis=1))
    return np.concatenate(medians)


def _interval(ratio: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(ratio, float(low), float(high))
