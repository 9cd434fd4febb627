"""What a runtime must compute to be chosen: measured once in torch, compared with whatever runs later."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from msformer_deploy.bundle.fingerprint import Fingerprint, noise
from msformer_deploy.bundle.typed import closed
from msformer_deploy.export.reference import validation_images

SIDE, WIDTH = 9, 3
FEATURES = np.random.default_rng(1).standard_normal((2 * WIDTH, SIDE, SIDE)).astype(np.float32)
LABELS = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 7
TAKEN = Fingerprint.of(FEATURES, LABELS)


@pytest.mark.needs("skimage")
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
    assert closed(json.loads(json.dumps(dataclasses.asdict(TAKEN))), Fingerprint) == TAKEN


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
    with pytest.raises(ValueError, match=r"^\S+: |^a fingerprint of \d features and \d labels$|^Object missing"):
        closed(dataclasses.asdict(TAKEN) | change, Fingerprint)
