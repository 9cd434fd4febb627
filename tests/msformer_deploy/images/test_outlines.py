"""Masks become polygons and the same masks again."""

from __future__ import annotations

import time

import cc3d
import numpy as np
import pytest

from msformer_deploy.images.outlines import fill, outlines


def refilled(mask: np.ndarray) -> np.ndarray:
    return fill([each.joined() for each in outlines(mask)], mask.shape)


def noises() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5), (8, 8), (12, 7), (20, 30)]
    return [rng.random(size) < share for size in sizes for share in (0.2, 0.4, 0.5, 0.6, 0.8, 0.95) for _ in range(8)]


def test_random_masks_come_back() -> None:
    """They have holes, holes in parts within holes, parts that touch by corners, and parts at the border."""
    for mask in noises():
        assert np.array_equal(refilled(mask), mask), mask


def test_parts_and_holes_are_kept_apart() -> None:
    for mask in noises():
        parts = cc3d.connected_components(mask, connectivity=4)
        found = outlines(mask)
        assert len(found) == parts.max()
        for number, each in enumerate(found, 1):
            again = fill([each.outer], mask.shape) & ~fill(each.holes, mask.shape)
            assert np.array_equal(again, parts == number)
            rows, columns = np.nonzero(again)
            assert each.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
            assert each.area == again.sum()


def test_borders_turn_at_every_corner_and_run_clockwise() -> None:
    mask = np.zeros((6, 7), bool)
    mask[1:5, 2:6] = True
    mask[2:4, 3:5] = False
    (found,) = outlines(mask)
    assert found.outer.tolist() == [[2, 1], [6, 1], [6, 5], [2, 5]]
    (hole,) = found.holes
    assert sorted(hole.tolist()) == [[3, 2], [3, 4], [5, 2], [5, 4]]
    assert found.joined().tolist() == [
        *([2, 1], [6, 1], [6, 5], [2, 5], [2, 2]),
        *([3, 2], [3, 4], [5, 4], [5, 2], [3, 2], [2, 2]),
    ]


def test_a_hole_that_opens_by_a_corner_is_no_hole() -> None:
    mask = np.ones((3, 3), bool)
    mask[1, 1] = mask[0, 0] = False
    (found,) = outlines(mask)
    assert found.holes == ()
    assert np.array_equal(refilled(mask), mask)


@pytest.mark.parametrize("scale", [1, 3])
def test_nested_rings(scale: int) -> None:
    rows, columns = np.indices((31, 31))
    rings = np.kron(np.maximum(abs(rows - 15), abs(columns - 15)) % 4 < 2, np.ones((scale, scale))) > 0
    assert len(outlines(rings)) > 3
    assert np.array_equal(refilled(rings), rings)


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((3, 4), bool)) == []
    assert not fill([], (3, 4)).any()


def test_a_polygon_holds_the_pixels_whose_centres_are_inside() -> None:
    triangle = np.array([(0.6, 0.2), (7.7, 1.3), (2.1, 6.4)])
    rows, columns = np.indices((8, 9)) + 0.5
    sides = [
        (x2 - x1) * (rows - y1) - (y2 - y1) * (columns - x1) > 0
        for (x1, y1), (x2, y2) in zip(triangle, np.roll(triangle, -1, axis=0), strict=True)
    ]
    assert np.array_equal(fill([triangle], (8, 9)), np.all(sides, axis=0))
    assert np.array_equal(fill([triangle[::-1]], (8, 9)), np.all(sides, axis=0))


def test_neighbours_with_a_border_through_centres_share_no_pixel() -> None:
    left, right = [(0, 0), (2.5, 0), (2.5, 4), (0, 4)], [(2.5, 0), (5, 0), (5, 4), (2.5, 4)]
    one, other = (fill([np.array(each)], (4, 5)) for each in (left, right))
    assert not (one & other).any()
    assert (one | other).all()


def test_what_is_outside_is_cut_off() -> None:
    assert fill([np.array([(-5, -5), (20, -5), (20, 20), (-5, 20)])], (4, 5)).all()
    assert not fill([np.array([(6, 0), (9, 0), (9, 3)])], (4, 5)).any()
    half = fill([np.array([(-10, 1), (2, 1), (2, 30), (-10, 30)])], (4, 5))
    assert np.argwhere(half).tolist() == [[row, column] for row in (1, 2, 3) for column in (0, 1)]


def test_overlapping_polygons_are_joined() -> None:
    square = np.array([(0, 0), (3, 0), (3, 3), (0, 3)])
    assert fill([square, square + 1], (4, 4)).sum() == 14


@pytest.mark.slow
def test_noise_of_a_megapixel_takes_seconds() -> None:
    mask = np.random.default_rng(0).random((500, 500)) < 0.75
    start = time.perf_counter()
    assert np.array_equal(refilled(mask), mask)
    assert time.perf_counter() - start < 20
