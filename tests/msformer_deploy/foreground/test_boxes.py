"""What a box says: the window that is seen closer, and a mask that comes nearer to the box's sides."""

from __future__ import annotations

from threading import local

import numpy as np
import pytest

from msformer_deploy.foreground.boxes import MARGIN, REACHED, Window, reaching, window_around
from msformer_deploy.foreground.prompts import Box

SIDE = 48


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        pytest.param([Box(40, 30, 59, 49)], Window(12, 8, 28, 24, SIDE), id="half of the box on each side"),
        pytest.param([Box(0, 0, 19, 19)], Window(0, 0, 12, 12, SIDE), id="not beyond the image"),
        pytest.param([Box(0, 0, 119, 119)], Window(0, 0, SIDE, SIDE, SIDE), id="all of the image"),
        pytest.param([Box(40, 30, 44, 49), Box(55, 40, 59, 44)], Window(12, 8, 28, 24, SIDE), id="two boxes"),
        pytest.param([Box(7, 7, 7, 7)], Window(2, 2, 4, 4, SIDE), id="one pixel"),
    ],
)
def test_the_window_has_the_boxes_and_a_margin(boxes: list[Box], expected: Window) -> None:
    assert MARGIN == 0.5
    assert window_around(boxes, 120, 120, SIDE) == expected


def test_a_window_knows_its_part_of_an_image() -> None:
    assert Window(12, 8, 24, 16, SIDE).part(96, 480) == (120, 16, 240, 32)
    assert Window(0, 0, 97, 97, 97).part(530, 611) == (0, 0, 611, 530), "no rounding goes beyond the image"


def test_features_are_those_nearest_to_the_places_of_the_window() -> None:
    features = np.arange(2 * SIDE * SIDE, dtype=np.float32).reshape(2, SIDE, SIDE)
    window = Window(12, 24, 36, 48, SIDE)
    found = window.enlarged(features, local())
    assert found.shape == features.shape
    assert np.array_equal(found[:, ::2, ::2], features[:, 24:48, 12:36])
    assert np.array_equal(found[:, 1::2, 1::2], features[:, 24:48, 12:36])
    assert np.array_equal(Window(0, 0, SIDE, SIDE, SIDE).enlarged(features, local()), features)


def test_features_of_torch_are_taken_in_the_same_way() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    features = np.random.default_rng(0).random((3, SIDE, SIDE), np.float32)
    window = Window(5, 7, 31, 22, SIDE)
    assert np.array_equal(
        window.enlarged(torch.from_numpy(features), local()).numpy(), window.enlarged(features, local())
    )


def test_memory_is_used_again_and_changes_with_the_number_of_features() -> None:
    kept, window = local(), Window(12, 24, 36, 48, SIDE)
    first = window.enlarged(np.zeros((2, SIDE, SIDE), np.float32), kept)
    second = window.enlarged(np.ones((2, SIDE, SIDE), np.float32), kept)
    assert np.shares_memory(first, second)
    assert (second == 1).all()
    assert window.enlarged(np.ones((3, SIDE, SIDE), np.float32), kept).shape == (3, SIDE, SIDE)


def test_what_a_window_shows_comes_back_to_its_place() -> None:
    seen = np.ones((SIDE, SIDE), np.float32)
    found = Window(12, 24, 36, 40, SIDE).placed(seen)
    assert (found[24:40, 12:36] == 1).all()
    assert found.sum() == 16 * 24
    whole = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    assert np.array_equal(Window(0, 0, SIDE, SIDE, SIDE).placed(whole), whole)


def disc(height: int, width: int, centre: tuple[int, int], radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    near = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    return near.astype(np.float32)


def gaps(mask: np.ndarray, box: Box) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return (
        int(columns.min()) - box.left,
        int(rows.min()) - box.top,
        box.right - int(columns.max()),
        box.bottom - int(rows.max()),
    )


def test_a_mask_comes_nearer_to_all_sides_of_its_box() -> None:
    assert REACHED == 0.5
    box = Box(20, 30, 119, 129)
    given = disc(200, 200, (80, 70), 37)
    assert gaps(given > 0.5, box) == (13, 13, 12, 12)
    found = reaching(given, 0.5, [box])
    assert all(gap == pytest.approx(7, abs=1) for gap in gaps(found > 0.5, box))
    outside = found.copy()
    outside[30:130, 20:120] = 0
    assert not outside.any()


def test_a_side_that_is_reached_stays() -> None:
    box = Box(20, 30, 119, 129)
    given = np.zeros((200, 200), np.float32)
    given[30:130, 20:100] = 0.9
    assert gaps(reaching(given, 0.5, [box]) > 0.5, box) == (0, 0, 11, 0)
    assert np.array_equal(reaching(given, 0.5, [Box(20, 30, 99, 129)]), given), "all four are reached"


def test_each_box_has_its_own_part() -> None:
    one, other, empty = Box(0, 0, 49, 49), Box(60, 0, 109, 49), Box(0, 60, 49, 99)
    given = disc(100, 120, (25, 25), 15)
    given[:50, 60:110] = 1
    found = reaching(given, 0.5, [one, other, empty]) > 0.5
    assert gaps(found[:, :55], one)[0] < 8 < gaps(given[:, :55] > 0.5, one)[0]
    assert np.array_equal(found[:, 60:], given[:, 60:] > 0.5)
    assert not found[60:].any()


def test_nothing_above_the_threshold_is_left_as_it_is() -> None:
    given = 0.1 * disc(100, 100, (50, 50), 10)
    found = reaching(given, 0.5, [Box(20, 20, 79, 79)])
    assert np.array_equal(found, given)


@pytest.mark.parametrize("order", [1, -1])
def test_where_boxes_overlap_the_higher_probability_counts(order: int) -> None:
    probability = np.zeros((40, 40), np.float32)
    probability[4:20, 4:20] = 0.9
    probability[24:36, 24:36] = 0.6
    boxes = [Box(2, 2, 29, 29), Box(14, 14, 37, 37)][::order]
    alone = [reaching(probability, 0.5, [each]) for each in boxes]
    assert (alone[0] != alone[1])[14:30, 14:30].any()
    assert np.array_equal(reaching(probability, 0.5, boxes), np.maximum(*alone))
