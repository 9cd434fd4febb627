"""Morphology beside that of SciPy and scikit-image, and the field of view."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label

from msformer_deploy.foreground import morphology

SIDE = 65


@pytest.mark.parametrize("density", [0, 0.1, 0.5, 0.8, 0.97, 1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (SIDE, SIDE)], ids=str)
def test_morphology_is_that_of_scipy(shape, density):
    region = density > np.random.default_rng(0).random(shape[::-1]).T  # columns one after the other in memory
    before = region.copy()
    for steps in (1, 2, 3):
        expected = ndimage.binary_erosion(region, iterations=steps)
        assert np.array_equal(morphology.shrunk(region, steps), expected)
        assert np.array_equal(morphology.grown(region, steps), ndimage.binary_dilation(region, iterations=steps))
        assert np.array_equal(morphology.opened(region, steps), ndimage.binary_opening(region, iterations=steps))
    assert np.array_equal(morphology.filled(region), ndimage.binary_fill_holes(region))
    assert np.array_equal(region, before)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (SIDE, SIDE)], ids=str)
def test_parts_are_numbered_row_by_row_as_scikit_image_does(shape, dtype, order):
    """Equal masses and sizes keep the order of the numbers."""
    regions = np.random.default_rng(0).integers(0, 3, shape).astype(dtype, order=order)
    parts = morphology.numbered(regions)
    assert parts.dtype == np.intp
    np.testing.assert_array_equal(parts, label(regions, connectivity=1, background=0))
    np.testing.assert_array_equal(morphology.numbered(regions[:, ::-1]), label(regions[:, ::-1], connectivity=1))


def test_pixels_that_touch_at_a_corner_are_two_parts():
    assert morphology.numbered(np.eye(3, dtype=bool)).tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 3]]


@pytest.mark.parametrize("column", [0, 4])
def test_what_grows_over_one_side_does_not_come_in_at_the_other(column):
    region = np.zeros((9, 5), bool)
    region[4, column] = True
    for steps in (3, 4, 5):
        assert np.array_equal(morphology.grown(region, steps), ndimage.binary_dilation(region, iterations=steps))


@pytest.mark.parametrize("width", [1, 4, 6])
def test_a_hole_with_a_narrow_leak_is_closed_and_one_with_a_wide_one_is_not(width):
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    distance = np.hypot(rows, columns)
    ring = (distance < 25) & (distance > 12)
    leaking = ring & ~((columns > 0) & (rows >= 0) & (rows < width))
    assert not morphology.filled(leaking)[SIDE // 2, SIDE // 2]
    assert morphology.closed(leaking, 3)[SIDE // 2, SIDE // 2]
    assert not morphology.closed(leaking, 3)[distance >= 25].any()
    if width > 2:
        assert not morphology.closed(leaking, (width - 1) // 2)[SIDE // 2, SIDE // 2]
