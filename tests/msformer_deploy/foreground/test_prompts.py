"""Points and a box on an image: their channels, what they leave of a probability, and what is refused."""

from __future__ import annotations

import time

import numpy as np
import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.foreground.prompts import SIDE as CHANNEL_SIDE
from msformer_deploy.foreground.prompts import Box, Point, Prompts, Scribble, disc

HEIGHT, WIDTH, SIDE = 60, 120, 96


def channels(**shown: object) -> np.ndarray:
    return Prompts(**shown).channels(HEIGHT, WIDTH, SIDE)  # type: ignore[arg-type]


def test_points_are_discs_in_the_channel_of_their_kind_where_they_are_in_the_image():
    got = channels(points=[Point(90, 15), Point(30, 45, inside=False)])
    assert (got.shape, got.dtype) == ((3, SIDE, SIDE), np.float32)
    assert np.unique(got).tolist() == [0, 1]
    for channel, place in ((0, (0.25, 0.75)), (1, (0.75, 0.25))):
        rows, columns = np.nonzero(got[channel])
        assert (rows.mean() / SIDE, columns.mean() / SIDE) == pytest.approx(place, abs=0.01)
        assert 10 < rows.size < 40, "a disc of a few pixels, also in an image that is not square"
    assert not got[2].any()


def test_several_points_are_all_there():
    one, other = Point(20, 20), Point(100, 40)
    both = channels(points=[one, other])
    assert np.array_equal(both, np.maximum(channels(points=[one]), channels(points=[other])))


@pytest.mark.parametrize("point", [Point(0, 0), Point(WIDTH - 1, HEIGHT - 1)])
def test_a_point_in_a_corner_of_the_image_is_seen(point):
    assert channels(points=[point])[0].any()


def test_a_box_is_filled_with_its_last_row_and_column():
    got = channels(box=Box(30, 15, 59, 29))
    rows, columns = np.nonzero(got[2])
    assert (rows.min(), rows.max() + 1) == (24, 48), "rows 15 to 29 of 60 are the second quarter"
    assert (columns.min(), columns.max() + 1) == (24, 48)
    assert got[2].sum() == 24 * 24
    assert not got[:2].any()


def test_a_box_of_one_pixel_is_seen():
    assert channels(box=Box(7, 7, 7, 7))[2].any()


def test_nothing_is_left_outside_a_box():
    given = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    shown = Prompts(box=Box(30, 15, 59, 29))
    rows, columns = np.nonzero(shown.within(given, HEIGHT, WIDTH))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 29, 30, 59)
    small = shown.within(given[::2, ::2], HEIGHT, WIDTH)
    rows, columns = np.nonzero(small)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 14, 15, 29), "what the box touches"
    assert (given == 0.5).all(), "it is not changed in place"


def test_several_boxes_bound_the_mask_together():
    one, other = Box(0, 0, 9, 9), Box(60, 30, 119, 59)
    shown = Prompts(box=[one, other])
    found = shown.bounds(HEIGHT, WIDTH)
    assert found.sum() == 10 * 10 + 60 * 30
    assert np.array_equal(shown.within(found.astype(np.float32), HEIGHT, WIDTH) > 0, found)
    assert np.array_equal(
        shown.channels(HEIGHT, WIDTH, SIDE)[2], np.maximum(channels(box=one)[2], channels(box=other)[2])
    )


def strokes() -> Scribble:
    inside, outside = np.zeros((2, HEIGHT, WIDTH), bool)
    inside[20, 10:60] = True
    outside[50, 65:115] = True
    return Scribble(inside, outside)


def test_strokes_are_as_wide_as_points_in_the_channels():
    got = channels(scribbles=[strokes()])
    for channel, row in ((0, 20), (1, 50)):
        rows, columns = np.nonzero(got[channel])
        assert rows.mean() / SIDE == pytest.approx(row / HEIGHT, abs=0.02)
        assert 4 <= np.ptp(rows) <= 7
        assert np.ptp(columns) == pytest.approx(50 / WIDTH * SIDE, abs=8)


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (40, 50)])
def test_strokes_are_discs_around_the_pixels_of_the_channel_that_they_reach(height, width):
    rng = np.random.default_rng(0)
    inside = rng.random((height, width)) < 0.02
    inside[10:30, 20:23] = True
    rows, columns = np.nonzero(inside)
    centres = np.stack([(rows + 0.5) * SIDE / height, (columns + 0.5) * SIDE / width], axis=1)
    cells = np.unique(centres.astype(int), axis=0)
    expected = np.zeros((SIDE, SIDE))
    for row, column in cells if len(cells) < len(centres) else centres - 0.5:
        np.maximum(expected, disc(SIDE, row, column), out=expected)
    got = Prompts(scribbles=[Scribble(inside, np.zeros_like(inside))]).channels(height, width, SIDE)
    assert np.array_equal(got[0], expected)


def test_strokes_of_millions_of_pixels_take_no_seconds():
    inside = np.arange(1500 * 1500).reshape(1500, 1500) < 1_000_000
    shown = Prompts(scribbles=[Scribble(inside, ~inside)])
    start = time.process_time()
    shown.require_fit(1500, 1500)
    shown.channels(1500, 1500)
    assert time.process_time() - start < 2


