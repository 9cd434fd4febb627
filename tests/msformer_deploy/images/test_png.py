"""PNG files as another reader sees them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.images import png

RNG = np.random.default_rng(0)
SHAPES = [(1, 1), (1, 40), (40, 1), (23, 37)]


def read(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", mode)
        image.verify()  # checksums
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("strip", [1, 100, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("channels", "most", "dtype", "mode"),
    [((), 256, np.uint8, "L"), ((3,), 256, np.uint8, "RGB"), ((), 65536, np.uint16, "I;16")],
    ids=["grey", "rgb", "deep grey"],
)
def test_pixels_read_back(tmp_path, monkeypatch, strip, shape, channels, most, dtype, mode):
    monkeypatch.setattr(png, "_STRIP", strip)
    pixels = RNG.integers(0, most, (*shape, *channels)).astype(dtype)
    png.write(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read(tmp_path / "a.png", mode), pixels)


@pytest.mark.parametrize("colours", [1, 2, 17, 256])
def test_indices_and_their_palette_read_back(tmp_path, colours):
    indices = RNG.integers(0, colours, (23, 37)).astype(np.uint8)
    palette = RNG.integers(0, 256, (colours, 3)).astype(np.uint8)
    png.write(tmp_path / "a.png", indices, palette)
    np.testing.assert_array_equal(read(tmp_path / "a.png", "P"), indices)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[indices])


def test_views_are_written_as_they_look(tmp_path):
    pixels = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)[::-2, ::3, ::-1]
    png.write(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read(tmp_path / "a.png", "RGB"), pixels)


def test_flat_areas_take_no_room(tmp_path):
    png.write(tmp_path / "a.png", np.full((1000, 1000), 7, np.uint8))
    assert (tmp_path / "a.png").stat().st_size < 6000


def test_what_the_file_system_says_is_passed_on(tmp_path):
    with pytest.raises(FileNotFoundError):
        png.write(tmp_path / "none" / "a.png", np.zeros((9, 9), np.uint8))


@pytest.mark.parametrize("noise", [1, 5, 256])
def test_the_bytes_are_those_of_zlib(tmp_path, monkeypatch, noise):
    """A file is the same on every machine, whatever compresses it."""
    monkeypatch.setattr(png, "_STRIP", 1 << 16)
    ramp = np.add.outer(np.arange(200), np.arange(300))[..., None] // [1, 2, 3]
    pixels = (ramp + RNG.integers(0, noise, (200, 300, 3))).astype(np.uint8)
    png.write(tmp_path / "ours.png", pixels)
    monkeypatch.setattr(png, "zlib", zlib)
    png.write(tmp_path / "theirs.png", pixels)
    assert (tmp_path / "ours.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()
