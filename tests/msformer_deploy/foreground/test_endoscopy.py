"""Polyps in drawn endoscopic images: a lit wall that falls off into the dark, a frame, reflections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from msformer_deploy.foreground import endoscopy
from msformer_deploy.foreground.confidence import Confidence, confidence_of
from msformer_deploy.foreground.endoscopy import delineate, on_one_thread
from msformer_deploy.foreground.thresholding import by_threshold
from msformer_deploy.foreground.view import View

SIDE = 257
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
PICTURE = np.hypot(ROWS, COLUMNS) < 0.48


def blob(row: float, column: float, height: float = 0.14, width: float = 0.11) -> np.ndarray:
    return np.hypot((ROWS - row) / height, (COLUMNS - column) / width) < 1


def view(inside: np.ndarray, brighter: float = 1.25, redder: float = 1.0) -> np.ndarray:
    """BGR (3, SIDE, SIDE): light falls off to the right, the polyp differs from the wall by these factors."""
    light = 0.75 - 0.4 * COLUMNS
    wall = np.array([0.25, 0.35, 0.6])[:, None, None] * light
    wall[:, inside] *= brighter
    wall[:2, inside] /= redder
    image = wall + 0.02 * np.random.default_rng(0).standard_normal(wall.shape)
    return np.where(PICTURE, image, 0.02).clip(0, 1).astype(np.float32)


def dsc(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("place", [(0.0, 0.0), (-0.2, 0.15), (0.15, -0.2)])
@pytest.mark.parametrize(("brighter", "redder"), [(1.25, 1.0), (1.0, 1.3), (1.2, 1.2)])
def test_what_is_brighter_or_redder_than_its_surroundings_is_outlined(place, brighter, redder):
    object_ = blob(*place)
    mask = delineate(View(view(object_, brighter, redder)))
    assert mask.dtype == bool
    assert dsc(mask, object_) > 0.85


def test_reflections_do_not_cut_it():
    object_ = blob(0.05, 0.0)
    image = view(object_)
    for place in ((0.02, 0.02), (0.1, -0.04), (-0.2, 0.2), (-0.15, -0.2), (0.25, 0.15)):
        image[:, blob(*place, 0.05, 0.04)] = 0.98
    assert dsc(delineate(View(image)), object_) > 0.85


def test_neither_the_frame_nor_the_light_is_a_polyp():
    """The step at the frame is the steepest there is, and the slope of the light has no closed outline."""
    object_ = blob(0.1, 0.2, 0.1, 0.08)
    mask = delineate(View(view(object_, 1.2)))
    assert mask.mean() < 0.1
    assert dsc(mask, object_) > 0.7


@pytest.mark.parametrize("side", [65, 129, 193])
def test_images_of_other_sizes_are_fine(side):
    object_ = blob(0.0, 0.0)
    nearest = np.linspace(0, SIDE - 1, side).round().astype(int)
    mask = delineate(View(view(object_)[:, nearest[:, None], nearest]))
    assert dsc(mask, object_[nearest[:, None], nearest]) > 0.8


def small(array: np.ndarray) -> np.ndarray:
    """As outlines are sought in it, of an image or a mask (..., SIDE, SIDE)."""
    return array[..., ::2, ::2]


def test_an_outline_in_doubt_makes_way_for_a_threshold(monkeypatch):
    image, found = view(blob(0.05, 0.0)), small(blob(0.0, -0.2, 0.3, 0.2))  # of the lit wall a part
    monkeypatch.setattr(endoscopy, "outlined", lambda _: found)
    assert confidence_of(found, View(image)).doubt is not None
    assert dsc(delineate(View(image)), by_threshold(image)) > 0.97, "but for what the edges of the image add"
    monkeypatch.setattr(endoscopy, "outlined", lambda image: np.zeros(image.shape[1:], bool))
    assert dsc(delineate(View(image)), by_threshold(image)) > 0.97, "a guess is more than nothing"
    monkeypatch.setattr(endoscopy, "outlined", lambda _: found)
    monkeypatch.setattr(endoscopy, "confidence_of", lambda *_: Confidence(0.6, None))
    monkeypatch.setattr(endoscopy, "by_threshold", lambda _: pytest.fail("without need"))
    assert dsc(small(delineate(View(image))), found) > 0.95


def test_a_threshold_of_something_else_does_not_count(monkeypatch):
    image, found = view(blob(0.05, 0.0)), small(blob(-0.2, 0.1))  # on the wall, where nothing is
    assert (found & by_threshold(small(image))).sum() > 0
    monkeypatch.setattr(endoscopy, "outlined", lambda _: found)
    assert confidence_of(found, View(image)).doubt is not None
    assert dsc(small(delineate(View(image))), found) > 0.95
    monkeypatch.setattr(endoscopy, "by_threshold", lambda image: np.zeros(image.shape[1:], bool))
    assert dsc(small(delineate(View(image))), found) > 0.95, "a guess is more than nothing"


def test_a_picture_too_narrow_for_any_outline_has_none():
    image = np.where(COLUMNS < -0.41, 0.6, 0.0)[None].repeat(3, axis=0).astype(np.float32)
    assert not endoscopy.outlined(small(image)).any()
    assert delineate(View(image)).shape == (SIDE, SIDE)


@pytest.mark.parametrize("seed", range(3))
def test_the_steepest_path_is_the_best_of_all(seed):
    """Beside every closed path there is, one by one."""
    angles, radii = 5, 3
    gain = np.random.default_rng(seed).standard_normal((4, angles, radii)).astype(np.float32)
    closed = [
        path
        for path in product(range(radii), repeat=angles)
        if all(abs(path[turn] - path[turn - 1]) <= 1 for turn in range(angles))
    ]
    best = [max(closed, key=lambda path: float(each[range(angles), path].sum())) for each in gain]
    assert endoscopy._steepest(gain).tolist() == [list(path) for path in best]


def test_of_regions_the_one_that_the_steep_ones_agree_on_is_chosen():
    regions = np.zeros((1, 4, 8, 8), bool)
    regions[0, 0, :3, :3] = regions[0, 1, :3, :4] = regions[0, 2, 4:, 4:] = regions[0, 3, 4:, 3:] = True
    assert np.array_equal(endoscopy._agreed(regions, np.array([[1.0, 1.0, 0.1, 0.1]])), regions[0, 0])
    assert np.array_equal(endoscopy._agreed(regions, np.array([[0.1, -1.0, 1.0, 0.9]])), regions[0, 2])
    assert not endoscopy._agreed(regions, np.full((1, 4), -1.0)).any()


def test_an_outline_encloses_what_is_nearer_than_it_on_every_side():
    radii = np.full((1, 1, endoscopy.ANGLES), 5)
    radii[0, 0, 0] = 10  # to the right
    centre = int(np.flatnonzero((endoscopy._grid() == 5 * endoscopy.SPACING).all(axis=1))[0])
    inside = endoscopy._inside(radii, np.array([centre]))[0, 0]
    row, column = endoscopy._grid()[centre] // endoscopy.COARSE
    reach = endoscopy.RADII[[5, 10]] / endoscopy.COARSE
    disc = np.hypot(*(np.indices(inside.shape) - np.array([row, column])[:, None, None]))
    assert inside[disc < reach[0] - 1].all()
    assert not inside[disc > reach[1] + 1].any()
    assert inside[row, column : column + int(reach[1])].all()
    assert not inside[row, : column - int(reach[0]) - 1].any()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_image_of_one_colour_has_no_polyp(value):
    assert not delineate(View(np.full((3, SIDE, SIDE), value, np.float32))).any()


class Watched(np.ndarray):
    """Notes how many threads the matrix library has at each product, of itself and of what is computed from it."""

    threads: ClassVar[list[set[int]]] = []

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if ufunc is np.matmul:
            self.threads.append({each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"})
        plain = [np.asarray(each) if isinstance(each, np.ndarray) else each for each in inputs]
        result = getattr(ufunc, method)(*plain, **options)
        return result.view(Watched) if isinstance(result, np.ndarray) else result


def test_products_wake_no_threads_of_a_matrix_library():
    """They would wait for the next product at full speed, on cores that the encoder is on."""
    inside = np.stack([blob(0, 0), blob(0.01, 0), blob(0.2, 0.2)])[None].view(Watched)
    steepness = np.array([[1, 0.5, 0.1]], np.float32)
    Watched.threads.clear()
    with threadpool_limits(2, user_api="blas"):
        if not any(each["num_threads"] == 2 for each in threadpool_info() if each["user_api"] == "blas"):
            pytest.skip("numpy's matrix library does not take two threads")
        assert (endoscopy._agreed(inside, steepness) == inside[0, 0]).all()
    assert Watched.threads == [{1}, {1}]


# The matrix library

MANY = 2


def threads() -> set[int]:
    """Of every matrix library that is loaded."""
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture
def several_threads() -> Iterator[None]:
    with threadpool_limits(MANY, user_api="blas"):
        if threads() != {MANY}:
            pytest.skip(f"numpy's matrix library does not take {MANY} threads")
        yield


@pytest.mark.usefixtures("several_threads")
def test_products_are_made_on_one_thread() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    with on_one_thread():
        assert threads() == {1}
    assert threads() == {MANY}


@pytest.mark.usefixtures("several_threads")
def test_the_threads_are_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="matmul"), on_one_thread():
        np.ones((2, 3)) @ np.ones((2, 3))
    assert threads() == {MANY}


@pytest.mark.usefixtures("several_threads")
def test_callers_in_several_threads_take_turns() -> None:
    """Each would give back what it found, and the last one the single thread of another."""
    entered, leave = threading.Event(), threading.Event()
    seen = []

    def first() -> None:
        with on_one_thread():
            entered.set()
            assert leave.wait(20)

    def second() -> None:
        assert entered.wait(20)
        with on_one_thread():
            seen.append(leave.is_set())

    callers = [threading.Thread(target=each) for each in (first, second)]
    for each in callers:
        each.start()
    assert entered.wait(20)
    callers[1].join(0.05)
    leave.set()
    for each in callers:
        each.join(20)
    assert seen == [True]
    assert threads() == {MANY}