def test_prompts_are_added_one_by_one():
    shown = Prompts().and_also(Point(3, 4)).and_also(Box(0, 0, 9, 9)).and_also(strokes()).and_also(Box(1, 1, 2, 2))
    assert (shown.points, shown.boxes) == ((Point(3, 4),), (Box(0, 0, 9, 9), Box(1, 1, 2, 2)))
    assert len(shown.scribbles) == 1


@pytest.mark.parametrize("other", [(3, 4), None, Prompts()])
def test_what_is_no_prompt_is_not_added(other):
    with pytest.raises(UsageError, match=r"is no prompt; pass a Point, a Box or a Scribble$"):
        Prompts().and_also(other)


def test_labelled_pixels_are_rows_and_columns():
    inside, outside = Prompts([Point(3, 4), Point(3, 4), Point(7, 8, inside=False)]).labelled(HEIGHT, WIDTH)
    assert (inside.tolist(), outside.tolist()) == ([[4, 3]], [[8, 7]])


def test_the_channels_are_of_the_size_that_the_prior_takes():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from msformer_deploy.models import prior

    assert torch
    assert (CHANNEL_SIDE, len(channels(points=[Point(3, 3)]))) == (prior.SIDE, prior.PROMPTS)


def test_points_leave_a_probability_alone():
    given = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    assert Prompts([Point(3, 3)]).within(given, HEIGHT, WIDTH) is given


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({}, "no point and no box"),
        ({"points": [Point(WIDTH, 3)]}, "point 120,3 is not in the image of 120 x 60 pixels"),
        ({"points": [Point(3, 3), Point(3, HEIGHT)]}, "point 3,60 is not in"),
        ({"points": [Point(-1, 3)]}, "point -1,3 is not in"),
        ({"points": [Point(3, 3), Point(3, 3, inside=False)]}, "pixel 3,3 is shown as inside and as outside"),
        ({"points": [Point(30, 3)], "box": Box(0, 0, 9, 9)}, "pixel 30,3 is shown as inside, but it is not in the box"),
        ({"scribbles": [Scribble(*np.ones((2, 3, 4), bool))]}, "strokes of 4 x 3 pixels do not fit"),
        ({"box": Box(0, 0, WIDTH, 5)}, "box 0,0,120,5 is not in the image of 120 x 60 pixels"),
        ({"box": Box(0, -1, 5, 5)}, "box 0,-1,5,5 is not in"),
        ({"box": Box(9, 0, 8, 5)}, "box 9,0,8,5 has its right or bottom before its left or top"),
        ({"box": Box(0, 9, 8, 8)}, "box 0,9,8,8 has its right or bottom before"),
        ({"box": Box(4, 4, 4, 4), "points": [Point(4, 4, inside=False)]}, "all pixels of the box are shown as outside"),
        ({"scribbles": [Scribble(*np.zeros((2, HEIGHT, WIDTH), bool))]}, "strokes have no pixel"),
        ({"scribbles": [Scribble(*np.ones((2, HEIGHT), bool))]}, "strokes of 60 pixels do not fit"),
        ({"scribbles": [Scribble(*np.ones((2, HEIGHT, WIDTH)))]}, "strokes are not two arrays of bool"),
        ({"scribbles": [np.ones((HEIGHT, WIDTH))]}, "something that is no Scribble"),
        ({"points": [(3, 4)]}, "something that is no Point"),
        ({"points": Point(3, 4)}, "something that is no Point"),
        ({"points": None}, "something that is no Point"),
        ({"box": (1, 2, 3, 4)}, "something that is no Box"),
        ({"box": 5}, "something that is no Box"),
        ({"points": [Point(3.5, 4)]}, "3.5,4 are not whole pixels"),
        ({"box": Box(1, 2, 3.0, 4)}, "1,2,3.0,4 are not whole pixels"),
        ({"points": [Point(3, 4, 2)]}, "inside of a point is neither True nor False"),
    ],
)
def test_what_does_not_fit_the_image_is_one_line(shown, said):
    with pytest.raises(UsageError) as error:
        Prompts(**shown).require_fit(HEIGHT, WIDTH)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_channels_of_a_part_are_those_of_the_image_enlarged():
    shown = Prompts(points=[Point(45, 22), Point(5, 5, inside=False)], box=Box(30, 15, 59, 29))
    found = shown.channels(HEIGHT, WIDTH, SIDE, part=(15, 7.5, 75, 37.5))
    rows, columns = np.nonzero(found[2])
    assert (rows.min(), rows.max() + 1) == (24, 72), "rows 15 to 29 of 7.5 to 37.5"
    assert (columns.min(), columns.max() + 1) == (24, 72)
    rows, columns = np.nonzero(found[0])
    assert (rows.mean(), columns.mean()) == pytest.approx((47.5, 48.3), abs=0.5)
    assert 20 < rows.size < 35, "a point is as large as in the image"
    assert not found[1].any(), "a point that is not in the part is left out"
    whole = shown.channels(HEIGHT, WIDTH, SIDE, part=(0, 0, WIDTH, HEIGHT))
    assert np.array_equal(whole, shown.channels(HEIGHT, WIDTH, SIDE))
