"""Scores of many images in a few numbers: mean with an interval, median, worst, and what was not defined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..foreground.confidence import Confidence
from ..measures import scores
from ..measures.statistics import CONFIDENCE, RESAMPLES, SEED

MOST_WORST = 10


@dataclass(frozen=True)
class Judged:
    """One mask of one image and its scores.

    Attributes:
        image, mask: paths of the files; of a volume too.
        method: ``msformer`` or the name of a baseline.
        protocol: one of :data:`.evaluation.PROTOCOLS`; baselines are ``label-free``.
        seed: of the network; None for a baseline, which has none.
        class_id: what was the truth; None for all that is not background.
        scores: of the mask.
        confidence: the DSC to expect; None where the mask is not the one that ``run`` writes.
        unit: of distances: "px" of an image; "mm" or "voxels" of a volume.
    """

    image: str
    mask: str
    method: str
    protocol: str
    seed: int | None
    class_id: int | None
    scores: scores.Scores
    confidence: Confidence | None = None
    unit: str = "px"


class Kind(NamedTuple):
    """What is summarised together."""

    method: str
    protocol: str
    class_id: int | None
    unit: str


def summarise(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """One record for each method, protocol, class and unit of distances, in order of appearance.

    Returns:
        plain data, NaN nowhere: ``method``, ``protocol``, ``class``, ``unit``, ``images``, ``seeds``, ``results``
        (images by seeds), ``empty_predictions``, ``empty_truths`` and ``both_empty`` (counts of results; the first two
        without the third), ``seed_means`` (mean DSC by seed), ``worst`` (the :data:`MOST_WORST` images with the
        smallest DSC of a single result: ``image``, ``seed``, ``dsc``) and under each of :data:`.scores.NAMES` that was
        computed ``mean``, ``median``, ``worst`` and ``left_out`` (results for which it is not defined); ``dsc`` also
        has ``low`` and ``high``, see :func:`mean_interval`. Where masks have a confidence, also ``in_doubt`` and
        ``not_in_doubt``, each with ``results`` and their mean ``dsc``.
    """
    kinds: dict[Kind, list[Judged]] = {}
    for each in judged:
        kinds.setdefault(Kind(each.method, each.protocol, each.class_id, each.unit), []).append(each)
    return [_summary(kind, results) for kind, results in kinds.items()]


def mean_interval(values: NDArray[np.float64], images: Sequence[str]) -> tuple[float | None, float | None]:
    """The interval of :data:`.statistics.CONFIDENCE` of the mean of ``values`` by a percentile bootstrap.

    Images are drawn, each with all its values (of several seeds), for these resemble one another: the cluster bootstrap
    (Davison & Hinkley 1997, section 3.8).

    Args:
        values: (n,), none of them NaN.
        images: whose each value is.

    Returns:
        low and high; None for fewer than two images.
    """
    names, places = np.unique(images, return_inverse=True)
    if names.size < 2:
        return None, None
    sums, counts = np.bincount(places, values), np.bincount(places)
    rng = np.random.default_rng(SEED)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(names.size, size=names.size)
        means.append(sums[drawn].sum() / counts[drawn].sum())
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def _summary(kind: Kind, results: list[Judged]) -> dict[str, Any]:
    no_prediction = [each.scores.prediction_pixels == 0 for each in results]
    no_truth = [each.scores.truth_pixels == 0 for each in results]
    both = sum(map(all, zip(no_prediction, no_truth, strict=True)))
    seeds = list(dict.fromkeys(each.seed for each in results if each.seed is not None))
    return {
        "method": kind.method,
        "protocol": kind.protocol,
        "class": kind.class_id,
        "unit": kind.unit,
        "images": len({each.image for each in results}),
        "seeds": seeds,
        "results": len(results),
        "empty_predictions": sum(no_prediction) - both,
        "empty_truths": sum(no_truth) - both,
        "both_empty": both,
        **{name: _numbers(name, results) for name in scores.NAMES if getattr(results[0].scores, name) is not None},
        **_by_doubt(results),
        "seed_means": {str(seed): _mean_dsc([each for each in results if each.seed == seed]) for seed in seeds},
        "worst": _worst(results),
    }


def _numbers(name: str, results: list[Judged]) -> dict[str, Any]:
    values = np.array([getattr(each.scores, name) for each in results])
    known = ~np.isnan(values)
    found: dict[str, Any] = {"mean": None, "median": None, "worst": None, "left_out": int((~known).sum())}
    if known.any():
        worst = values[known].max() if name in scores.SMALLER_IS_BETTER else values[known].min()
        mean, median = values[known].mean(), np.median(values[known])
        found |= {"mean": float(mean), "median": float(median), "worst": float(worst)}
    if name == "dsc":
        images = [each.image for each, defined in zip(results, known, strict=True) if defined]
        found["low"], found["high"] = mean_interval(values[known], images)
    return found


def _by_doubt(results: list[Judged]) -> dict[str, Any]:
    sides: dict[str, list[Judged]] = {"in_doubt": [], "not_in_doubt": []}
    for each in results:
        if each.confidence is not None:
            sides["not_in_doubt" if each.confidence.doubt is None else "in_doubt"].append(each)
    if not any(sides.values()):
        return {}
    return {name: {"results": len(side), "dsc": _mean_dsc(side)} for name, side in sides.items()}


def _mean_dsc(results: list[Judged]) -> float | None:
    known = [each.scores.dsc for each in results if not math.isnan(each.scores.dsc)]
    return float(np.mean(known)) if known else None


def _worst(results: list[Judged]) -> list[dict[str, Any]]:
    """By image, so that one image does not fill the list with its seeds."""
    found: dict[str, Judged] = {}
    known = [each for each in results if not math.isnan(each.scores.dsc)]
    for each in sorted(known, key=lambda result: result.scores.dsc):
        found.setdefault(each.image, each)
    return [
        {"image": each.image, "seed": each.seed, "dsc": each.scores.dsc} for each in list(found.values())[:MOST_WORST]
    ]
