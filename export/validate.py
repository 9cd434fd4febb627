"""The proof that an exported graph computes what torch computes, on real images and on noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from msformer_deploy.errors import ValidationMismatch
from msformer_deploy.imaging import network_input, read_image
from msformer_deploy.refine import refine_head
from msformer_deploy.samples import sample_images

if TYPE_CHECKING:
    from msformer_deploy.backends import Backend
    from msformer_deploy.models.msformer import Encoded, MSFormer
    from msformer_deploy.registry import RefineSettings

ENCODER_OUTPUTS = ("features", "context_small", "context_large")
MAX_FEATURE_ERROR = 1e-4  # of the largest value of that output
MIN_LABEL_AGREEMENT = 0.999  # of the pixels


@dataclass(frozen=True, eq=False)
class Reference:
    """What torch computes on the validation images."""

    names: list[str]
    images: list[np.ndarray]  # (1, 3, S, S) float32 each
    encoded: list[Encoded]
    labels: list[np.ndarray]  # (S, S) each
    collapsed: list[bool]


def reference(model: MSFormer, settings: RefineSettings, seed: int = 0) -> Reference:
    """Run torch on three real images and one of uniform noise."""
    paths = sample_images()
    images = [network_input(read_image(path), model.side)[None] for path in paths]
    images.append(np.random.default_rng(seed).random((1, 3, model.side, model.side), dtype=np.float32))
    encoded, labels, collapsed = [], [], []
    with torch.no_grad():
        for image in images:
            encoded.append(model.encode(torch.from_numpy(image)))
            outcome = refine_head(encoded[-1].features, model.linear_down.weight, settings)[0]
            labels.append(outcome.labels.numpy())
            collapsed.append(outcome.collapsed)
    return Reference([path.name for path in paths] + ["uniform noise"], images, encoded, labels, collapsed)


def check_encoder(backend: Backend, expected: Reference) -> dict[str, Any]:
    """Largest error of each output of ``encoder.onnx`` over the validation images.

    Raises:
        ValidationMismatch: an output is further from torch than :data:`MAX_FEATURE_ERROR`.
    """
    errors: dict[str, Any] = {name: {"max_abs": 0.0, "relative": 0.0} for name in ENCODER_OUTPUTS}
    for image, truth, where in zip(expected.images, expected.encoded, expected.names, strict=True):
        got = backend.encode(image)
        for name in ENCODER_OUTPUTS:
            _record(errors[name], np.asarray(getattr(got, name)), getattr(truth, name).numpy(), name, where)
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


def check_segmenter(backend: Backend, expected: Reference) -> dict[str, Any]:
    """Worst agreement of ``segmenter.onnx`` with torch, all validation images in one batch.

    torch ran them one by one, so this also proves that the images of a batch do not influence one another.

    Raises:
        ValidationMismatch: fewer than :data:`MIN_LABEL_AGREEMENT` of an image's pixels agree, the counts are not those
            of the label map, or the collapse flag differs.
    """
    got = backend.segment(np.concatenate(expected.images))
    agreements = []
    for index, where in enumerate(expected.names):
        labels, truth = got.label_map[index], expected.labels[index]
        if labels.shape != truth.shape:
            raise ValidationMismatch(f"segmenter labels have shape {labels.shape} on {where}, torch has {truth.shape}")
        agreement = float((labels == truth).mean())
        if not agreement >= MIN_LABEL_AGREEMENT:
            raise ValidationMismatch(
                f"segmenter labels agree with torch on {agreement:.2%} of the pixels of {where},"
                f" needed {MIN_LABEL_AGREEMENT:.1%}; the graph is wrong or this runtime is"
            )
        if not np.array_equal(np.bincount(labels.ravel(), minlength=got.counts.shape[1]), got.counts[index]):
            raise ValidationMismatch(f"segmenter counts on {where} are not those of its own label map")
        if bool(got.collapsed[index]) != expected.collapsed[index]:
            raise ValidationMismatch(f"segmenter and torch disagree on whether {where} collapsed")
        agreements.append(agreement)
    return {"label_map": {"agreement": min(agreements)}, "counts": {"exact": True}, "collapsed": {"exact": True}}
