"""Slices of a volume as images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msformer_deploy.images.sources import FileSource
from msformer_deploy.images.space import Spacing
from msformer_deploy.images.volume import Volume

SOURCE = FileSource(Path("v.nii"), "nifti", None)
SPACING = Spacing(0.5, 0.25, "file")


def volume(voxels: np.ndarray, span: tuple[float, float] = (0.0, 100.0), **more: object) -> Volume:
    return Volume(voxels, "v.nii", np.eye(4), SPACING, 2.0, span, SOURCE, **more)  # type: ignore[arg-type]


def test_intensities_beyond_the_range_are_cut_off() -> None:
    values = np.array([-50, 0, 50, 100, 300], np.int16) * np.ones((2, 3, 1), np.int16)
    picture = volume(values).picture(1)
    assert picture.pixels.dtype == np.float32
    np.testing.assert_allclose(picture.pixels[0], [0, 0, 0.5, 1, 1])
    assert (picture.name, picture.spacing, picture.intensity_range) == ("v.nii, slice 2", SPACING, (0.0, 100.0))


def test_slope_and_intercept_come_before_the_range() -> None:
    picture = volume(np.full((1, 2, 2), 30, np.uint8), (-10.0, 90.0), slope=2.0, intercept=-20.0).picture(0)
    np.testing.assert_allclose(picture.pixels, 0.5)


def test_inverted_intensities() -> None:
    picture = volume(np.full((1, 2, 2), 25, np.uint8), inverted=True).picture(0)
    np.testing.assert_allclose(picture.pixels, 0.75)
    assert picture.intensity_range == (100.0, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_black(value: float) -> None:
    voxels = np.full((1, 2, 2), 50, np.float32)
    voxels[0, 0, 0] = value
    assert volume(voxels).picture(0).pixels[0, 0] == 0


def test_colours_stay_as_they_are() -> None:
    voxels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    found = volume(voxels)
    assert found.shape == (2, 4, 5)
    np.testing.assert_array_equal(found.picture(1).pixels, voxels[1])
