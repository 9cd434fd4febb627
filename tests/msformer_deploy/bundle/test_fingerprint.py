"""What a runtime must compute to be chosen: measured once in torch, compared with whatever runs later."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.bundle.fingerprint import Fingerprint, noise
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.export.reference import validation_images

SIDE, WIDTH = 9, 3
FEATURES = np.random.default_rng(1).standard_normal((2 * WIDTH, SIDE, SIDE)).astype(np.float32)
LABELS = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 7
TAKEN = Fingerprint.of(FEATURES, LABELS)


def runs(features: Any = None, labels: Any = None, precision: str = "fp32") -> Any:
    """A backend that gives these for one image, which must be the noise."""

    def outputs(images: np.ndarray) -> Any:
        np.testing.assert_array_equal(images, noise(SIDE))
        return SimpleNamespace(features=None if features is None else features[None], label_map=[labels])

    return SimpleNamespace(
        name="runtime",
        graph="encoder" if labels is None else "segmenter",
        precision=precision,
        arithmetic=precision,
        encode=outputs,
        segment=outputs,
    )


def test_the_image_is_the_last_one_that_exports_are_validated_on():
    image = noise(33)
    assert (image.shape, image.dtype) == ((1, 3, 33, 33), np.float32)
    assert 0 <= image.min() < 0.01 < 0.99 < image.max() < 1
    np.testing.assert_array_equal(image, list(validation_images(33).values())[-1])


def test_every_channel_is_in_it_at_pixels_all_over_the_image():
    pixels = np.broadcast_to(np.arange(257 * 257).reshape(257, 257), (200, 257, 257))
    taken = Fingerprint.of(pixels, pixels[0]).labels
    assert len(set(taken)) == 200
    quarters = np.histogram2d(np.array(taken) // 257, np.array(taken) % 257, bins=2)[0]
    assert quarters.min() >= 40
    for channel in range(2 * WIDTH):
        changed = FEATURES.copy()
        changed[channel] += 1
        assert Fingerprint.of(changed, LABELS).features[channel] != TAKEN.features[channel]


def test_it_survives_the_manifest():
    assert Fingerprint.read(json.loads(json.dumps(dataclasses.asdict(TAKEN)))) == TAKEN


@pytest.mark.parametrize(
    "change",
    [
        {"features": TAKEN.features[1:]},
        {"labels": [*TAKEN.labels, 0]},
        {"features": ["0.1"] * 2 * WIDTH},
        {"largest": None},
        {"labels": 5},
        {"tolerance": {"fp32": 1e-4}},
        {"agreement": dict.fromkeys(TAKEN.agreement, "all")},
        {"more": 1},
    ],
    ids=lambda change: " ".join(change),
)
def test_a_damaged_one_is_refused(change):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Fingerprint.read(dataclasses.asdict(TAKEN) | change)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_features_within_the_tolerance_of_their_precision_pass(precision, convert):
    noisy = FEATURES + np.float32(0.9 * TAKEN.tolerance[precision] * TAKEN.largest)
    TAKEN.check(runs(convert(noisy), precision=precision), SIDE)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_one_channel_beyond_it_is_refused(precision):
    spoiled = FEATURES.copy()
    spoiled[4] -= np.float32(1.1 * TAKEN.tolerance[precision] * TAKEN.largest)
    with pytest.raises(BackendUnavailable) as raised:
        TAKEN.check(runs(spoiled, precision=precision), SIDE)
    allowed = TAKEN.tolerance[precision]
    assert str(raised.value) == (
        "runtime gives features of the test image that differ from those known from the export by"
        f" {1.1 * allowed:.2g} of the largest, allowed {allowed:g} in {precision};"
        " choose another --backend or --precision, or export the bundle again"
    )


def test_not_a_number_is_refused():
    with pytest.raises(BackendUnavailable, match="by nan of the largest"):
        TAKEN.check(runs(np.full_like(FEATURES, np.nan)), SIDE)


def test_of_the_whole_method_labels_are_compared():
    TAKEN.check(runs(labels=LABELS), SIDE)
    with pytest.raises(BackendUnavailable, match="on 0% of the pixels of the test image, needed 99% in fp32; choose"):
        TAKEN.check(runs(labels=LABELS + 1), SIDE)


@pytest.mark.parametrize(("precision", "passes"), [("fp32", False), ("fp16", False), ("bf16", True), ("int8", False)])
def test_rounding_may_rename_clusters(precision, passes):
    some = np.where(np.isin(LABELS, TAKEN.labels[:2]), LABELS + 50, LABELS)  # two of the six pixels, or a few more
    backend = runs(labels=some, precision=precision)
    if passes:
        TAKEN.check(backend, SIDE)
        return
    with pytest.raises(BackendUnavailable, match="gives the labels known from the export on"):
        TAKEN.check(backend, SIDE)


@pytest.mark.parametrize("graph", ["encoder", "segmenter"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_bundle_has_one_that_its_graphs_pass(tiny_bundle, name, graph):
    assert tiny_bundle.fingerprint is not None
    with open_backend(name, tiny_bundle, Device("cpu"), graph=graph) as backend:
        tiny_bundle.fingerprint.check(backend, tiny_bundle.sizes.side)
        spoiled = dataclasses.replace(
            tiny_bundle.fingerprint,
            features=tiny_bundle.fingerprint.features[::-1],
            labels=[label + 1 for label in tiny_bundle.fingerprint.labels],
        )
        with pytest.raises(BackendUnavailable, match="known from the export"):
            spoiled.check(backend, tiny_bundle.sizes.side)


def test_torch_passes(tiny_bundle):
    with open_backend("torch", tiny_bundle, Device("cpu")) as backend:
        tiny_bundle.fingerprint.check(backend, tiny_bundle.sizes.side)
