"""Label maps, masks and overlays: what is written reads back, and an overlay marks what it should and no more."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from msformer_deploy.images import draw
from msformer_deploy.images.read import InputImage, read_image


@pytest.mark.parametrize("clusters", [0, 1, 2, 27, 256])
def test_palette_colours_are_distinct_and_neither_black_nor_white(clusters: int) -> None:
    colours = draw.palette(clusters)
    assert (colours.shape, colours.dtype) == ((clusters, 3), np.uint8)
    assert len({tuple(colour) for colour in colours.tolist()}) == clusters
    assert not np.isin(colours, (0, 255)).all(axis=1).any()
    np.testing.assert_array_equal(colours, draw.palette(256)[:clusters])


def test_few_palette_colours_are_far_apart() -> None:
    colours = draw.palette(16).astype(float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    assert distances[~np.eye(16, dtype=bool)].min() > 30


@pytest.mark.parametrize("clusters", [1, 2, 3, 16, 17, 256])
def test_label_maps_read_back_as_ids_with_their_colours(tmp_path: Path, clusters: int) -> None:
    labels = np.arange(24 * 32).reshape(24, 32) % clusters
    draw.write_label_map(tmp_path / "a.labels.png", labels, clusters)
    with Image.open(tmp_path / "a.labels.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (32, 24))
        np.testing.assert_array_equal(np.array(image), labels)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), draw.palette(clusters)[labels])


@pytest.mark.parametrize("clusters", [257, 700])
def test_label_maps_of_many_clusters_are_16_bit(tmp_path: Path, clusters: int) -> None:
    labels = np.arange(24 * 32).reshape(24, 32) % clusters
    draw.write_label_map(tmp_path / "a.png", labels, clusters)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.array(image), labels)


def test_masks_read_back(tmp_path: Path) -> None:
    grey = np.add.outer(4 * np.arange(24), 4 * np.arange(32))
    draw.write_mask(tmp_path / "a.mask.png", grey > 100)
    with Image.open(tmp_path / "a.mask.png") as image:
        assert (image.format, image.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.array(image), np.where(grey > 100, 255, 0))


def test_overlays_read_back(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    draw.write_overlay(tmp_path / "a.overlay.png", rgb)
    with Image.open(tmp_path / "a.overlay.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.array(image), rgb)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: draw.write_label_map(path, np.zeros((9, 9), int), 3),
        lambda path: draw.write_mask(path, np.zeros((9, 9), bool)),
        lambda path: draw.write_overlay(path, np.zeros((9, 9, 3), np.uint8)),
    ],
    ids=["labels", "mask", "overlay"],
)
def test_writing_is_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"before")

    def half(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(draw.png, "write", half)
        write(target)
    assert target.read_bytes() == b"before"
    write(target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "a.png")


# Overlays

LIGHT, DARK = np.full((100, 120, 3), 230, np.uint8), np.full((100, 120, 3), 20, np.uint8)


def drawn(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the overlay of a square mask at rows and columns 20..59 and a cluster boundary before column 90."""
    mask = np.zeros(pixels.shape[:2], bool)
    mask[20:60, 20:60] = True
    labels = np.zeros(pixels.shape[:2], np.uint8)
    labels[:, 90:] = 1
    image = InputImage(pixels, "a", (0.0, 255.0))
    return draw.overlay(image, labels, mask), image.display(), mask


