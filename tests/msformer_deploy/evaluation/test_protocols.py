"""The masks that protocols compare; the two oracles against every choice there is."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from skimage.measure import label

from msformer_deploy.evaluation import PROTOCOLS
from msformer_deploy.evaluation.protocols import best_cluster, best_regions, compare
from msformer_deploy.images.truth import at_published_side
from msformer_deploy.measures.overlap import overlap, published_mask


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    return 1 - overlap(prediction, truth).hm


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A label map of few regions, ids with gaps, and a truth; (6, 7)."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.choice([0, 2, 5], (3, 2)), np.ones((2, 4), int))[:, :7].astype(np.uint8)
    return labels, rng.random(labels.shape) < 0.4


@pytest.mark.parametrize("seed", range(8))
def test_no_cluster_has_a_larger_iou(seed):
    labels, truth = random_case(seed)
    best = iou(best_cluster(labels, truth), truth)
    assert best == max(iou(labels == cluster, truth) for cluster in np.unique(labels))


@pytest.mark.parametrize("seed", range(8))
def test_no_union_of_regions_has_a_larger_iou(seed):
    labels, truth = random_case(seed)
    regions = label(labels.astype(int), connectivity=1, background=-1)
    ids = range(1, regions.max() + 1)
    unions = itertools.chain.from_iterable(itertools.combinations(ids, size) for size in range(len(ids) + 1))
    best = max(iou(np.isin(regions, union), truth) for union in unions)
    assert iou(best_regions(labels, truth), truth) == pytest.approx(best)


def test_regions_of_one_cluster_are_chosen_one_by_one():
    labels = np.zeros((10, 30), np.uint8)
    labels[2:8, 3:9] = labels[2:8, 20:26] = 4
    truth = np.zeros(labels.shape, bool)
    truth[2:8, 3:9] = True
    assert np.array_equal(best_regions(labels, truth), truth)
    assert np.array_equal(best_cluster(labels, truth), labels == 4)


@pytest.fixture
def result() -> SimpleNamespace:
    rows, columns = np.mgrid[:60, :80]
    labels = ((rows - 30) ** 2 + (columns - 40) ** 2 < 15**2).astype(np.uint8) + np.uint8(2)
    labels[:, :20] = 0
    return SimpleNamespace(labels=labels, mask=columns > 35)


def test_label_free_is_the_mask_as_it_is(result):
    truth = result.labels == 3
    got = compare("label-free", result, truth)
    assert got.prediction is result.mask
    assert got.truth is truth


def test_published_is_at_257(result):
    truth = result.labels == 3
    got = compare("published", result, truth)
    assert np.array_equal(got.truth, at_published_side(truth))
    places = [(2 * np.arange(257) + 1) * size // 514 for size in result.labels.shape]
    assert np.array_equal(got.prediction, published_mask(result.labels[np.ix_(*places)], got.truth))
    assert got.prediction.shape == (257, 257)


@pytest.mark.parametrize("protocol", ["oracle-cluster", "oracle-regions"])
def test_oracles_are_at_the_images_size_and_not_cropped(result, protocol):
    truth = np.zeros((60, 80), bool)
    truth[25:35, 35:45] = True
    got = compare(protocol, result, truth)
    assert got.truth is truth
    assert np.array_equal(got.prediction, result.labels == 3)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_empty_truth_chooses_nothing(result, protocol):
    got = compare(protocol, result, np.zeros((60, 80), bool))
    assert not got.truth.any()
    assert got.prediction.any() == (protocol == "label-free")


@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
def test_one_label_only_is_the_whole_image_but_cropped_as_published(result, protocol):
    truth = result.labels == 3
    result.labels = np.full((60, 80), 7, np.uint8)
    got = compare(protocol, result, truth)
    assert got.prediction.all() == (protocol != "published")
    assert got.prediction[got.truth].all()
