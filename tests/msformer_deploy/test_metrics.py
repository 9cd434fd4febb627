"""Overlap measures against hand-counted pixels, and the published protocol's use of the ground truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from msformer_deploy.metrics import overlap, published_mask


def mask(*pixels: tuple[int, int], shape: tuple[int, int] = (4, 4)) -> np.ndarray:
    out = np.zeros(shape, bool)
    for pixel in pixels:
        out[pixel] = True
    return out


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (mask((0, 0), (0, 1)), mask((0, 0), (0, 1)), (1, 0, 0)),
        (mask((0, 0)), mask((1, 1)), (0, 1, 2)),
        (mask((0, 0), (0, 1), (0, 2)), mask((0, 0)), (2 / 4, 2 / 3, 2)),
        (mask(), mask((0, 0)), (0, 1, 1)),
    ],
)
def test_overlap(prediction, truth, expected):
    got = overlap(prediction, truth)
    assert (got.dsc, got.hm, got.xor) == pytest.approx(expected)


def test_nothing_against_nothing_is_not_a_number():
    got = overlap(mask(), mask())
    assert all(math.isnan(value) for value in (got.dsc, got.hm, got.xor))


def test_published_mask_is_the_best_cluster_near_the_truth():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:20, 10:20] = 7
    labels[10:20, 10:13] = 3
    labels[35:, 35:] = 7  # the same cluster, far away: cropped
    truth = np.zeros((40, 40), bool)
    truth[10:20, 10:20] = True
    got = published_mask(labels, truth)
    expected = np.zeros((40, 40), bool)
    expected[10:20, 13:20] = True
    assert np.array_equal(got, expected)


def test_published_mask_reaches_six_pixels_beyond_the_truth_and_may_be_cluster_zero():
    labels = np.zeros((40, 40), np.uint8)
    truth = np.zeros((40, 40), bool)
    truth[20, 20] = True
    got = published_mask(labels, truth)
    assert got.sum() == 13 * 13
    assert got[14:27, 14:27].all()