@pytest.mark.parametrize("pixels", [LIGHT, DARK, np.float32(LIGHT[..., 0] / 255)], ids=["light", "dark", "deep"])
def test_overlay_marks_mask_contour_and_boundaries_only(pixels: np.ndarray) -> None:
    picture, plain, _ = drawn(pixels)
    contour = tuple(draw._MASK_COLOUR)
    assert (picture.shape, picture.dtype) == (plain.shape, np.uint8)
    assert {tuple(picture[40, column]) for column in (19, 20, 59, 60)} == {contour}  # two pixels astride the border
    assert contour not in {tuple(picture[40, column]) for column in (18, 21, 58, 61)}
    tinted = picture[40, 40].astype(int) - plain[40, 40]
    assert tinted[1] > tinted[0]
    assert tinted.any()
    assert (picture[70:, :80] == plain[70:, :80]).all()
    assert (picture[:, 95:] == plain[:, 95:]).all()
    changed = np.flatnonzero((picture[80] != plain[80]).any(axis=1))
    assert changed.tolist() in ([89], [90])


@pytest.mark.parametrize("pixels", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_contrast_with_the_ground(pixels: np.ndarray) -> None:
    picture, plain, _ = drawn(pixels)
    change = np.abs(picture.astype(int) - plain).sum(axis=2)
    assert change[80, 88:92].max() > 200
    assert change[40, 17:22].max() > 200
    np.testing.assert_array_equal(pixels, plain)  # the input is not drawn on


@pytest.mark.parametrize("deep", [False, True])
def test_colours_are_blended_as_real_numbers_and_cut_off(deep: bool) -> None:
    """The overlay by its definition, on pixels, labels and a mask without any order."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    colours[18:22] = rng.integers(126, 130, (4, 50, 3))  # about where lines change from white to black
    pixels = colours[..., 0] / np.float32(255) if deep else colours
    image = InputImage(pixels, "a", (0.0, 255.0))
    labels, mask = rng.integers(0, 3, (40, 50)), rng.random((40, 50)) < 0.03
    labels[:20], labels[20:] = 0, 1
    expected = image.display().astype(float)
    expected[mask] = np.floor(0.75 * expected[mask] + 0.25 * draw._MASK_COLOUR)
    lines, casing, contour = draw._edges(labels, 1), draw._edges(mask, 4), draw._edges(mask, 2)
    on_bright = expected[lines].mean(axis=1, keepdims=True) > 127
    expected[lines] = np.floor(0.5 * expected[lines] + np.where(on_bright, 0, 127.5))
    expected[casing] = np.floor(0.25 * expected[casing])
    expected[contour] = draw._MASK_COLOUR
    assert lines[~casing].any()
    np.testing.assert_array_equal(draw.overlay(image, labels, mask), expected)


@pytest.mark.parametrize(("side", "thickness"), [(100, 1), (400, 1), (800, 2), (1600, 4)])
def test_lines_widen_with_the_picture(side: int, thickness: int) -> None:
    labels = np.zeros((side, side), int)
    labels[:, side // 2 :] = 1
    pixels = np.full((side, side, 3), 200, np.uint8)
    empty = np.zeros((side, side), bool)
    picture = draw.overlay(InputImage(pixels, "a", (0.0, 255.0)), labels, empty)
    columns = np.flatnonzero((picture != pixels).any(axis=(0, 2)))
    assert len(columns) == thickness
    assert abs(columns.mean() + 0.5 - side / 2) <= 0.5


@pytest.mark.parametrize("shape", [(8, 8), (8, 9000), (9000, 8), (9, 20_000)])
@pytest.mark.parametrize("fill", [False, True])
def test_overlay_of_extreme_shapes(shape: tuple[int, int], fill: bool) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    picture = draw.overlay(InputImage(pixels, "a", (0.0, 255.0)), np.zeros(shape, int), np.full(shape, fill))
    assert picture.shape == pixels.shape
    assert picture.any() == fill


def test_overlay_of_a_stained_section() -> None:
    image = read_image(Path(skimage.__file__).parent / "data" / "ihc.png")
    dark = image.pixels.mean(axis=2) < 130
    picture = draw.overlay(image, image.pixels.mean(axis=2) // 64, dark)
    changed = (picture != image.pixels).any(axis=2)
    assert changed[dark].mean() > 0.99
    assert 0 < changed[~dark].mean() < 0.9
