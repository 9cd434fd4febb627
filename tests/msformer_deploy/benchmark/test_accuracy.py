"""Agreement with torch and with ground truth, over the images that both have."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.benchmark.accuracy import Outcome, compared, dice_truth, load, save


def outcome(labels: list[int], mask: list[int]) -> Outcome:
    return Outcome(np.array([labels], np.uint8), np.array([mask], bool))


def test_outcomes_are_read_as_they_were_written(tmp_path):
    written = {2: outcome([1, 2, 3, 4], [0, 1]), 10: outcome([5, 5], [1, 1, 0])}
    save(tmp_path / "x.npz", written)
    read = load(tmp_path / "x.npz")
    assert list(read) == [2, 10]
    for place, each in written.items():
        assert np.array_equal(read[place].labels, each.labels)
        assert read[place].labels.dtype == np.uint8
        assert np.array_equal(read[place].mask, each.mask)
        assert read[place].mask.dtype == bool


def test_labels_are_matched_before_they_are_compared():
    reference = {0: outcome([0, 0, 1, 1], [0, 1]), 1: outcome([2, 2, 2, 2], [1, 1])}
    got = {0: outcome([5, 5, 3, 5], [0, 1]), 1: outcome([0, 0, 0, 0], [1, 0]), 7: outcome([0], [1])}
    told = compared(got, reference)
    assert told["label_agreement"] == pytest.approx((0.75 + 1) / 2)
    assert told["dice_torch"] == pytest.approx((1 + 2 / 3) / 2)


def test_what_cannot_be_told_is_none():
    empty = {0: outcome([1, 1], [0, 0])}
    assert compared(empty, empty) == {"label_agreement": 1, "dice_torch": None}
    assert compared(empty, {}) == {"label_agreement": None, "dice_torch": None}
    assert dice_truth(empty, lambda place: None) is None


def test_ground_truth_is_that_of_the_image():
    truths = {0: np.array([[True, True]]), 2: np.array([[False, True]])}
    got = {place: outcome([0, 0], [0, 1]) for place in range(3)}
    assert dice_truth(got, truths.get) == pytest.approx((2 / 3 + 1) / 2)
