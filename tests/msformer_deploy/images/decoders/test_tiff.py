from __future__ import annotations

import io
import logging
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from pictures import ALPHA, GREY, RGB, UPRIGHT, deep, tiff
from PIL import Image

from msformer_deploy.errors import ImageError
from msformer_deploy.images.read import image_from_array, read_image, read_stored

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"]


def refusal(content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(content)
    (line,) = str(caught.value).splitlines()
    return line


def damaged(line: str) -> bool:
    return "cannot be decoded, damaged or cut short" in line


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 5}, {"tile": (16, 16)}], ids=["one", "strips", "tiles"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_storage_of_colour_is_as_the_array(
    dtype: str, planar: str, layout: dict[str, Any], order: str, bigtiff: bool
) -> None:
    array = (RGB // 2).astype(dtype)
    stored = array.transpose(2, 0, 1) if planar == "separate" else array
    content = tiff(stored, photometric="rgb", planarconfig=planar, byteorder=order, bigtiff=bigtiff, **layout)
    image, expected = read_image(content), image_from_array(array)
    np.testing.assert_array_equal(image.pixels, expected.pixels)
    assert (image.intensity_range, image.notes) == (expected.intensity_range, expected.notes)


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [("packbits", False), *((name, way) for name in ("lzw", "deflate", "lzma", "zstd") for way in (False, True))],
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4"])
def test_compressions_without_loss(dtype: str, compression: str, predictor: bool) -> None:
    for array in (GREY.astype(dtype), RGB.astype(dtype)):
        kind = "minisblack" if array.ndim == 2 else "rgb"
        content = tiff(array, compression=compression, predictor=predictor, photometric=kind)
        np.testing.assert_array_equal(read_image(content).pixels, image_from_array(array).pixels)


@pytest.mark.parametrize(("compression", "off"), [("jpeg", 8), ("webp", 0), ("jpeg2000", 0)])
def test_compressions_of_pictures(compression: str, off: int) -> None:
    content = tiff(RGB, photometric="rgb", compression=compression)
    np.testing.assert_allclose(read_image(content).pixels.astype(int), RGB, atol=off)
    assert read_stored(content).lossy == (compression != "jpeg2000")


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_deep_colour_looks_as_its_8_bit_version(bits: int, planar: str) -> None:
    stored = deep(RGB, bits)
    image = read_image(tiff(stored.transpose(2, 0, 1) if planar == "separate" else stored, photometric="rgb",
                            planarconfig=planar))  # fmt: skip
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.intensity_range == (0.0, 2.0**bits - 1)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_extra_channels(dtype: str, kind: str) -> None:
    alpha = np.full_like(GREY, 255) if kind == "assocalpha" else ALPHA
    largest = 1 if dtype == "f4" else np.iinfo(dtype).max
    array, extra = (RGB / 255 * largest).astype(dtype), (alpha / 255 * largest).astype(dtype)
    image = read_image(tiff(np.dstack([array, extra]), photometric="rgb", extrasamples=[kind]))
    np.testing.assert_array_equal(image.pixels, image_from_array(array).pixels)
    dropped = "only 3 channels of 4 are used" if kind == "unspecified" else "alpha channel dropped"
    assert image.notes[0] == dropped


def test_colour_under_associated_alpha_is_what_it_was() -> None:
    alpha = np.maximum(ALPHA, 128)
    multiplied = np.rint(RGB * (alpha[..., None] / 255)).astype(np.uint8)
    image = read_image(tiff(np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"]))
    np.testing.assert_allclose(image.pixels.astype(int), RGB, atol=2)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_associated_alpha_has_the_depth_of_its_colour(bits: int) -> None:
    alpha = np.where(ALPHA > 100, 255, 128)
    stored = deep(np.dstack([RGB, alpha]), bits)
    stored[..., :3] = np.rint(deep(RGB, bits) * (stored[..., 3:] / (2**bits - 1)))
    image = read_image(tiff(stored, photometric="rgb", extrasamples=["assocalpha"]))
    np.testing.assert_allclose(image.pixels.astype(int), RGB, atol=1)
    assert image.intensity_range == (0.0, 2.0**bits - 1)


def test_grey_of_several_channels_is_the_first() -> None:
    image = read_image(tiff(np.dstack([GREY, ALPHA]), photometric="minisblack", planarconfig="contig"))
    np.testing.assert_array_equal(image.pixels[..., 0], GREY)
    assert image.notes == ("only channel 1 of 2 is used",)


@pytest.mark.parametrize("bits", [2, 4, 10, 12, 14])
def test_packed_bits(bits: int) -> None:
    stored = deep(GREY, bits).astype(np.uint8 if bits < 8 else np.uint16)
    image = read_image(packed(stored, bits))
    if bits < 8:
        np.testing.assert_array_equal(image.pixels[..., 0], stored * (255 // (2**bits - 1)))
    else:
        np.testing.assert_array_equal(image.pixels, image_from_array(stored).pixels)
        assert image.intensity_range == (0.0, 2.0**bits - 1)


def packed(values: np.ndarray, bits: int, photometric: int = 1, strips: int = 1, extra: bytes = b"") -> bytes:
    """A TIFF file by hand, of one channel in so many bits."""
    flags = (values[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).reshape(len(values), -1)
    data = np.packbits(flags, axis=1).tobytes()
    tags = [
        (256, 3, values.shape[1]),
        (257, 3, values.shape[0]),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, -(-values.shape[0] // strips)),
        (279, 4, len(data)),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4) + extra


@pytest.mark.parametrize("compression", [None, "group3", "group4", "tiff_lzw"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_one_bit(compression: str | None, white_is_zero: bool) -> None:
    stored = io.BytesIO()
    picture = Image.fromarray(GREY > 100)
    picture.save(stored, "TIFF", compression=compression, tiffinfo={262: 0} if white_is_zero else {})
    pixels = read_image(stored.getvalue()).pixels
    with Image.open(stored) as again:
        np.testing.assert_array_equal(pixels, np.array(again.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["group3", "group4", "YCbCr"])
def test_orientation_of_what_libtiff_decodes(kind: str, orientation: int) -> None:
    stored = io.BytesIO()
    if kind == "YCbCr":
        Image.fromarray(RGB).convert(kind).save(stored, "TIFF", tiffinfo={274: orientation})
        expected = RGB.astype(int)
    else:
        Image.fromarray(GREY > 100).save(stored, "TIFF", compression=kind, tiffinfo={274: orientation})
        expected = np.repeat(np.where(GREY > 100, 255, 0)[..., None], 3, axis=2)
    found = read_image(stored.getvalue()).pixels.astype(int)
    np.testing.assert_allclose(found, UPRIGHT[orientation](expected), atol=4)


def test_a_palette_of_one_bit() -> None:
    places = (GREY > 100).astype(np.uint8)
    content = packed(places, 1, photometric=3)
    colours = struct.pack("<6H", *(value << 8 for value in (10, 200, 20, 210, 30, 220)))
    assert len(content) < 2**16
    count = struct.unpack("<H", content[int.from_bytes(content[4:8], "little") :][:2])[0]
    at = int.from_bytes(content[4:8], "little")
    tags = content[at + 2 : at + 2 + 12 * count] + struct.pack("<HHII", 320, 3, 6, len(content) + 12)
    content = content[:at] + struct.pack("<H", count + 1) + tags + bytes(4)
    content = content.ljust(len(content) + (at + 2 + 12 * count + 4 + 12 - len(content)), b"\0")
    content += colours
    np.testing.assert_array_equal(
        read_image(content).pixels, np.array([(10, 20, 30), (200, 210, 220)], np.uint8)[places]
    )
    np.testing.assert_array_equal(read_stored(content).places, places)


def test_a_strip_that_is_longer_than_it_need_be() -> None:
    content = tiff(RGB, photometric="rgb", compression="deflate", metadata=None)
    longer = zlib.compress(RGB.tobytes() + bytes(1000))
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        tags = opened.pages.first.tags
        places = {name: tags[name].valueoffset for name in ("StripOffsets", "StripByteCounts")}
        formats = {name: "<I" if tags[name].dtype == 4 else "<H" for name in places}
    changed = bytearray(content + longer)
    for name, value in (("StripOffsets", len(content)), ("StripByteCounts", len(longer))):
        struct.pack_into(formats[name], changed, places[name], value)
    np.testing.assert_array_equal(read_image(bytes(changed)).pixels, RGB)


def test_a_wrong_length_of_a_whole_uncompressed_strip() -> None:
    content = packed(GREY, 8)
    tag = struct.pack("<HHI", 279, 4, 1)
    at = content.find(tag)
    changed = content[:at] + tag + struct.pack("<I", 2**30) + content[at + 12 :]
    np.testing.assert_array_equal(read_image(changed).pixels[..., 0], GREY)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_palettes(dtype: type) -> None:
    colours = np.random.default_rng(0).integers(0, 65536, (3, np.iinfo(dtype).max + 1)).astype(np.uint16)
    places = GREY.astype(dtype)
    content = tiff(places, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_image(content).pixels, (colours >> 8).T[places])
    np.testing.assert_array_equal(read_stored(content).places, places)


@pytest.mark.parametrize("mode", ["YCbCr", "CMYK", "LAB"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_other_colour_spaces(mode: str, compression: str | None) -> None:
    from PIL import ImageCms

    picture = Image.fromarray(RGB)
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        picture = ImageCms.applyTransform(picture, to_lab)
        assert picture is not None
    else:
        picture = picture.convert(mode)
    stored = io.BytesIO()
    picture.save(stored, "TIFF", compression=compression)
    found = read_image(stored.getvalue()).pixels.astype(int)
    assert np.abs(found - RGB).mean() < 2


def test_deep_cmyk() -> None:
    ink = 65535 - deep(RGB, 16)
    content = tiff(np.dstack([ink, np.zeros_like(GREY, np.uint16)]), photometric="separated")
    np.testing.assert_array_equal(read_image(content).pixels, RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_orientation(orientation: int, dtype: type) -> None:
    content = tiff(GREY.astype(dtype), extratags=[(274, 3, 1, orientation, True)])
    expected = image_from_array(GREY.astype(dtype)).pixels
    np.testing.assert_array_equal(read_image(content).pixels, UPRIGHT[orientation](expected))


@pytest.mark.parametrize("options", [{}, {"ome": True}, {"imagej": True}, {"metadata": None}, {"bigtiff": True}])
def test_stacks_give_their_first_page(options: dict[str, Any]) -> None:
    stack = np.stack([np.roll(GREY, shift, axis=1) for shift in range(5)])
    image = read_image(tiff(stack, photometric="minisblack", **options))
    np.testing.assert_array_equal(image.pixels[..., 0], GREY)
    assert image.notes == ("only page 1 of 5 is used",)


def test_a_pyramid_gives_its_full_size() -> None:
    stored = io.BytesIO()
    with tifffile.TiffWriter(stored) as writer:
        writer.write(RGB, photometric="rgb", subifds=1, tile=(16, 16))
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, tile=(16, 16))
    np.testing.assert_array_equal(read_image(stored.getvalue()).pixels, RGB)


def test_a_camera_s_preview_is_not_its_picture() -> None:
    stored = io.BytesIO()
    with tifffile.TiffWriter(stored) as writer:
        writer.write(RGB, photometric="rgb", subfiletype=1, subifds=1)
        writer.write(deep(GREY, 12), photometric="minisblack")
    assert "TIFF with a camera's raw data is not supported" in refusal(stored.getvalue())


@pytest.mark.parametrize("place", [0xFFFFFFF0, 3, 8, 60])
def test_damage_behind_the_first_page_does_not_matter(place: int) -> None:
    content = bytearray(packed(GREY, 8))
    content[-4:] = struct.pack("<I", place)
    np.testing.assert_array_equal(read_image(bytes(content)).pixels[..., 0], GREY)


def test_unknown_and_corrupt_tags_do_not_matter(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tags = [(65000, 2, 5, "abcd", True), (700, 1, 4, b"<<<<", True), (34675, 7, 9, b"noprofile", True)]
    content = bytearray(tiff(RGB, photometric="rgb", metadata=None, extratags=tags))
    at = content.find(struct.pack("<H", 65000) + struct.pack("<H", 2))
    content[at + 2 : at + 12] = struct.pack("<HII", 99, 7, 2**31)  # a type that is none, and a place outside
    np.testing.assert_array_equal(read_image(bytes(content)).pixels, RGB)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "jpeg", "zstd"])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_cut_short(
    compression: str | None, share: float, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = tiff(noise, photometric="rgb", compression=compression, rowsperstrip=8)
    assert damaged(refusal(content[: int(len(content) * share)]))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_other_users_of_tifffile_still_hear_it(caplog: pytest.LogCaptureFixture) -> None:
    read_image(tiff(RGB))
    with caplog.at_level(logging.WARNING):
        tifffile.tifffile.logger().warning("of somebody else")
    assert [record.message for record in caplog.records] == ["of somebody else"]


def test_strips_that_are_missing() -> None:
    assert damaged(refusal(packed(GREY, 8, strips=3)))


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (65_535, 65_535)])
def test_bombs(width: int, height: int) -> None:
    content = packed(GREY, 8)
    at = content.find(struct.pack("<HHII", 256, 3, 1, 32))
    content = (
        content[:at]
        + struct.pack("<HHII", 256, 4, 1, width)
        + struct.pack("<HHII", 257, 4, 1, height)
        + content[at + 24 :]
    )
    assert f"{width} x {height} pixels is over the limit" in refusal(content)


@pytest.mark.parametrize("tag", [256, 257, 277])
@pytest.mark.parametrize("count", [0, 2, 150])
def test_a_size_of_many_numbers_is_damage(tag: int, count: int) -> None:
    content = packed(GREY, 8)
    at = content.find(struct.pack("<HHI", tag, 3, 1))
    assert damaged(refusal(content[:at] + struct.pack("<HHII", tag, 4, count, 8) + content[at + 12 :]))


@pytest.mark.parametrize(("tag", "value"), [(277, 65_535), (278, 2**31), (322, 2**31), (258, 65_535)])
def test_absurd_numbers(tag: int, value: int) -> None:
    content = packed(np.zeros((500, 500), np.uint8), 8)
    at = content.find(struct.pack("<HH", 277, 3))
    assert "internal" not in refusal(content[:at] + struct.pack("<HHII", tag, 4, 1, value) + content[at + 12 :])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (tiff(GREY.astype(np.complex64)), "pixels of 64 bits"),
        (
            tiff(GREY, photometric="cfa", extratags=[(33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True)]),
            "raw",
        ),
        (tiff(RGB, photometric="rgb", extratags=[(50706, 1, 4, b"\1\4\0\0", True)]), "a camera's raw data"),
        (packed(GREY, 8, photometric=32844), "colours of the kind LOGL"),
        (packed(GREY, 8, photometric=9999), "colours of the kind 9999"),
        (tiff(np.dstack([RGB, GREY, GREY]), photometric="separated", extratags=[(332, 3, 1, 2, True)]), "inks"),
        (tiff(deep(RGB, 16), photometric="cielab"), "colours of the kind CIELAB in 16 bits"),
        (packed(GREY, 8).replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 34661)), "JBIG"),
    ],
    ids=range(8),
)
def test_what_is_not_supported_is_no_damage(content: bytes, what: str) -> None:
    line = refusal(content)
    assert what in line
    assert line.endswith("is not supported; export it as an 8-bit or 16-bit PNG")


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "jpeg"])
def test_noise_in_a_file_is_an_image_or_one_line(compression: str | None) -> None:
    content = tiff(RGB, photometric="rgb", compression=compression, rowsperstrip=8)
    rng = np.random.default_rng(0)
    for _ in range(80):
        noisy = bytearray(content)
        for place in rng.integers(0, len(noisy), 6):
            noisy[place] = rng.integers(256)
        try:
            read_image(bytes(noisy))
        except ImageError as error:
            assert len(str(error).splitlines()) == 1
