"""Few numbers of many scores: what is left out is counted, and the interval draws images, not results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from msformer_deploy.evaluation.summary import Judged, mean_interval, summarise
from msformer_deploy.foreground.confidence import Confidence
from msformer_deploy.measures.scores import Scores


def judged(image: str, dsc: float, **changes: Any) -> Judged:
    scores = {"hm": 1 - dsc, "xor": 1.0, "iou": dsc, "hd95": 10 * dsc, "surface_dice": dsc}
    scores |= {"prediction_pixels": 5, "truth_pixels": 5, "dsc": dsc}
    scores |= {name: value for name, value in changes.items() if name in scores}
    kind = {"method": "msformer", "protocol": "label-free", "seed": 0, "class_id": None}
    kind |= {name: value for name, value in changes.items() if name in kind}
    return Judged(image=image, mask="m", scores=Scores(**scores), confidence=changes.get("confidence"), **kind)


def test_mean_median_and_worst_of_one_kind():
    (got,) = summarise([judged(name, dsc) for name, dsc in (("a", 0.5), ("b", 0.9), ("c", 1.0))])
    assert (got["method"], got["protocol"], got["class"]) == ("msformer", "label-free", None)
    assert (got["images"], got["results"], got["seeds"]) == (3, 3, [0])
    assert got["dsc"]["mean"] == pytest.approx(0.8)
    assert (got["dsc"]["median"], got["dsc"]["worst"], got["dsc"]["left_out"]) == (0.9, 0.5, 0)
    assert got["hd95"]["worst"] == 10, "of a distance the largest is the worst"
    assert got["hm"]["worst"] == pytest.approx(0.5)
    assert [each["image"] for each in got["worst"]] == ["a", "b", "c"]


def test_kinds_are_apart_and_in_order():
    given = [
        judged("a", 0.1),
        judged("a", 0.2, protocol="published"),
        judged("a", 0.3, class_id=2),
        judged("a", 0.4, method="otsu", seed=None),
        judged("b", 0.5),
    ]
    got = summarise(given)
    assert [(each["method"], each["protocol"], each["class"]) for each in got] == [
        ("msformer", "label-free", None),
        ("msformer", "published", None),
        ("msformer", "label-free", 2),
        ("otsu", "label-free", None),
    ]
    assert [each["dsc"]["mean"] for each in got] == pytest.approx([0.3, 0.2, 0.3, 0.4])
    assert got[3]["seeds"] == []


def test_masks_in_doubt_are_apart_where_there_is_a_confidence():
    sure, unsure = Confidence(0.9, 0.5, 1.0, None), Confidence(0.3, 0.0, 0.5, "why")
    given = [judged(str(place), dsc, confidence=sure) for place, dsc in enumerate((0.9, 0.7))]
    given += [judged("x", 0.2, confidence=unsure), judged("y", math.nan, confidence=unsure)]
    given.append(judged("x", 0.5, method="otsu", seed=None))
    ours, otsu = summarise(given)
    assert ours["in_doubt"] == {"results": 2, "dsc": pytest.approx(0.2)}
    assert ours["not_in_doubt"] == {"results": 2, "dsc": pytest.approx(0.8)}
    assert "in_doubt" not in otsu
    (none,) = summarise(given[:2])
    assert none["in_doubt"] == {"results": 0, "dsc": None}


def test_what_is_not_defined_is_left_out_and_counted():
    nan = math.nan
    both = {"prediction_pixels": 0, "truth_pixels": 0, "hd95": nan, "surface_dice": nan}
    given = [
        judged("a", 0.8),
        judged("b", 0.0, prediction_pixels=0, hd95=nan),
        judged("c", 0.0, truth_pixels=0, hd95=nan),
        judged("d", nan, **both),
    ]
    (got,) = summarise(given)
    assert (got["empty_predictions"], got["empty_truths"], got["both_empty"]) == (1, 1, 1)
    assert got["dsc"]["mean"] == pytest.approx(0.8 / 3), "an empty prediction counts as 0"
    assert (got["dsc"]["left_out"], got["hd95"]["left_out"]) == (1, 3)
    assert got["hd95"]["mean"] == 8
    assert [each["image"] for each in got["worst"]] == ["b", "c", "a"]


def test_nothing_defined_has_no_numbers():
    (got,) = summarise([judged("a", math.nan)])
    numbers = {"mean": None, "median": None, "worst": None, "left_out": 1}
    assert got["dsc"] == numbers | {"low": None, "high": None}
    assert got["worst"] == []
    assert got["seed_means"] == {"0": None}


def test_scores_that_were_not_computed_are_absent():
    (got,) = summarise([judged("a", 0.5, hd95=None, surface_dice=None)])
    assert {"hd95", "surface_dice"}.isdisjoint(got)


def test_seeds_and_the_worst_result_of_each_image():
    given = [
        judged(name, dsc, seed=seed)
        for name, *values in (("a", 0.9, 0.2), ("b", 0.5, 0.6))
        for seed, dsc in enumerate(values)
    ]
    (got,) = summarise(given)
    assert got["seeds"] == [0, 1]
    assert got["seed_means"] == pytest.approx({"0": 0.7, "1": 0.4})
    assert got["worst"] == [{"image": "a", "seed": 1, "dsc": 0.2}, {"image": "b", "seed": 0, "dsc": 0.5}]
    assert (got["images"], got["results"]) == (2, 4)


def test_ten_are_named_as_the_worst():
    (got,) = summarise([judged(f"{place}", place / 20) for place in range(20)])
    assert [each["image"] for each in got["worst"]] == [str(place) for place in range(10)]


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(0.8, 0.1, 100)
    low, high = mean_interval(values, [str(place) for place in range(100)])
    deviation = values.std() / 10
    assert low == pytest.approx(values.mean() - 1.96 * deviation, abs=0.2 * deviation)
    assert high == pytest.approx(values.mean() + 1.96 * deviation, abs=0.2 * deviation)
    assert mean_interval(values, [str(place) for place in range(100)]) == (low, high), "the same each time"


def test_more_seeds_of_the_same_images_tell_no_more():
    values = np.random.default_rng(2).normal(0.8, 0.1, 50)
    names = [str(place) for place in range(50)]
    once, thrice = mean_interval(values, names), mean_interval(np.tile(values, 3), names * 3)
    assert thrice == pytest.approx(once)


def test_an_image_with_fewer_results_weighs_less():
    """As the mean does: its ends are means of what can be drawn."""
    low, high = mean_interval(np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"])
    assert (low, high) == (0, 1)


def test_one_image_has_no_interval():
    assert mean_interval(np.array([0.5, 0.7]), ["a", "a"]) == (None, None)
    assert mean_interval(np.array([]), []) == (None, None)
