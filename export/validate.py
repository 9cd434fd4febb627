"""The proof that an exported graph computes what torch computes, on real images and on noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from msformer_deploy.backends import Encoded, Segmented
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.onnxruntime import open_session
from msformer_deploy.errors import ValidationMismatch

if TYPE_CHECKING:
    from .reference import Reference

Run = Callable[[NDArray[np.float32]], tuple[Encoded, Segmented]]  # images (B, 3, S, S)
MAX_FEATURE_ERROR = 1e-4  # of the largest value of that output
MIN_LABEL_AGREEMENT = 0.999  # of the pixels
MAX_PROBABILITY_ERROR = 1e-3


def run_probe(model: onnx.ModelProto) -> Run:
    """Run a graph of :func:`.graphs.probe` on the CPU: one call gives what encoder and segmenter compute."""
    session = open_session(model.SerializeToString(), Device("cpu"))
    names = [output.name for output in session.get_outputs()]

    def run(images: NDArray[np.float32]) -> tuple[Encoded, Segmented]:
        outputs = dict(zip(names, session.run(names, {"image": images}), strict=True))
        segmented = Segmented(*(outputs.pop(name) for name in Segmented._fields))
        return Encoded(**outputs), segmented

    return run


def check_encoder(outputs: dict[str, Encoded], expected: Reference) -> dict[str, Any]:
    """Largest error of each output of ``encoder.onnx`` over the validation images.

    Args:
        outputs: what the graph gave, by image name, in the order of the reference.
        expected: what torch gave.

    Raises:
        ValidationMismatch: an output is further from torch than :data:`MAX_FEATURE_ERROR`.
    """
    errors: dict[str, Any] = {name: {"max_abs": 0.0, "relative": 0.0} for name in expected.encoded}
    for index, (where, got) in enumerate(outputs.items()):
        for name, truths in expected.encoded.items():
            _record(errors[name], np.asarray(getattr(got, name)), truths[index : index + 1], name, where)
    return errors


def _record(error: dict[str, float], got: np.ndarray, truth: np.ndarray, output: str, where: str) -> None:
    if got.shape != truth.shape:
        raise ValidationMismatch(f"encoder output {output} has shape {got.shape} on {where}, torch has {truth.shape}")
    absolute = float(np.abs(got - truth).max())
    relative = absolute / float(np.abs(truth).max())
    # Written so that NaN fails.
    if not relative <= MAX_FEATURE_ERROR:
        raise ValidationMismatch(
            f"encoder output {output} differs from torch on {where}: {relative:.3g} of its largest value,"
            f" allowed {MAX_FEATURE_ERROR:g}; the graph is wrong or this runtime is"
        )
    error["max_abs"] = max(error["max_abs"], absolute)
    error["relative"] = max(error["relative"], relative)


def check_same(alone: NDArray[np.float32], probed: NDArray[np.float32], where: str) -> None:
    """An output of ``encoder.onnx`` run alone against the same output inside ``segmenter.onnx``.

    Raises:
        ValidationMismatch: they differ by more than :data:`MAX_FEATURE_ERROR`.
    """
    _record({"max_abs": 0.0, "relative": 0.0}, alone, probed, "run alone", where)


def check_segmenter(outputs: dict[str, Segmented], expected: Reference, *, trained: bool = False) -> dict[str, Any]:
    """Worst agreement of ``segmenter.onnx`` with torch over the validation images, and largest error of probability.

    Args:
        outputs: what the graph gave, by image name, in the order of the reference.
        expected: what torch gave.
        trained: whether the features are scores. A probability changes by up to half of what its scores do, so where
            the error that is allowed them is larger, its half is allowed the probability.

    Raises:
        ValidationMismatch: fewer than :data:`MIN_LABEL_AGREEMENT` of an image's pixels agree, the counts are not those
            of the label map, the collapse flag differs, or the probability of figure is further from torch than
            :data:`MAX_PROBABILITY_ERROR`.
    """
    agreements, errors = [], []
    for index, (where, got) in enumerate(outputs.items()):
        labels, truth = got.label_map[0], expected.labels[index]
        if labels.shape != truth.shape:
            raise ValidationMismatch(f"segmenter labels have shape {labels.shape} on {where}, torch has {truth.shape}")
        agreement = float((labels == truth).mean())
        if not agreement >= MIN_LABEL_AGREEMENT:
            raise ValidationMismatch(
                f"segmenter labels agree with torch on {agreement:.2%} of the pixels of {where},"
                f" needed {MIN_LABEL_AGREEMENT:.1%}; the graph is wrong or this runtime is"
            )
        if not np.array_equal(np.bincount(labels.ravel(), minlength=got.counts.shape[1]), got.counts[0]):
            raise ValidationMismatch(f"segmenter counts on {where} are not those of its own label map")
        if bool(got.collapsed[0]) != expected.collapsed[index]:
            raise ValidationMismatch(f"segmenter and torch disagree on whether {where} collapsed")
        agreements.append(agreement)
        largest = float(np.abs(expected.encoded["features"][index]).max())
        allowed = max(MAX_PROBABILITY_ERROR, MAX_FEATURE_ERROR * largest / 2 if trained else 0.0)
        errors.append(_probability_error(got.probability[0], expected.probability[index], allowed, where))
    return {
        "label_map": {"agreement": min(agreements)},
        "counts": {"exact": True},
        "collapsed": {"exact": True},
        "probability": {"max_abs": max(errors)},
    }


def _probability_error(got: NDArray[np.float32], truth: NDArray[np.float32], allowed: float, where: str) -> float:
    if got.shape != truth.shape:
        raise ValidationMismatch(f"segmenter probability has shape {got.shape} on {where}, torch has {truth.shape}")
    error = float(np.abs(got - truth).max())
    # Written so that NaN fails.
    if not error <= allowed:
        raise ValidationMismatch(
            f"segmenter probability differs from torch by {error:.3g} on {where}, allowed {allowed:g};"
            " the graph is wrong or this runtime is"
        )
    return error
