"""Measures against hand-counted pixels and pairs, and the published protocol's use of the ground truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from msformer_deploy.measures.overlap import (
    adjusted_rand_index,
    agreement,
    contingency,
    match_labels,
    overlap,
    published_mask,
)


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


def labels(text: str, dtype: type = np.uint8) -> np.ndarray:
    return np.array([int(digit) for digit in text], dtype)[None]


def random_labels(clusters: int, seed: int, side: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, clusters, (side, side)).astype(np.uint8)


def test_contingency_counts_pixels_and_keeps_unused_ids():
    table = contingency(labels("0022"), labels("0113"))
    assert table.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]


@pytest.mark.parametrize(
    ("given", "reference", "shared"),
    [("0011", "1100", 4), ("0122", "0000", 2), ("0000", "0112", 2), ("3300", "0102", 2)],
)
def test_match_labels(given, reference, shared):
    given, reference = labels(given), labels(reference)
    got = match_labels(given, reference)
    assert (got == reference).sum() == shared
    assert adjusted_rand_index(got, given) == 1, "no two clusters get one name"


def test_matching_is_the_best_of_all_renamings():
    given, reference = random_labels(4, seed=0), random_labels(4, seed=1)
    best = max(
        agreement(np.array(renaming, np.uint8)[given], reference) for renaming in itertools.permutations(range(4))
    )
    assert agreement(match_labels(given, reference), reference) == best


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_renaming_of_all_ids_is_undone(dtype):
    reference = random_labels(100, seed=2).astype(dtype)
    given = np.random.default_rng(3).permutation(100).astype(dtype)[reference]
    assert agreement(given, reference) < 0.1
    assert np.array_equal(match_labels(given, reference), reference)


def rand_by_pairs(given: np.ndarray, reference: np.ndarray) -> float:
    """The definition, pair by pair."""
    pairs = list(itertools.combinations(range(given.size), 2))
    same, alike = (np.array([x.flat[a] == x.flat[b] for a, b in pairs]) for x in (given, reference))
    index, expected = (same & alike).sum(), same.sum() * alike.sum() / len(pairs)
    return (index - expected) / ((same.sum() + alike.sum()) / 2 - expected)


@pytest.mark.parametrize(("given", "reference"), [("001122", "000111"), ("0011", "0101"), ("01234", "00123")])
def test_adjusted_rand_index_is_that_of_all_pairs(given, reference):
    given, reference = labels(given), labels(reference)
    assert adjusted_rand_index(given, reference) == pytest.approx(rand_by_pairs(given, reference))


@pytest.mark.parametrize(
    ("given", "reference", "expected"),
    [("0000", "3333", 1), ("0123", "3210", 1), ("0", "5", 1), ("0000", "0011", 0), ("0123", "0000", 0)],
)
def test_adjusted_rand_index_without_structure(given, reference, expected):
    assert adjusted_rand_index(labels(given), labels(reference)) == expected


def test_adjusted_rand_index_of_independent_maps_is_near_zero():
    assert abs(adjusted_rand_index(random_labels(5, seed=4, side=257), random_labels(5, seed=5, side=257))) < 1e-3
