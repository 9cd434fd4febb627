"""Blurs beside those of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from msformer_deploy.foreground.blur import box, gaussian

ROUNDING = {np.float32: 3e-7, np.float64: 1e-15}
SHAPES = [(1, 1), (2, 7), (40, 23), (97, 97)]


def noise(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("sigma", "truncate"), [(0.3, 3), (1.0, 4), (1.132, 3), (1.5, 4), (3.0, 3), (20.0, 4)])
def test_a_gaussian_is_that_of_scipy(shape, dtype, sigma, truncate):
    values = noise(shape, dtype)
    got = gaussian(values, sigma, truncate)
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got, ndimage.gaussian_filter(values, sigma, truncate=truncate), rtol=0, atol=ROUNDING[dtype]
    )


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("radius", [1, 2, 6, 50])
def test_means_over_windows_are_those_of_scipy(shape, dtype, radius):
    values = noise(shape, dtype)
    got = box(values, radius)
    assert got.dtype == dtype
    expected = ndimage.uniform_filter(values, 2 * radius + 1, mode="nearest")
    np.testing.assert_allclose(got, expected, rtol=0, atol=10 * ROUNDING[dtype])


def test_channels_are_blurred_one_by_one():
    values = noise((3, 20, 30), np.float32)
    np.testing.assert_array_equal(gaussian(values, 1), [gaussian(channel, 1) for channel in values])
    np.testing.assert_array_equal(box(values, 2), [box(channel, 2) for channel in values])


@pytest.mark.parametrize("blurred", [lambda values: gaussian(values, 2), lambda values: box(values, 3)])
def test_the_image_itself_stays_and_may_lie_in_memory_in_any_order(blurred):
    values = noise((20, 30), np.float32)
    before = values.copy()
    np.testing.assert_array_equal(blurred(np.asfortranarray(values)), blurred(values))
    np.testing.assert_array_equal(values, before)
