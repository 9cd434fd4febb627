from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import ALPHA, GREY, RGB, UPRIGHT, deep, png, png_chunk
from PIL import Image

from msformer_deploy.errors import ImageError
from msformer_deploy.images.decoders.orientation import UNREADABLE
from msformer_deploy.images.read import image_from_array, read_image, read_stored

ROUNDED = "colour rounded to 8 bits"


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_deep_files_are_as_arrays(bits: int, channels: int) -> None:
    stored = {1: GREY, 2: np.dstack([GREY, ALPHA]), 3: RGB, 4: np.dstack([RGB, ALPHA])}[channels]
    stored = deep(stored, bits)
    image = read_image(png(stored))
    array = image_from_array(stored[..., 0] if channels == 2 else stored)
    np.testing.assert_array_equal(image.pixels, array.pixels)
    assert image.intensity_range == array.intensity_range == (0.0, 2.0**bits - 1)
    alpha = () if channels in (1, 3) else ("alpha channel dropped",)
    assert image.notes == (*alpha, *(() if channels < 3 else (ROUNDED,)))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_colour_looks_as_its_8_bit_version(bits: int) -> None:
    np.testing.assert_array_equal(read_image(png(deep(RGB, bits))).pixels, RGB)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int, depth: type) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = RGB.astype(depth)
    image = read_image(png(stored, png_chunk(b"eXIf", exif.tobytes()[6:])))
    np.testing.assert_array_equal(image.pixels, UPRIGHT[orientation](RGB))


def text(kind: bytes, keyword: bytes, content: bytes) -> bytes:
    packed = zlib.compress(content)
    body = {b"tEXt": content, b"zTXt": b"\0" + packed, b"iTXt": b"\1\0\0\0" + packed}[kind]
    return png_chunk(kind, keyword + b"\0" + body)


LARGE = b"x" * 70_000_000  # Pillow takes 64 MiB of text, 1 MiB a chunk
MIDDLE = b"x" * 2_000_000


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("chunk", "notes"),
    [
        (png_chunk(b"iCCP", b"scanner\0\0" + zlib.compress(MIDDLE)), ()),
        (png_chunk(b"iCCP", b"scanner\0\0no profile"), ()),
        (text(b"zTXt", b"Comment", MIDDLE), ()),
        (text(b"iTXt", b"Comment", MIDDLE), ()),
        (text(b"zTXt", b"Comment", LARGE), ()),
        (text(b"tEXt", b"Comment", MIDDLE), ()),
        (png_chunk(b"zTXt", b"Comment\0\0no stream"), ()),
        (png_chunk(b"gAMA", b""), ()),
        (png_chunk(b"pHYs", b"x"), ()),
        (png_chunk(b"tIME", b""), ()),
        (png_chunk(b"sBIT", b""), ()),
        (png_chunk(b"ruBb", b"private"), ()),
        (png_chunk(b"eXIf", b"no EXIF"), (UNREADABLE,)),
        (png_chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"), (UNREADABLE,)),
        (png_chunk(b"eXIf", b"II*\0\x08\0\0\0\x05\0"), (UNREADABLE,)),  # five tags, and none there
        (text(b"zTXt", b"Raw profile type exif", b"\nexif\n8\nno hexadecimals"), (UNREADABLE,)),
        (text(b"iTXt", b"XML:com.adobe.xmp", MIDDLE), (UNREADABLE,)),
    ],
    ids=range(17),
)
def test_metadata_beside_the_pixels_never_keeps_an_image_from_being_read(
    chunk: bytes, notes: tuple[str, ...], depth: type
) -> None:
    for content in (png(RGB.astype(depth), chunk), png(RGB.astype(depth), after=chunk)):
        image = read_image(content)
        np.testing.assert_array_equal(image.pixels, RGB)
        assert [note for note in image.notes if note != ROUNDED] == list(notes)


