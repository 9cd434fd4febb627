"""Prompts drawn from a truth: where they are, and that a session is left as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from msformer_deploy.evaluation.drawn import box_around, correction, deepest, with_prompts
from msformer_deploy.foreground.prompts import Box, Point
from msformer_deploy.segmenter import Session

TRUTH = np.zeros((40, 60), bool)
TRUTH[10:21, 5:36] = True


class Notes:
    """A session that keeps what it is shown; its mask is the left half of the truth."""

    def __init__(self) -> None:
        self.shown: list[object] = []
        self.most: list[object] = []
        self.segmentation = SimpleNamespace(mask=TRUTH & (np.arange(60) < 20))

    def add(self, prompt: object) -> Any:
        self.shown.append(prompt)
        self.most = list(self.shown)
        return self.segmentation

    def undo(self) -> None:
        self.shown.pop()


def test_the_deepest_point_is_far_from_all_borders() -> None:
    point, depth = deepest(TRUTH)
    assert (point.y, point.inside, depth) == (15, True, 6)
    assert 10 <= point.x <= 30
    at_border = np.zeros((9, 9), bool)
    at_border[:, :5] = True
    assert deepest(at_border)[0][:2] == (2, 2), "the border of the image counts"


def test_the_box_has_the_last_row_and_column() -> None:
    assert box_around(TRUTH) == Box(5, 10, 35, 20)


def test_the_box_has_every_labelled_pixel() -> None:
    truth = np.zeros((200, 300), bool)
    truth[50:100, 80:160] = True
    truth[0, 0] = True
    assert box_around(truth) == Box(0, 0, 159, 99)


def test_a_correction_is_where_the_mask_is_most_wrong() -> None:
    assert correction(TRUTH & (np.arange(60) < 30), TRUTH).inside
    too_large = TRUTH.copy()
    too_large[25:] = True
    assert not correction(too_large, TRUTH).inside


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [("none", []), ("click", [Point]), ("box", [Box]), ("click2", [Point, Point])],
)
def test_a_session_is_shown_what_a_kind_says_and_then_nothing(kind: str, kinds: list[type]) -> None:
    notes = Notes()
    assert with_prompts(kind, cast("Session", notes), TRUTH) is notes.segmentation
    assert [type(each) for each in notes.most] == kinds
    assert notes.shown == []
    if kind == "click2":
        second = cast("Point", notes.most[1])
        assert second.inside
        assert second.x >= 20, "in the part that is missing"


def test_nothing_is_shown_of_a_truth_that_is_empty() -> None:
    notes = Notes()
    with_prompts("click2", cast("Session", notes), np.zeros((9, 9), bool))
    assert notes.most == []
