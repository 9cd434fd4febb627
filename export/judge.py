"""Whether a graph of another precision is good enough: judged on real images by what a user would lose.

Learning on rounded features may rename or split clusters, so equal ids are only information. What decides is the
overlap of masks with the truth, both of the label-free mask and of the best one that the labels allow, and that nothing
overflowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msformer_deploy.backends import Encoded
from msformer_deploy.foreground.rules import ForegroundRule, choose
from msformer_deploy.foreground.threshold import threshold_of
from msformer_deploy.foreground.view import View
from msformer_deploy.measures.overlap import adjusted_rand_index, agreement, match_labels, overlap, published_mask
from msformer_deploy.registry import Precision

from .validate import Run

MAX_DSC_LOSS = 0.01
AUTO = ForegroundRule("auto")


class Sample(NamedTuple):
    """An image to judge on."""

    name: str
    image: NDArray[np.float32]  # (1, 3, S, S), what the network takes
    truth: NDArray[np.bool_] | None  # (S, S)


class _Comparison(NamedTuple):
    """One image, candidate against reference."""

    errors: dict[str, float]  # by encoder output, of the largest value
    probability: float  # largest error
    not_finite: int
    raw: float
    matched: float
    rand: float
    mask_dsc: float
    # Reference and candidate, of the published protocol and of the label-free mask; None where the truth is empty.
    dsc: tuple[float, float] | None
    mask: tuple[float, float] | None


def judge(samples: Iterable[Sample], reference: Run, candidate: Run, rule: ForegroundRule = AUTO) -> dict[str, Any]:
    """Compare two precisions of one bundle image by image; the features of one image at a time are held.

    Args:
        samples: at least one; either all with a truth or all without.
        reference: runs the float32 graphs.
        candidate: runs the others.
        rule: of the label-free mask.

    Returns:
        What JSON can hold. ``features``, and for MS-Former ``context_small`` and ``context_large``: worst error of a
        finite value, relative to the largest of the reference. ``probability``: worst error of a finite value of the
        probability of figure. ``not_finite``: NaN and infinity in the outputs.
        ``agreement``: share of pixels with equal labels, ``raw`` and after matching the ids (``matched``).
        ``mask_dsc``: label-free mask of the candidate against that of the reference, two empty ones count as equal.
        ``dsc``: mean of the published protocol against ``truth``, which is the given ``masks`` or, without them, the
        label-free mask of ``fp32``; images whose truth is empty are ``left_out``, and the values are None where none
        is left. ``mask``: the same of the label-free mask. ``accepted``: both are known and fall by at most
        :data:`MAX_DSC_LOSS`, and every value is finite.

    Raises:
        ValueError: no samples, or only some have a truth.
    """
    comparisons, given = [], set()
    for sample in samples:
        comparisons.append(_compare(sample, reference, candidate, rule))
        given.add(sample.truth is not None)
    if len(given) != 1:
        raise ValueError("there must be samples, either all with a truth or all without")
    dsc = _mean_dsc([each.dsc for each in comparisons if each.dsc is not None])
    mask = _mean_dsc([each.mask for each in comparisons if each.mask is not None])
    left_out = sum(each.dsc is None for each in comparisons)
    not_finite = sum(each.not_finite for each in comparisons)
    return {
        "images": len(comparisons),
        "truth": "masks" if given == {True} else "fp32",
        **{name: max(each.errors[name] for each in comparisons) for name in comparisons[0].errors},
        "probability": max(each.probability for each in comparisons),
        "not_finite": not_finite,
        "agreement": {
            "raw": _summary([each.raw for each in comparisons]),
            "matched": _summary([each.matched for each in comparisons]),
        },
        "adjusted_rand_index": _summary([each.rand for each in comparisons]),
        "mask_dsc": _summary([each.mask_dsc for each in comparisons]),
        "dsc": {**dsc, "left_out": left_out},
        "mask": mask,
        "accepted": not_finite == 0
        and all(each["loss"] is not None and each["loss"] <= MAX_DSC_LOSS for each in (dsc, mask)),
    }


def explain(precision: Precision, record: dict[str, Any]) -> str:
    """One line that says why a record of :func:`judge` is not accepted."""
    reasons = []
    if record["not_finite"]:
        reasons.append(f"{record['not_finite']} values of its outputs are NaN or infinite")
    if record["dsc"]["loss"] is None:
        reasons.append(f"none of the {record['images']} images shows an object to judge it by")
    against = "the masks" if record["truth"] == "masks" else "the mask of fp32"
    for what, dsc in (("DSC", record["dsc"]), ("DSC of the label-free mask", record["mask"])):
        if dsc["loss"] is not None and dsc["loss"] > MAX_DSC_LOSS:
            reasons.append(
                f"the {what} against {against} falls from {dsc['fp32']:.4f} to {dsc['candidate']:.4f},"
                f" by more than {MAX_DSC_LOSS:g}"
            )
    return f"{precision} is refused, judged on {record['images']} images: {'; '.join(reasons)}; use another precision"


def _compare(sample: Sample, reference: Run, candidate: Run, rule: ForegroundRule) -> _Comparison:
    encoded, segmented = reference(sample.image)
    other_encoded, other_segmented = candidate(sample.image)
    labels, others = segmented.label_map[0], other_segmented.label_map[0]
    view = View(sample.image[0])
    probability, other_probability = segmented.probability[0], other_segmented.probability[0]
    mask = _mask(rule, labels, view, probability)
    other_mask = _mask(rule, others, view, other_probability)
    mask_dsc = overlap(other_mask, mask).dsc
    truth = mask if sample.truth is None else sample.truth
    errors, not_finite = {}, 0
    for name, output, other in zip(Encoded._fields, encoded, other_encoded, strict=True):
        if output is None:  # of another system
            continue
        worst, bad = _error(np.asarray(output), np.asarray(other))
        not_finite += bad
        errors[name] = worst / float(np.abs(output).max())
    off, bad = _error(probability, other_probability)
    return _Comparison(
        errors=errors,
        probability=off,
        not_finite=not_finite + bad,
        raw=agreement(others, labels),
        matched=agreement(match_labels(others, labels), labels),
        rand=adjusted_rand_index(others, labels),
        mask_dsc=1.0 if math.isnan(mask_dsc) else mask_dsc,
        dsc=(_published(labels, truth), _published(others, truth)) if truth.any() else None,
        mask=(overlap(mask, truth).dsc, overlap(other_mask, truth).dsc) if truth.any() else None,
    )


def _mask(
    rule: ForegroundRule, labels: NDArray[np.integer], view: View, probability: NDArray[np.float32]
) -> NDArray[np.bool_]:
    return probability > threshold_of(probability) if rule == AUTO else choose(rule, labels, view)


def _error(exact: NDArray[np.floating], got: NDArray[np.floating]) -> tuple[float, int]:
    """Largest error of a finite value, and how many are not finite."""
    finite = np.isfinite(got)
    return float(np.abs(got - exact).max(where=finite, initial=0)), int(got.size - finite.sum())


def _mean_dsc(scores: list[tuple[float, float]]) -> dict[str, float | None]:
    """Of reference and candidate, and what is lost; None of no scores."""
    if not scores:
        return {"fp32": None, "candidate": None, "loss": None}
    before, after = np.mean(scores, axis=0).tolist()
    return {"fp32": before, "candidate": after, "loss": before - after}


def _published(labels: NDArray[np.integer], truth: NDArray[np.bool_]) -> float:
    return overlap(published_mask(labels, truth), truth).dsc


def _summary(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "least": min(values)}
