"""The shape of masks and what is inside. How masks are read is tried in ``tests/export/test_evidence.py`` as well."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pictures import GREY, RGB, UPRIGHT, png, tiff
from PIL import Image

from msformer_deploy.errors import ImageError
from msformer_deploy.images import masks
from msformer_deploy.images.read import read_image
from msformer_deploy.images.truth import read_truths
from msformer_deploy.training.supervised.pairs import read_binary_mask


def draw(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    """A picture whose right half is bright."""
    path.parent.mkdir(exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[:, size[0] // 2 :] = 255
    Image.fromarray(pixels).save(path)
    return path


def test_a_mask_gets_the_shape_asked_for(tmp_path):
    image = read_image(draw(tmp_path / "a.png"))
    mask = draw(tmp_path / "mask.png", (80, 60))
    for shape in ((30, 40), (8, 16)):
        read = masks.read_mask(mask, image, shape)
        assert read.shape == shape
        assert np.array_equal(read, np.tile(np.arange(shape[1]) >= shape[1] // 2, (shape[0], 1)))


@pytest.mark.parametrize(("image", "mask"), [("a.png", "a.bmp"), ("a.bmp", "a.tif"), ("a.jpg", "a.png")])
@pytest.mark.parametrize("colours", [True, False])
def test_an_image_in_another_format_is_no_mask_of_itself(tmp_path, image, mask, colours):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3) if colours else (30, 40), np.uint8)
    Image.fromarray(pixels).save(tmp_path / image)
    Image.open(tmp_path / image).save(tmp_path / mask)
    picture = read_image(tmp_path / image)
    for read in (
        lambda: masks.read_mask(tmp_path / mask, picture, (30, 40)),
        lambda: read_truths(tmp_path / mask, picture),
        lambda: read_binary_mask(tmp_path / mask, picture),
    ):
        with pytest.raises(ImageError, match="the mask has the pixels of its image; replace it with the mask"):
            read()


def test_a_drawing_that_looks_like_its_mask_is_judged(tmp_path):
    image, mask = draw(tmp_path / "a.png"), draw(tmp_path / "a.bmp")
    assert masks.read_mask(mask, read_image(image), (30, 40)).any()


@pytest.mark.parametrize(
    ("values", "suffix", "least"),
    [
        ([0, 1, 2], ".png", 1),
        ([0, 85, 170, 255], ".png", 85),  # ids that were made visible: none is background
        (range(16), ".png", 1),
        (range(0, 256, 5), ".png", 128),  # soft borders
        (range(0, 100, 5), ".png", 1),  # nothing in the brighter half
        ([0, 255], ".jpg", 128),
    ],
)
def test_what_is_inside(tmp_path, values, suffix, least):
    pixels = np.tile(np.repeat(np.array(values, np.uint8), 8), (32, 1))
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path)
    assert np.array_equal(masks.inside(masks.read_file(path)), pixels >= least)


@pytest.mark.parametrize(
    ("largest", "least"),
    [(1023, 512), (4095, 2048), (16383, 8192), (65535, 32768), (1022, 1), (4000, 1)],  # ids up to 4000 are no shades
)
def test_what_is_inside_of_deep_soft_masks(tmp_path, largest, least):
    pixels = np.tile(np.linspace(0, largest, 64).astype(np.uint16), (16, 1))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(masks.inside(masks.read_file(tmp_path / "a.png")), pixels >= least)


# One decoder for images and masks


DISC = np.hypot(*(np.mgrid[:30, :40] - np.array((12, 15)).reshape(2, 1, 1))) < 9
IDS = DISC.astype(np.uint8) + (np.mgrid[:30, :40][1] > 30)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "palette", "tif", "16-bit tif", "jpg"])
def test_masks_are_turned_as_their_images_are(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind[-3:]}" if kind != "palette" else tmp_path / "a.png"
    pixels = DISC * np.uint8(255)
    if kind == "palette":
        indexed = Image.fromarray(DISC.astype(np.uint8))
        indexed.putpalette(bytes((0, 0, 0, 255, 0, 0)))
        indexed.save(path, exif=exif)
    elif kind == "16-bit tif":
        path.write_bytes(tiff(pixels.astype(np.uint16), extratags=[(274, 3, 1, orientation, True)]))
    else:
        Image.fromarray(pixels).save(path, exif=exif, **({"quality": 100} if kind == "jpg" else {}))
    file = masks.read_file(path)
    np.testing.assert_array_equal(masks.inside(file), UPRIGHT[orientation](DISC))
    if kind == "palette":
        np.testing.assert_array_equal(file.ids, UPRIGHT[orientation](DISC))


def of_kind(kind):
    """The mask of ids in a file of some kind."""
    stored = io.BytesIO()
    if kind == "tif palette":
        return tiff(IDS, photometric="palette", colormap=np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1)))
    if kind.startswith("tif"):
        dtype = {"tif float": np.float32, "tif 16": np.uint16, "tif 32": np.int32}.get(kind, np.uint8)
        return tiff(IDS.astype(dtype), photometric="minisblack", bigtiff=kind == "tif big")
    if kind == "png 16":
        return png(IDS.astype(np.uint16))
    if kind == "png 16 alpha":
        return png(np.dstack([IDS, np.full_like(IDS, 255)]).astype(np.uint16))
    Image.fromarray(IDS).save(stored, kind)
    return stored.getvalue()


@pytest.mark.parametrize(
    "kind",
    ["GIF", "PNG", "BMP", "JPEG2000", "tif", "tif float", "tif 16", "tif 32", "tif big", "tif palette", "png 16",
     "png 16 alpha"],
)  # fmt: skip
def test_ids_are_those_of_the_file(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(of_kind(kind))
    file = masks.read_file(tmp_path / "a.png")
    np.testing.assert_array_equal(file.ids, IDS)
    np.testing.assert_array_equal(masks.inside(file), IDS > 0)
    assert not file.lossy


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_masks_of_three_equal_planes(tmp_path, planar, dtype):
    planes = np.stack([DISC * 255] * 3, axis=0 if planar == "separate" else 2).astype(dtype)
    (tmp_path / "a.tif").write_bytes(tiff(planes, photometric="rgb", planarconfig=planar))
    file = masks.read_file(tmp_path / "a.tif")
    np.testing.assert_array_equal(masks.inside(file), DISC)
    assert not file.coloured


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_masks_of_one_bit(tmp_path, white_is_zero):
    Image.fromarray(DISC).save(tmp_path / "a.tif", compression="group4", tiffinfo={262: 0} if white_is_zero else {})
    with Image.open(tmp_path / "a.tif") as file:
        expected = np.array(file)
    np.testing.assert_array_equal(masks.inside(masks.read_file(tmp_path / "a.tif")), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_whose_zero_is_white(tmp_path, dtype):
    largest = np.iinfo(dtype).max
    (tmp_path / "a.tif").write_bytes(tiff(np.where(DISC, 0, largest).astype(dtype), photometric="miniswhite"))
    np.testing.assert_array_equal(masks.inside(masks.read_file(tmp_path / "a.tif")), DISC)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"8BPS" + bytes(50), "is a Photoshop file, which is not supported"),
        (png(RGB)[:200], "cannot be decoded, damaged or cut short"),
        (tiff((DISC * 0.5).astype(np.float32)), "has values that are not whole numbers"),
        (tiff(np.where(DISC, np.nan, 0).astype(np.float32)), "has values that are not whole numbers"),
        (tiff(-DISC.astype(np.int16)), "has values that are not whole numbers"),
        (png(np.dstack([RGB, GREY]).astype(np.uint16)), "is a mask with transparency"),
    ],
    ids=range(6),
)
def test_masks_that_are_refused(tmp_path, content, line):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        masks.read_file(tmp_path / "a.png")
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'}: {line}")


def test_a_mask_that_is_not_there(tmp_path):
    with pytest.raises(ImageError, match=r"a\.png: no such file; check the path"):
        masks.read_file(tmp_path / "a.png")
