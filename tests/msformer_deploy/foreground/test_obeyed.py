"""A mask obeys: clicked pixels are on their side, nothing is outside a box, and changes end at the image's edges."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.foreground.obeyed import EDGE, REACH, distances, obeyed
from msformer_deploy.foreground.prompts import Box, Point, Prompts, Scribble

HEIGHT, WIDTH, SIDE = 120, 180, 60


@pytest.fixture
def guide() -> np.ndarray:
    """Dark to the left and bright to the right, with noise."""
    image = np.full((3, SIDE, SIDE), 0.2, np.float32)
    image[:, :, SIDE // 2 :] = 0.8
    return image + np.random.default_rng(0).normal(0, 0.01, image.shape).astype(np.float32)


def empty() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), bool)


@pytest.mark.parametrize("inside", [True, False])
def test_a_click_changes_a_region_that_ends_at_the_edge_of_the_image(guide, inside):
    before = empty() if inside else ~empty()
    changed = obeyed(before, guide, Prompts([Point(86, 50, inside)])) != before
    rows, columns = np.nonzero(changed)
    assert changed[50, 86]
    assert columns.max() < WIDTH // 2 + 2, "four pixels to the right of the click the image has an edge"
    assert columns.min() < 82
    assert 20 < changed.sum() < 0.02 * changed.size
    assert rows.mean() == pytest.approx(50, abs=2)


def test_a_mask_that_obeys_is_left_as_it_is(guide):
    mask = empty()
    mask[40:60, 40:60] = True
    assert obeyed(mask, guide, Prompts([Point(50, 50), Point(5, 5, inside=False)])) is mask


def test_what_is_nearer_to_another_label_stays(guide):
    found = obeyed(empty(), guide, Prompts([Point(40, 50), Point(46, 50, inside=False)]))
    assert found[50, 40:43].all()
    assert not found[50, 44:].any()


@pytest.mark.parametrize("seed", range(5))
def test_every_pixel_of_many_prompts_is_obeyed(guide, seed):
    rng = np.random.default_rng(seed)
    box = Box(30, 20, 149, 99)
    inside, outside = np.zeros((2, HEIGHT, WIDTH), bool)
    pixels = rng.permutation(120 * 80)[:40]
    points = [Point(30 + int(each) % 120, 20 + int(each) // 120, bool(index % 2)) for index, each in enumerate(pixels)]
    inside[20:99:7, 30] = True
    outside[::5, 3] = True
    mask = rng.random((HEIGHT, WIDTH)) < 0.5
    free = [each for each in points if not inside[each.y, each.x]]
    found = obeyed(mask, guide, Prompts(free, box, [Scribble(inside, outside)]))
    assert all(found[y, x] == wanted for x, y, wanted in free)
    assert found[inside].all()
    assert not found[outside].any()
    found[20:100, 30:150] = False
    assert not found.any()


@pytest.mark.parametrize("place", [Point(0, 0), Point(WIDTH - 1, HEIGHT - 1), Point(0, HEIGHT - 1)])
def test_a_click_in_a_corner_is_obeyed(guide, place):
    assert obeyed(empty(), guide, Prompts([place]))[place.y, place.x]


def test_a_box_without_a_mask_in_it_has_one_at_its_centre(guide):
    found = obeyed(empty(), guide, Prompts(box=Box(100, 40, 140, 60)))
    assert found[50, 120]
    rows, columns = np.nonzero(found)
    assert (rows.min() >= 40, rows.max() <= 60, columns.min() >= 100, columns.max() <= 140) == (True,) * 4


def test_distances_are_lengths_of_shortest_paths_and_longer_across_edges():
    image = np.zeros((3, 9, 11), np.float32)
    plain = distances(image, np.array([[4, 5]]))
    rows, columns = np.mgrid[:9, :11]
    np.testing.assert_allclose(plain, abs(rows - 4) + abs(columns - 5))
    image[:, :8, 7] = 1  # a wall with a way around it
    around = distances(image, np.array([[4, 5]]))
    assert around[4, 7] == pytest.approx(2 + EDGE)
    assert around[4, 8] == pytest.approx(11)
    assert np.isinf(distances(image, np.zeros((0, 2), np.intp))).all()


def test_the_reach_is_a_part_of_the_image():
    found = obeyed(empty(), np.zeros((3, SIDE, SIDE), np.float32), Prompts([Point(90, 60)]))
    assert np.ptp(np.nonzero(found)[0]) / HEIGHT == pytest.approx(2 * REACH, abs=0.04)
