"""The judge of precisions, on label maps and features made to order."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest

from msformer_deploy.backends import Encoded, Segmented
from msformer_deploy.export.judge import MAX_DSC_LOSS, Sample, explain, judge

SIDE = 40


def square(low: int, high: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[low:high, low:high] = True
    return mask


OBJECT = square(10, 30)


def sample(name: str = "a", truth: np.ndarray | None = None) -> Sample:
    return Sample(name, np.full((1, 3, SIDE, SIDE), 0.5, np.float32), truth)


def run(
    labels: np.ndarray,
    features: np.ndarray | None = None,
    probability: np.ndarray | None = None,
    **contexts: np.ndarray,
):
    """A precision that gives these outputs whatever the image; the figure is the last corner's label by default."""
    if probability is None:
        probability = (labels == labels[29, 29]) & (labels.min() < labels.max())
    encoded = Encoded(
        np.ones((1, 4, 2, 2), np.float32) if features is None else features,
        contexts.get("small", np.eye(3, dtype=np.float32)[None]),
        contexts.get("large", np.eye(3, dtype=np.float32)[None]),
    )
    labels = labels.astype(np.uint8)
    counts = np.bincount(labels.ravel(), minlength=9)
    segmented = Segmented(labels[None], counts[None], np.array([False]), probability[None].astype(np.float32))
    return lambda _: (encoded, segmented)


def test_a_precision_against_itself():
    record = judge([sample("a", OBJECT), sample("b", OBJECT)], run(OBJECT), run(OBJECT))
    assert json.loads(json.dumps(record)) == record
    one = {"mean": 1.0, "least": 1.0}
    assert record == {
        "images": 2,
        "truth": "masks",
        **dict.fromkeys(Encoded._fields, 0.0),
        "probability": 0.0,
        "not_finite": 0,
        "agreement": {"raw": one, "matched": one},
        "adjusted_rand_index": one,
        "mask_dsc": one,
        "dsc": {"fp32": 1.0, "candidate": 1.0, "loss": 0.0, "left_out": 0},
        "mask": {"fp32": 1.0, "candidate": 1.0, "loss": 0.0},
        "accepted": True,
    }


def test_renamed_clusters_cost_nothing():
    record = judge([sample()], run(OBJECT), run(7 - 4 * OBJECT))
    assert record["agreement"]["raw"]["mean"] == 0
    assert record["agreement"]["matched"]["mean"] == record["adjusted_rand_index"]["mean"] == 1
    assert record["mask_dsc"]["mean"] == 1
    assert record["accepted"]


@pytest.mark.parametrize("output", Encoded._fields)
def test_errors_are_relative_to_the_largest_value_and_the_worst_image_counts(output):
    exact = np.float32([[[4, -8], [0, 1]]])
    key = {"features": "features", "context_small": "small", "context_large": "large"}[output]
    calls = iter([0, 0.5, 0.25])

    def candidate(image):
        return run(OBJECT, **{key: exact + np.float32(next(calls))})(image)

    record = judge([sample(name) for name in "abc"], run(OBJECT, **{key: exact}), candidate)
    assert {name: record[name] for name in Encoded._fields} == {**dict.fromkeys(Encoded._fields, 0.0), output: 0.0625}


def test_values_that_are_not_finite_are_counted_and_refused():
    features = np.ones((1, 4, 2, 2), np.float32)
    features[0, 0] = np.nan, np.inf
    small = np.eye(3, dtype=np.float32)[None]
    small[0, 0, 0] = -np.inf
    record = judge([sample(), sample()], run(OBJECT), run(OBJECT, features, small=small))
    assert record["not_finite"] == 10
    assert record["features"] == record["context_small"] == 0, "the error is that of the finite values"
    assert not record["accepted"]
    assert "10 values" in explain("fp16", record)
    json.dumps(record, allow_nan=False)


def shrunk(rows: int) -> np.ndarray:
    labels = OBJECT.copy()
    labels[10 : 10 + rows] = False
    return labels


