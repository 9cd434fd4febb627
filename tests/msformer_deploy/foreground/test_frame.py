"""The black frame of a scope: where it is one, what takes its place, and images that are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from msformer_deploy.foreground.frame import nearest_outside, without_frame
from msformer_deploy.foreground.view import View

SIDE = 65
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] - SIDE // 2
FRAME = ROWS**2 + COLUMNS**2 > 28**2


def picture(*, coloured: bool = True, framed: bool = True) -> np.ndarray:
    colour = (0.2, 0.4, 0.8) if coloured else (0.5, 0.5, 0.5)
    image = np.broadcast_to(np.array(colour, np.float32)[:, None, None], (3, SIDE, SIDE)).copy()
    image *= (0.8 + 0.2 * np.sin(COLUMNS / 9)).astype(np.float32)
    if framed:
        image[:, FRAME] = 0.02
    return image


def test_a_frame_takes_the_colours_beside_it():
    image = picture()
    got = without_frame(image, View(image))
    assert View(image).framed
    assert not View(got).framed
    assert got.dtype == np.float32
    inside = ROWS**2 + COLUMNS**2 < 24**2
    np.testing.assert_array_equal(got[:, inside], image[:, inside])
    assert got[:, FRAME].min() > 0.1, "nothing of the frame is left"


def test_what_the_frame_has_darkened_beside_it_goes_with_it():
    image = picture()
    inner = ROWS**2 + COLUMNS**2 <= 27**2
    image[:, ~inner & ~FRAME] = 0.13  # not black, and less than two pixels wide
    assert without_frame(image, View(image))[2].min() > 0.4, "the picture's red"


def test_black_inside_the_picture_stays():
    image = picture()
    lumen = ROWS**2 + COLUMNS**2 < 6**2
    image[:, lumen] = 0.02
    np.testing.assert_array_equal(without_frame(image, View(image))[:, lumen], image[:, lumen])


@pytest.mark.parametrize(("coloured", "framed"), [(False, True), (True, False), (False, False)])
def test_grey_images_and_those_without_a_frame_are_left_alone(coloured, framed):
    image = picture(coloured=coloured, framed=framed)
    assert View(image).coloured == coloured
    assert View(image).framed == framed
    assert without_frame(image, View(image)) is image


def test_an_image_that_is_all_black_but_for_a_dot_is_no_error():
    image = np.zeros((3, SIDE, SIDE), np.float32)
    image[2, :2] = 1
    assert np.isfinite(without_frame(image, View(image))).all()


@pytest.mark.parametrize("density", [0.02, 0.5, 0.9, 0.999, 1])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (30, 41), (SIDE, SIDE)], ids=str)
def test_no_pixel_outside_is_nearer_than_the_one_that_is_found(shape, density):
    """Of several at one distance SciPy may find another."""
    rng = np.random.default_rng(0)
    region = rng.random(shape) < density
    region[tuple(rng.integers(shape))] = False
    rows, columns = nearest_outside(region)
    assert not region[rows, columns].any()
    squared = sum((found - own) ** 2 for found, own in zip((rows, columns), region.nonzero(), strict=True))
    np.testing.assert_array_equal(squared, np.rint(ndimage.distance_transform_edt(region)[region] ** 2))
