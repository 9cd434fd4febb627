"""Prompts of a volume in the slices beside their own, on made features and what a network might say of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import volumes

from msformer_deploy.foreground.prompts import Prompts
from msformer_deploy.foreground.volume_prompts import Placed, VolumeBox, VolumePoint, VolumePrompts
from msformer_deploy.images.space import Spacing
from msformer_deploy.refinement.carried import carried

SLICES, SIDE = 12, 48
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def disc(row: float, column: float, radius: float) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 < radius**2


class Scene:
    """Objects, each in a range of slices, that look alike; a click on one finds the part that it is on.

    Where a click is on no object, a disc around it is found: a click is always obeyed. A box finds what is in it.
    """

    def __init__(self, *objects: tuple[range, float, float]) -> None:
        self.truth = np.zeros((len(objects), SLICES, SIDE, SIDE), bool)
        for own, (slices, row, column) in zip(self.truth, objects, strict=True):
            for index in slices:
                own[index] = disc(row, column + index - 6, 6)  # they lean
        noise = np.random.default_rng(0).normal(0, 0.1, (4, SLICES, SIDE, SIDE))
        self.maps = (self.truth.any(axis=0) * np.array([1.0, -1, 0.5, 0])[:, None, None, None] + noise).astype(
            np.float32
        )
        self.asked: list[tuple[int, Prompts]] = []

    def features(self, index: int) -> np.ndarray:
        return self.maps[:, index]

    def figure(self, index: int, shown: Prompts) -> np.ndarray:
        shown.require_fit(SIDE, SIDE)
        self.asked.append((index, shown))
        found = np.zeros((SIDE, SIDE), bool)
        for x, y, inside in shown.points:
            part = np.logical_or.reduce([own[index] for own in self.truth if own[index, y, x]] or [disc(y, x, 5)])
            found = found | part if inside else found & ~part
        if shown.boxes and not shown.points:
            found = self.truth.any(axis=0)[index]
        return np.where(found, 0.9, 0.05).astype(np.float32)

    def masks(self, points: Sequence[VolumePoint] = (), boxes: Sequence[VolumeBox] = ()) -> np.ndarray:
        """With places in voxels: columns, rows and slices."""
        volume = volumes.in_memory(np.zeros((SLICES, SIDE, SIDE)), np.eye(4))
        object.__setattr__(volume, "spacing", Spacing(1, 1, "file"))
        placed = Placed(VolumePrompts(points, boxes), volume)
        before = np.full((SLICES, SIDE, SIDE), 0.8, np.float32)
        return carried(placed, before, (SIDE, SIDE), self.features, self.figure) > 0.5


ONE, OTHER = (range(2, 9), 12, 12), (range(4, 11), 34, 34)


@pytest.mark.parametrize("index", [2, 5, 8])
def test_the_object_of_a_point_is_followed_to_its_ends_and_no_other(index: int) -> None:
    scene = Scene(ONE, OTHER)
    found = scene.masks([VolumePoint(12 + index - 6, 12, index)])
    assert np.array_equal(found, scene.truth[0])
    assert sorted({each for each, _ in scene.asked}) == list(range(2, 9))  # nothing is asked beyond the ends


def test_points_on_two_objects_in_different_slices_give_both() -> None:
    scene = Scene(ONE, OTHER)
    found = scene.masks([VolumePoint(11, 12, 5), VolumePoint(36, 34, 8)])
    assert np.array_equal(found, scene.truth.any(axis=0))


def test_a_speck_that_a_click_brings_is_not_followed_when_the_object_ends() -> None:
    scene = Scene(ONE, OTHER)
    original = scene.figure

    def speckled(index: int, shown: Prompts) -> np.ndarray:
        found = original(index, shown)
        if index == 8:
            found[34, 35:37] = 0.9  # on the other object
        return found

    scene.figure = speckled
    found = scene.masks([VolumePoint(14, 12, 8)])
    assert np.array_equal(found[:8], scene.truth[0, :8])
    assert not found[9:].any()


def test_an_object_that_branches_is_followed_in_all_of_its_parts() -> None:
    scene = Scene((range(3, 9), 14, 20), (range(3, 9), 30, 20))
    scene.truth[0, 5] |= scene.truth[1, 5] | disc(22, 19, 8)
    scene.maps[:, 5] = np.where(scene.truth[0, 5], np.array([1.0, -1, 0.5, 0])[:, None, None], 0)
    found = scene.masks([VolumePoint(19, 22, 5)])
    assert np.array_equal(found, scene.truth.any(axis=0))


def test_a_point_outside_counts_in_its_slice_and_what_is_followed_goes_on_without_it() -> None:
    scene = Scene(ONE, (range(4, 11), 18, 12))  # they touch, so the mask has to be cut at the point
    both = scene.truth.any(axis=0)
    original = scene.figure

    def joined(index: int, shown: Prompts) -> np.ndarray:
        found = original(index, shown)
        outside = [each for each in shown.points if not each.inside]
        return np.where(
            both[index] & ~(scene.truth[1, index] & bool(outside)), np.float32(0.9), np.minimum(found, 0.05)
        )

    scene.figure = joined
    found = scene.masks([VolumePoint(9, 10, 3), VolumePoint(12, 22, 6, inside=False)])
    assert np.array_equal(found[6], scene.truth[0, 6] & ~scene.truth[1, 6])
    assert all(inside or (index, x, y) == (6, 12, 22) for index, each in scene.asked for x, y, inside in each.points)
    assert np.array_equal(found[2], both[2])


def test_points_outside_alone_leave_other_slices_as_they_are() -> None:
    found = Scene(ONE).masks([VolumePoint(40, 40, 6, inside=False)])
    assert [bool(each.all()) for each in found] == [index != 6 for index in range(SLICES)]
    assert not found[6, 40, 40]


def test_a_box_prompts_all_slices_that_it_reaches_and_nothing_is_outside() -> None:
    scene = Scene(ONE, OTHER)
    found = scene.masks(boxes=[VolumeBox(0, 4, 3, 20, 20, 6)])
    assert sorted(each for each, _ in scene.asked) == [3, 4, 5, 6]
    expected = scene.truth[0].copy()
    expected[[2, 7, 8]] = False
    assert np.array_equal(found, expected)


def test_a_point_is_followed_within_its_box() -> None:
    scene = Scene(ONE, OTHER)
    found = scene.masks([VolumePoint(11, 12, 5)], [VolumeBox(0, 0, 3, 47, 47, 6)])
    expected = scene.truth[0].copy()
    expected[[2, 7, 8]] = False
    assert np.array_equal(found, expected)


def test_an_object_that_nothing_sets_apart_stays_in_the_slice_of_its_point() -> None:
    scene = Scene(ONE)
    scene.maps[:] = 0
    found = scene.masks([VolumePoint(11, 12, 5)])
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [5]


@pytest.mark.parametrize("value", [0.01, 0.9])
def test_what_is_nowhere_or_everywhere_in_its_slice_is_not_followed(value: float) -> None:
    scene = Scene(ONE)
    scene.figure = lambda index, shown: np.full((SIDE, SIDE), value, np.float32)
    found = scene.masks([VolumePoint(11, 12, 5)])
    assert [bool(each.any()) for each in found] == [index == 5 and value > 0.5 for index in range(SLICES)]


def test_an_object_of_a_few_pixels_is_followed() -> None:
    scene = Scene(ONE)
    scene.truth[0] = False
    scene.truth[0, 3:8, 13, 13:15] = True  # between the pixels that the ground is learned on
    scene.maps[0] = np.where(scene.truth[0], 1, 0.05 * scene.maps[3])
    assert np.array_equal(scene.masks([VolumePoint(13, 13, 5)]), scene.truth[0])


def test_objects_of_two_points_that_overlap_in_some_slices_are_both_kept_there() -> None:
    scene = Scene((range(2, 6), 12, 12), OTHER)  # the first ends before the slice of the second point
    found = scene.masks([VolumePoint(9, 12, 3), VolumePoint(36, 34, 8)])
    assert np.array_equal(found, scene.truth.any(axis=0))


def test_a_spot_that_looks_like_the_object_brings_no_ground() -> None:
    scene = Scene(ONE)
    scene.maps[:, 9, 10:14, 13:17] = np.array([1.0, -1, 0.5, 0])[
        :, None, None
    ]  # where the object was, one slice before
    assert np.array_equal(scene.masks([VolumePoint(12, 12, 6)]), scene.truth[0])
    assert 9 in {index for index, _ in scene.asked}