@pytest.mark.parametrize(("rows", "accepted"), [(0, True), (1, False)])
def test_the_loss_of_overlap_with_the_given_masks_decides(rows, accepted):
    """One of two images loses ``rows`` of its twenty rows: 2 (20 - r) / (40 - r) of the DSC is left on it."""
    calls = iter([0, rows])
    samples = [sample("a", OBJECT), sample("b", OBJECT)]
    record = judge(samples, run(OBJECT), lambda image: run(shrunk(next(calls)))(image))
    left = (1 + 2 * (20 - rows) / (40 - rows)) / 2
    assert record["truth"] == "masks"
    assert record["dsc"] == {
        "fp32": 1.0,
        "candidate": pytest.approx(left),
        "loss": pytest.approx(1 - left),
        "left_out": 0,
    }
    assert record["accepted"] == accepted == (1 - left <= MAX_DSC_LOSS)
    if not accepted:
        line = explain("int8", record)
        assert "\n" not in line
        assert "int8" in line
        assert "the masks falls from 1.0000 to 0.9872" in line


def test_a_better_candidate_is_accepted():
    record = judge([sample("a", OBJECT)], run(shrunk(5)), run(OBJECT))
    assert record["dsc"]["loss"] < 0
    assert record["accepted"]


def test_without_masks_the_truth_is_the_mask_of_fp32():
    """That mask is where the probability of figure is above its threshold: 400 pixels, 384 of them of label 1."""
    labels = OBJECT.astype(np.uint8)
    labels[18:22, 18:22] = 2
    exact = run(labels, probability=0.1 + 0.8 * OBJECT)
    record = judge([sample()], exact, exact)
    assert record["truth"] == "fp32"
    assert record["dsc"]["fp32"] == pytest.approx(2 * 384 / (384 + 400))
    assert record["mask"] == {"fp32": 1.0, "candidate": 1.0, "loss": 0.0}
    refused = judge([sample()], exact, run(shrunk(10)))
    assert "the mask of fp32" in explain("bf16", refused)


def test_the_loss_of_the_label_free_mask_decides_too():
    """The labels are the same, and with them the published protocol; the probability is not."""
    samples = [sample("a", OBJECT)]
    record = judge(samples, run(OBJECT), run(OBJECT, probability=0.2 + 0.6 * shrunk(2)))
    assert record["dsc"]["loss"] == 0
    assert record["probability"] == pytest.approx(0.8)
    assert record["mask"] == {"fp32": 1.0, "candidate": pytest.approx(2 * 18 / 38), "loss": pytest.approx(1 - 36 / 38)}
    assert not record["accepted"]
    assert "DSC of the label-free mask against the masks falls from 1.0000 to 0.9474" in explain("int8", record)


def test_a_probability_that_is_not_finite_is_counted_and_refused():
    probability = OBJECT.astype(np.float32)
    probability[0, :3] = np.nan
    record = judge([sample("a", OBJECT)], run(OBJECT), run(OBJECT, probability=probability))
    assert record["not_finite"] == 3
    assert record["probability"] == 0, "the error is that of the finite values"
    assert not record["accepted"]


def test_images_with_an_empty_truth_are_left_out_of_the_dsc_only():
    samples = [sample("a", np.zeros_like(OBJECT)), sample("b", OBJECT)]
    calls = iter([7 * OBJECT, OBJECT])
    record = judge(samples, run(OBJECT), lambda image: run(next(calls))(image))
    assert record["images"] == 2
    assert record["dsc"] == {"fp32": 1.0, "candidate": 1.0, "loss": 0.0, "left_out": 1}
    assert record["agreement"]["raw"]["least"] == 0.75


def test_nothing_to_judge_by_is_refused():
    """A flat label map has an empty mask; two of them are equal, but show nothing."""
    flat = np.zeros_like(OBJECT)
    record = judge([sample()], run(flat), run(flat))
    assert record["mask_dsc"] == {"mean": 1.0, "least": 1.0}
    assert record["dsc"] == {"fp32": None, "candidate": None, "loss": None, "left_out": 1}
    assert record["mask"] == {"fp32": None, "candidate": None, "loss": None}
    assert not record["accepted"]
    assert "none of the 1 images shows an object" in explain("fp16", record)


@pytest.mark.parametrize("samples", [[], [sample("a", OBJECT), sample("b")]])
def test_samples_must_be_there_and_of_one_kind(samples):
    with pytest.raises(ValueError, match="all with a truth or all without"):
        judge(samples, run(OBJECT), run(OBJECT))


@pytest.mark.slow
def test_the_features_of_one_image_at_a_time_are_held():
    made: list[weakref.ref[np.ndarray]] = []
    most = 0

    def tracked(image):
        nonlocal most
        features = np.ones((1, 4, 2, 2), np.float32)
        made.append(weakref.ref(features))
        gc.collect()
        most = max(most, sum(each() is not None for each in made))
        return run(OBJECT, features)(image)

    judge((sample(name) for name in "abc"), tracked, tracked)
    assert most == 2
