"""Which intensities become black and white."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from locations import DATA
from pictures import tiff

from msformer_deploy.errors import ImageError
from msformer_deploy.images.read import image_from_array, read_image

SIDE = 96
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
RADIUS = np.hypot(ROWS, COLUMNS)

SHAPES = {
    "disc": RADIUS > 0.5,
    "ellipse": np.hypot(ROWS, 1.4 * COLUMNS) > 0.5,
    "left": COLUMNS < -0.3,
    "frame": np.maximum(abs(ROWS), abs(COLUMNS)) > 0.4,
    "corner": ROWS + COLUMNS < -0.6,
    "most": RADIUS > 0.2,
}
PADDINGS = [-2000, -2048, -3024, -4000, -9999, -32768, 32767]


def slice_of(noise: float, seed: int = 0) -> np.ndarray:
    """A body with a lung and a bone in air, in Hounsfield units, float64."""
    image = np.full((SIDE, SIDE), -1000.0)
    image[RADIUS < 0.4] = 40
    image[np.hypot(ROWS, COLUMNS - 0.15) < 0.12] = -800
    image[np.hypot(ROWS, COLUMNS + 0.2) < 0.06] = 600
    return np.round(image + np.random.default_rng(seed).normal(0, noise, image.shape))


@pytest.mark.parametrize("noise", [5, 20, 60])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_does_not_count(padding: int, shape: str, noise: float) -> None:
    plain = slice_of(noise)
    inside = ~SHAPES[shape]
    for dtype in (np.int16, np.int32, np.float32):
        stored = np.where(inside, plain, padding).astype(dtype)
        image = image_from_array(stored)
        low, high = plain[inside].min(), plain[inside].max()
        assert image.intensity_range == (low, high)
        np.testing.assert_allclose(image.pixels[inside], (plain[inside] - low) / (high - low), atol=1e-6)
        assert (image.pixels[~inside] == 0).all()
        (ignored,) = image.ignored
        side, count = "high" if padding > 0 else "low", (~inside).sum()
        assert ignored.record() == {"side": side, "low": padding, "high": padding, "pixels": count, "padding": True}
        what = "taken for padding: left out of the intensity range and black"
        assert image.notes == (f"{count} pixels of {padding} {what}",)


@pytest.mark.parametrize("noise", [5, 20, 60])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_with_noise_does_not_count(padding: int, shape: str, noise: float) -> None:
    plain, inside = slice_of(noise), ~SHAPES[shape]
    ring = np.random.default_rng(1).integers(-2, 3, plain.shape)
    stored = np.where(inside, plain, padding + ring)
    for dtype in (np.int32, np.float32):
        image = image_from_array(stored.astype(dtype))
        assert image.intensity_range == (plain[inside].min(), plain[inside].max())
        assert (image.pixels[~inside] == 0).all()
        (ignored,) = image.ignored
        assert ignored.padding
        assert (ignored.low, ignored.high, ignored.pixels) == (padding - 2, padding + 2, (~inside).sum())


@pytest.mark.parametrize("padding", [3.4e38, -3.4e38, np.finfo(np.float32).min, np.nan, np.inf, -np.inf, 1e300, -1e30])
@pytest.mark.parametrize("shape", ["disc", "left"])
def test_floats_that_stand_for_no_data(padding: float, shape: str) -> None:
    plain, inside = slice_of(20), ~SHAPES[shape]
    image = image_from_array(np.where(inside, plain, padding))
    assert image.intensity_range == (plain[inside].min(), plain[inside].max())
    assert (image.pixels[~inside] == 0).all()
    assert image.ignored[0].pixels == (~inside).sum()
    json.dumps(image.ignored[0].record(), allow_nan=False)


@pytest.mark.parametrize("value", [0.5, 7])
@pytest.mark.parametrize("padding", [np.nan, np.inf])
def test_padding_that_is_no_number_around_one_value_leaves_nothing_to_segment(padding: float, value: float) -> None:
    stored = np.full((SIDE, SIDE), value, np.float32)
    stored[SHAPES["disc"]] = padding
    with pytest.raises(ImageError, match="array: every finite pixel has the same value; there is nothing"):
        image_from_array(stored)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_within_the_picture_is_refused(bad: float) -> None:
    stored = slice_of(20)
    stored[SHAPES["disc"]] = np.nan
    stored[40:42, 40:43] = bad
    with pytest.raises(ImageError, match=rf"array: {SHAPES['disc'].sum() + 6} of 9216 pixels are NaN or infinite"):
        image_from_array(stored)


@pytest.mark.parametrize("place", [(0, 40), (95, 40), (40, 0), (40, 95)])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_what_is_no_number_may_reach_the_rim_in_one_pixel(place: tuple[int, int], channels: tuple[int, ...]) -> None:
    stored = np.broadcast_to(slice_of(20).reshape(SIDE, SIDE, *(1 for _ in channels)), (SIDE, SIDE, *channels)).copy()
    stored[place] = stored[40, 1:95] = stored[1:95, 40] = np.nan  # a cross that one pixel connects with the rim
    assert image_from_array(stored).ignored[0].pixels == 94 + 94 - 1 + 1
    stored[place] = 0
    with pytest.raises(ImageError, match="array: 187 of 9216 pixels are NaN or infinite"):
        image_from_array(stored)


def test_what_is_no_number_is_not_connected_by_a_corner() -> None:
    stored = slice_of(20)
    stored[[0, 1], [40, 41]] = np.nan
    with pytest.raises(ImageError, match="array: 2 of 9216 pixels are NaN or infinite"):
        image_from_array(stored)


@pytest.mark.parametrize("value", [3071, 5000, 30000, "3071 to 30000"])
@pytest.mark.parametrize("side", [4, 10, 19])
@pytest.mark.parametrize("padded", [False, True])
def test_metal_does_not_count(value: int | str, side: int, padded: bool) -> None:
    plain = slice_of(20)
    rng = np.random.default_rng(1)
    stored = np.where(SHAPES["disc"] & padded, -2000, plain)
    stored[48 : 48 + side, 48 : 48 + side] = (
        rng.integers(3071, 30000, (side, side)) if isinstance(value, str) else value
    )
    image = image_from_array(stored.astype(np.int16))
    inside = (stored > -1999) & (stored < 3000)
    assert image.intensity_range == (stored[inside].min(), stored[inside].max())
    assert sum(each.pixels for each in image.ignored if each.side == "high") == side * side
    assert (image.pixels[48 : 48 + side, 48 : 48 + side] == 1).all()


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("place", [(0, 0), (50, 50), (95, 3)])
def test_a_hot_pixel_does_not_count(dtype: type, place: tuple[int, int]) -> None:
    plain = slice_of(20) + (2000 if dtype is np.uint16 else 0)
    stored = plain.astype(dtype)
    stored[place] = 32000
    image = image_from_array(stored)
    other = np.delete(plain.ravel(), np.ravel_multi_index(place, plain.shape))
    assert image.intensity_range == ((0, 4095) if dtype is np.uint16 else (other.min(), other.max()))
    assert image.notes == ("1 pixel of 32000 left out of the intensity range: far above it and white",)


def test_dead_and_hot_pixels_of_noise() -> None:
    stored = np.random.default_rng(0).normal(500, 50, (SIDE, SIDE)).astype(np.float32)
    expected = stored[1:].min(), stored[1:].max()
    stored[0] = stored[1]
    stored[0, 0], stored[0, 5] = -1e6, 1e6
    assert image_from_array(stored).intensity_range == expected


@pytest.mark.parametrize("padding", [None, 0, 65535])
def test_signed_values_with_an_offset_look_as_without(padding: int | None) -> None:
    plain = slice_of(20)
    stored = (plain + 32768).astype(np.uint16)
    if padding is not None:
        stored[SHAPES["disc"]] = padding
        plain[SHAPES["disc"]] = -32768
    np.testing.assert_array_equal(image_from_array(stored).pixels, image_from_array(plain.astype(np.int16)).pixels)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (20000, 21000, (20000, 21000)),
        (60000, 65535, (60000, 65535)),
        (40000, 48191, (40000, 48191)),
        (40000, 48192, (0, 65535)),
        (4000, 4095, (4000, 4095)),
        (200, 255, (0, 255)),  # as 8 bits are
        (0, 300, (0, 1023)),
    ],
)
def test_whole_numbers_in_a_small_part_of_their_depth(low: int, high: int, expected: tuple[int, int]) -> None:
    stored = np.linspace(low, high, SIDE * SIDE).round().astype(np.uint16).reshape(SIDE, SIDE)
    assert image_from_array(stored).intensity_range == expected


def unchanged() -> dict[str, np.ndarray]:
    """Pictures whose own intensities have a gap."""
    rng = np.random.default_rng(0)
    dark = rng.normal(100, 10, (SIDE, SIDE))
    cells = dark.copy()
    cells[40:55, 40:55] += 2000  # 2 %, in a background that is noise alone
    stripped = np.where(RADIUS < 0.4, rng.normal(500, 100, dark.shape).clip(200, 900), 0)  # a brain without its skull
    return {
        "plain": slice_of(20),
        "bone": np.where(RADIUS < 0.1, 1500, slice_of(20)),
        "cells": cells,
        "stripped": stripped,
        "two values": np.where(RADIUS < 0.3, 1000.0, -1000.0),
        "few values": np.where(RADIUS < 0.3, 1000.0, np.round(8 * ROWS)),
        "gradient": 4000 * ROWS,
        "object": np.where(RADIUS < 0.3, 1000.0, dark),  # not at the rim
        "quiet ground": np.where(RADIUS < 0.3, 1000.0, 100.0) + rng.integers(-2, 3, dark.shape),
        "quiet ground, loud object": np.where(
            RADIUS < 0.3, rng.normal(1000, 30, dark.shape), rng.normal(100, 1, dark.shape)
        ),
    }


@pytest.mark.parametrize("name", unchanged())
def test_an_image_without_outliers_spans_minimum_to_maximum(name: str) -> None:
    picture = unchanged()[name].astype(np.float32)
    image = image_from_array(picture)
    assert image.intensity_range == (picture.min(), picture.max())
    assert (image.ignored, image.notes) == ((), ())


def test_8_bits_and_floats_within_0_and_1_are_never_judged() -> None:
    picture = np.round(20 * RADIUS)
    picture[0, 0] = 255
    assert image_from_array(picture.astype(np.uint8)).intensity_range == (0, 255)
    assert image_from_array((picture / 255).astype(np.float32)).intensity_range == (0, 1)


def test_floats_within_0_and_1_beside_padding_are_kept() -> None:
    picture = np.where(SHAPES["disc"], -9999, 0.2 + 0.5 * RADIUS)
    assert image_from_array(picture).intensity_range == (0, 1)


def test_padding_in_colour() -> None:
    picture = np.dstack([slice_of(20, seed) for seed in range(3)])
    picture[SHAPES["disc"]] = -32768
    image = image_from_array(picture)
    assert image.ignored[0].pixels == SHAPES["disc"].sum()
    assert image.pixels[~SHAPES["disc"]].std() > 50


def test_a_white_is_zero_picture_with_padding() -> None:
    plain = slice_of(20) + 1500
    stored = np.where(SHAPES["disc"], 60000, plain).astype(np.uint16)
    image = read_image(tiff(stored, photometric="miniswhite"))
    assert image.intensity_range == (4095, 0)
    assert (image.pixels[SHAPES["disc"]] == 0).all()


@pytest.mark.parametrize("kind", ["i8", "u8"])
def test_whole_numbers_that_no_double_tells_apart(kind: str) -> None:
    stored = np.arange(100, dtype=kind).reshape(10, 10) + np.array(2**62, kind)
    with pytest.raises(ImageError, match=r"^array: its values are too large to distinguish; subtract the smallest"):
        image_from_array(stored)
    assert image_from_array(stored - stored.min()).intensity_range == (0.0, 255.0)


@pytest.mark.data
@pytest.mark.parametrize("kind", ["float32", "int16"])
def test_development_images_are_scaled_as_ever(kind: str) -> None:
    """As Hounsfield units, scaled from minimum to maximum; with padding, as without."""
    for path in sorted((DATA / "lung_ct" / "images").iterdir()):
        grey = read_image(path).pixels[..., 0].astype(float)
        plain = (grey * 8 - 1000).astype(kind)
        image = image_from_array(plain)
        assert (image.ignored, image.intensity_range) == ((), (plain.min(), plain.max()))
        padded = plain.copy()
        rows, columns = np.indices(grey.shape) / grey.shape[0] - 0.5
        outside = np.hypot(rows, columns) > 0.5
        padded[outside] = -5000
        assert image_from_array(padded).ignored[0].pixels == outside.sum()


@pytest.mark.data
def test_slices_of_acdc_keep_their_range() -> None:
    pytest.importorskip("h5py")
    for path in sorted((DATA / "acdc" / "slices").iterdir())[::10]:
        image = read_image(path)
        assert (image.intensity_range, image.ignored) == ((0.0, 1.0), ())


@pytest.mark.data
def test_grey_images_of_the_zoo_in_16_bits_are_scaled_as_in_8() -> None:
    for path in sorted((DATA / "zoo").glob("*/images/*.png"))[::5]:
        image = read_image(path)
        grey = image.pixels[..., 0]
        deep = image_from_array(grey.astype(np.uint16) * 257)
        assert deep.ignored == ()
        assert dataclasses.astuple(deep)[2] == (0.0, 65535.0)
