"""Whether a graph of another precision is good enough: judged on real images by what a user would lose.

Learning on rounded features may rename or split clusters, so equal ids are only information. What decides is the
overlap of a mask with the truth, and that nothing overflowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msformer_deploy.backends import Encoded
from msformer_deploy.foreground.rules import ForegroundRule, choose
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
    not_finite: int
    raw: float
    matched: float
    rand: float
    mask_dsc: float
    dsc: tuple[float, float] | None  # reference and candidate; None where the truth is empty


def judge(samples: Iterable[Sample], reference: Run, candidate: Run, rule: ForegroundRule = AUTO) -> dict[str, Any]:
    """Compare two precisions of one bundle image by image; the features of one image at a time are held.

    Args:
        samples: at least one; either all with a truth or all without.
        reference: runs the float32 graphs.
        candidate: runs the others.
        rule: of the label-free mask.

    Returns:
        What JSON can hold. ``features``, and for MS-Former ``context_small`` and ``context_large``: worst error of a
        finite value, relative to the largest of the reference. ``not_finite``: NaN and infinity in the outputs.
        ``agreement``: share of pixels with equal labels, ``raw`` and after matching the ids (``matched``).
        ``mask_dsc``: label-free mask of the candidate against that of the reference, two empty ones count as equal.
        ``dsc``: mean of the published protocol against ``truth``, which is the given ``masks`` or, without them, the
        label-free mask of ``fp32``; images whose truth is empty are ``left_out``, and the values are None where none
        is left. ``accepted``: the DSC is known and falls by at most :data:`MAX_DSC_LOSS`, and every value is finite.

    Raises:
        ValueError: no samples, or only some have a truth.
    """
    comparisons, given = [], set()
    for sample in samples:
        comparisons.append(_compare(sample, reference, candidate, rule))
        given.add(sample.truth is not None)
    if len(given) != 1:
        raise ValueError("there must be samples, either all with a truth or all without")
    scores = [each.dsc for each in comparisons if each.dsc is not None]
    before, after, loss = None, None, None
    if scores:
        before, after = np.mean(scores, axis=0).tolist()
        loss = before - after
    not_finite = sum(each.not_finite for each in comparisons)
    return {
        "images": len(comparisons),
        "truth": "masks" if given == {True} else "fp32",
        **{name: max(each.errors[name] for each in comparisons) for name in comparisons[0].errors},
        "not_finite": not_finite,
        "agreement": {
            "raw": _summary([each.raw for each in comparisons]),
            "matched": _summary([each.matched for each in comparisons]),
        },
        "adjusted_rand_index": _summary([each.rand for each in comparisons]),
        "mask_dsc": _summary([each.mask_dsc for each in comparisons]),
        "dsc": {"fp32": before, "candidate": after, "loss": loss, "left_out": len(comparisons) - len(scores)},
        "accepted": loss is not None and loss <= MAX_DSC_LOSS and not_finite == 0,
    }


def explain(precision: Precision, record: dict[str, Any]) -> str:
    """One line that says why a record of :func:`judge` is not accepted."""
    dsc, reasons = record["dsc"], []
    if record["not_finite"]:
        reasons.append(f"{record['not_finite']} values of its outputs are NaN or infinite")
    if dsc["loss"] is None:
        reasons.append(f"none of the {record['images']} images shows an object to judge it by")
    elif dsc["loss"] > MAX_DSC_LOSS:
        against = "the masks" if record["truth"] == "masks" else "the mask of fp32"
        reasons.append(
            f"the DSC against {against} falls from {dsc['fp32']:.4f} to {dsc['candidate']:.4f},"
            f" by more than {MAX_DSC_LOSS:g}"
        )
    return f"{precision} is refused, judged on {record['images']} images: {'; '.join(reasons)}; use another precision"


def _compare(sample: Sample, reference: Run, candidate: Run, rule: ForegroundRule) -> _Comparison:
    encoded, segmented = reference(sample.image)
    other_encoded, other_segmented = candidate(sample.image)
    labels, others = segmented.label_map[0], other_segmented.label_map[0]
    view = View(sample.image[0])
    probability, other_probability = segmented.probability[0], other_segmented.probability[0]
    mask = choose(rule, labels, view, probability)
    other_mask = choose(rule, others, view, other_probability)
    mask_dsc = overlap(other_mask, mask).dsc
    truth = mask if sample.truth is None else sample.truth
    errors, not_finite = {}, 0
    for name, output, other in zip(Encoded._fields, encoded, other_encoded, strict=True):
        if output is None:  # of another system
            continue
        exact, got = np.asarray(output), np.asarray(other)
        finite = np.isfinite(got)
        not_finite += int(got.size - finite.sum())
        errors[name] = float(np.abs(got - exact).max(where=finite, initial=0) / np.abs(exact).max())
    return _Comparison(
        errors=errors,
        not_finite=not_finite,
        raw=agreement(others, labels),
        matched=agreement(match_labels(others, labels), labels),
        rand=adjusted_rand_index(others, labels),
        mask_dsc=1.0 if math.isnan(mask_dsc) else mask_dsc,
        dsc=(_published(labels, truth), _published(others, truth)) if truth.any() else None,
    )


def _published(labels: NDArray[np.integer], truth: NDArray[np.bool_]) -> float:
    return overlap(published_mask(labels, truth), truth).dsc


def _summary(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "least": min(values)}
