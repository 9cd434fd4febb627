"""Scores of hand-made masks; what is empty is defined; MONAI's part against distances counted by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from msformer_deploy.measures import scores
from msformer_deploy.measures.overlap import overlap

EMPTY = np.zeros((40, 50), bool)


def box(rows: slice, columns: slice) -> np.ndarray:
    made = EMPTY.copy()
    made[rows, columns] = True
    return made


SQUARE = box(slice(10, 20), slice(10, 20))


def test_overlap_scores_are_those_of_metrics():
    other = box(slice(10, 20), slice(15, 25))
    got, expected = scores.score(other, SQUARE, None), overlap(other, SQUARE)
    assert (got.dsc, got.hm, got.xor) == (expected.dsc, expected.hm, expected.xor) == (0.5, 2 / 3, 1.0)
    assert got.iou == pytest.approx(1 / 3)
    assert (got.prediction_pixels, got.truth_pixels) == (100, 100)
    assert (got.hd95, got.surface_dice) == (None, None)


@pytest.mark.parametrize("shift", [0, 1, 3, 20])
def test_surfaces_of_a_shifted_square(shift):
    pytest.importorskip("monai.metrics")
    got = scores.score(box(slice(10, 20), slice(10 + shift, 20 + shift)), SQUARE, 2.0)
    assert got.hd95 == pytest.approx(shift, abs=0.5)
    if shift <= 2:
        assert got.surface_dice == 1
    else:
        assert got.surface_dice == pytest.approx({3: 40 / 72, 20: 0}[shift], abs=0.06)


def test_the_tolerance_counts():
    pytest.importorskip("monai.metrics")
    other = box(slice(10, 20), slice(13, 23))
    found = [scores.score(other, SQUARE, tolerance).surface_dice for tolerance in (0.0, 1.0, 3.0)]
    assert found == sorted(found)
    assert found[0] < found[1] < found[2] == 1


def test_a_line_of_one_pixel_has_a_surface():
    pytest.importorskip("monai.metrics")
    line, far = box(slice(10, 11), slice(10, 40)), box(slice(14, 15), slice(10, 40))
    assert scores.score(line, line, 2.0).hd95 == 0
    assert scores.score(line, far, 2.0).hd95 == pytest.approx(4)
    assert scores.score(line, far, 2.0).surface_dice == 0


NAN = math.nan


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (EMPTY, SQUARE, (0, 1, 1, 0, NAN, 0)),
        (SQUARE, EMPTY, (0, 1, NAN, 0, NAN, 0)),
        (EMPTY, EMPTY, (NAN, NAN, NAN, NAN, NAN, NAN)),
    ],
    ids=["prediction", "truth", "both"],
)
def test_empty_masks(prediction, truth, expected):
    got = scores.score(prediction, truth, 2.0)
    found = (got.dsc, got.hm, got.xor, got.iou, got.hd95, got.surface_dice)
    assert found == pytest.approx(expected, nan_ok=True)


def test_full_masks_touch_the_border():
    pytest.importorskip("monai.metrics")
    got = scores.score(~EMPTY, ~EMPTY, 2.0)
    assert (got.dsc, got.hd95, got.surface_dice) == (1, 0, 1)


def test_without_monai_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    line = scores.surfaces_missing()
    assert line is not None
    assert "msformer-deploy[evaluate]" in line
    assert "\n" not in line