def test_a_wrong_checksum_of_metadata_does_not_matter() -> None:
    chunk = bytearray(png_chunk(b"iCCP", b"scanner\0\0" + zlib.compress(b"x")))
    chunk[-1] ^= 1
    np.testing.assert_array_equal(read_image(png(RGB, bytes(chunk))).pixels, RGB)


def test_orientation_in_xmp_and_in_a_raw_profile() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = b"\nexif\n%8d\n%s\n" % (len(exif.tobytes()), exif.tobytes().hex().encode())
    for chunk in (
        text(b"zTXt", b"Raw profile type exif", profile),
        text(b"iTXt", b"XML:com.adobe.xmp", b'<x tiff:Orientation="6"/>'),
    ):
        np.testing.assert_array_equal(read_image(png(RGB, chunk)).pixels, UPRIGHT[6](RGB))


@pytest.mark.parametrize("first_is_a_frame", [True, False])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_animations(first_is_a_frame: bool, depth: type) -> None:
    frame = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 32, 24, 0, 0, 1, 10, 0, 0))
    control = png_chunk(b"acTL", struct.pack(">II", 5, 0))
    image = read_image(png(RGB.astype(depth), control + frame * first_is_a_frame, frame * (not first_is_a_frame)))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.notes[0] == f"only page 1 of {5 if first_is_a_frame else 6} is used"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bombs_of_16_bits(channels: int) -> None:
    content = bytearray(png(np.zeros((8, 8, channels), np.uint16)))
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(ImageError, match="20000 x 20000 pixels is over the limit of 100 megapixels"):
        read_image(bytes(content))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_short(share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (24, 32, 3)).astype(np.uint16)
    content = png(noise)
    with pytest.raises(ImageError, match="cannot be decoded, damaged or cut short"):
        read_image(content[: int(len(content) * share)])


@pytest.mark.parametrize("place", [45, 60, 500, -30, -17])
def test_damage_of_16_bits_is_one_line(place: int, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (24, 32, 3)).astype(np.uint16)
    content = bytearray(png(noise))
    content[place] ^= 1
    with pytest.raises(ImageError, match="cannot be decoded, damaged or cut short"):
        read_image(bytes(content))
    assert capfd.readouterr() == ("", "")


def test_16_bit_transparent_colour() -> None:
    image = read_image(png(deep(RGB, 16), png_chunk(b"tRNS", bytes(6))))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.notes[0] == "alpha channel dropped"


PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(24, 32), (9, 8), (8, 13)])
def test_interlaced_16_bits(channels: int, size: tuple[int, int], capfd: pytest.CaptureFixture[str]) -> None:
    stored = deep(np.dstack([RGB, ALPHA])[: size[0], : size[1], :channels], 16)
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes()
        for first, column, down, right in PASSES
        for row in stored[first::down, column::right]
        if row.size
    )
    header = struct.pack(">IIBBBBB", size[1], size[0], 16, (0, 4, 2, 6)[channels - 1], 0, 0, 1)
    content = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows))
    expected = stored[..., 0] if channels < 3 else stored[..., :3]
    np.testing.assert_array_equal(read_stored(content + png_chunk(b"IEND", b"")).values, expected)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_image(content[:-60])


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("end", [b"", b"\0\0", b"\0\0\0\0IEND"])
def test_a_missing_end_does_no_harm(depth: type, end: bytes) -> None:
    content = png(RGB.astype(depth))[:-12] + end
    np.testing.assert_array_equal(read_image(content).pixels, RGB)


def test_places_in_a_palette_are_turned_too(tmp_path: Path) -> None:
    indexed = Image.fromarray(GREY // 64)
    indexed.putpalette(bytes(range(12)))
    exif = Image.Exif()
    exif[0x0112] = 6
    indexed.save(tmp_path / "a.png", exif=exif)
    places = read_stored(tmp_path / "a.png").places
    assert places is not None
    np.testing.assert_array_equal(places, UPRIGHT[6](GREY // 64))
