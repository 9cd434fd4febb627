"""Formats of files: a supported file is read, any other is named."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pictures import ALPHA, GREY, RGB, UPRIGHT, deep
from PIL import Image

from msformer_deploy.errors import ImageError
from msformer_deploy.images.decoders import formats, jpeg2000, webp
from msformer_deploy.images.decoders.orientation import UNREADABLE
from msformer_deploy.images.read import image_from_array, read_image, read_stored


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stored = io.BytesIO()
    picture.save(stored, kind, **options)
    return stored.getvalue()


def refusal(content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(content)
    (line,) = str(caught.value).splitlines()
    return line


# GIF


def test_a_gif() -> None:
    pages = [Image.fromarray(np.roll(GREY, shift, axis=1)) for shift in range(3)]
    image = read_image(encoded(pages[0], "GIF", save_all=True, append_images=pages[1:]))
    np.testing.assert_array_equal(image.pixels, np.repeat(GREY[..., None], 3, axis=2))
    assert image.notes == ("only page 1 of 3 is used",)


# JPEG


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("colour", [False, True])
def test_deep_and_lossless_jpeg(bits: int, colour: bool) -> None:
    stored = deep(RGB if colour else GREY, bits)
    if bits == 12:
        content = bytes(imagecodecs.jpeg8_encode(stored, bitspersample=12, level=100, subsampling="444"))
    elif colour:
        content = bytes(imagecodecs.jpeg8_encode(stored, lossless=True))
    else:
        content = bytes(imagecodecs.ljpeg_encode(stored, bitspersample=16))
    image = read_image(content)
    assert image.intensity_range == (0.0, 2.0**bits - 1)
    off = 0 if bits == 16 else 1.5 if colour else 1 / 1000
    np.testing.assert_allclose(image.pixels.astype(float), image_from_array(stored).pixels, atol=off)
    assert read_stored(content).lossy == (bits == 12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_12_bit_jpeg(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    metadata = b"\xff\xe1" + struct.pack(">H", len(exif.tobytes()) + 2) + exif.tobytes()
    stored = deep(GREY, 12)
    content = bytes(imagecodecs.jpeg8_encode(stored, bitspersample=12, level=100))
    image = read_image(content[:2] + metadata + content[2:])
    np.testing.assert_allclose(image.pixels, UPRIGHT[orientation](stored / 4095), atol=1e-3)


def test_12_bit_jpeg_cut_short() -> None:
    content = bytes(imagecodecs.jpeg8_encode(deep(GREY, 12), bitspersample=12))
    assert "cannot be decoded, damaged or cut short (its end is missing)" in refusal(content[:-40])


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe0\0\x07JFIF\0",
        b"\xff\xed\0\x1aPhotoshop 3.0\x008BIM\3\xed\0\0",
        b"\xff\xed\0\x14Photoshop 3.0\x008BIM",
        b"\xff\xe2\0\x0eMPF\0rubbish!",
        b"\xff\xe2\0\x12ICC_PROFILE\0\1\1xx",
        b"\xff\xee\0\x08Adobe\0",
        b"\xff\xe3\0\x04zz",
        b"\xff\xfe\0\x04zz",
    ],
    ids=range(8),
)
@pytest.mark.parametrize("bits", [8, 12])
def test_damaged_segments_of_jpeg_do_not_matter(segment: bytes, bits: int) -> None:
    if bits == 8:
        content = encoded(Image.fromarray(RGB), "JPEG", quality=100, subsampling=0)
    else:
        content = bytes(imagecodecs.jpeg8_encode(deep(RGB, 12), bitspersample=12, level=100, subsampling="444"))
    np.testing.assert_array_equal(read_image(content[:2] + segment + content[2:]).pixels, read_image(content).pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WebP", "AVIF", "TIFF"])
def test_damaged_exif_and_xmp(kind: str) -> None:
    picture = Image.fromarray(RGB)
    plain = read_image(encoded(picture, kind))
    marked = b"<x:xmpmeta"
    if kind == "TIFF":
        content = encoded(picture, kind, tiffinfo={34665: 2**31, 700: marked})
    else:
        content = encoded(picture, kind, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0", xmp=marked)
        assert content.count(b"II*\0\x08\0\0\0\0\0\0\0") == 1
        content = content.replace(b"II*\0\x08\0\0\0\0\0\0\0", b"\xffI*\0\x08\0\0\0\2\0\0\0")
    image = read_image(content)
    np.testing.assert_array_equal(image.pixels, plain.pixels)
    assert image.notes == (() if kind == "TIFF" else (UNREADABLE,))


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(
    ("damaged", "turned"),
    [
        (lambda content, at: content[: at + 4] + b"\xff\xff\xff\x7f" + content[at + 8 :], True),
        (lambda content, at: content[: at + 12], False),
        (lambda content, at: content[: at + 4], False),
        (lambda content, at: content[:4] + b"\xff\xff\xff\x7f" + content[8:], True),
        (lambda content, at: content[:4] + b"\x10\0\0\0" + content[8:], True),
        (lambda content, at: content + b"rubbish behind it", True),
    ],
    ids=["length", "cut", "no length", "file too long", "file too short", "behind"],
)
def test_damage_behind_the_pixels_of_webp(damaged: Any, turned: bool, transparent: bool, lossless: bool) -> None:
    picture = Image.fromarray(np.dstack([RGB, ALPHA]) if transparent else RGB)
    upright = read_image(encoded(picture, "WebP", lossless=lossless, exact=True)).pixels
    exif = Image.Exif()
    exif[274] = 6
    content = encoded(picture, "WebP", lossless=lossless, exact=True, exif=exif)
    found = read_image(damaged(content, content.index(b"EXIF")))
    np.testing.assert_array_equal(found.pixels, UPRIGHT[6](upright) if turned else upright)


@pytest.mark.parametrize("lossless", [False, True])
def test_webp_without_all_of_its_pixels_is_damaged(lossless: bool) -> None:
    content = encoded(Image.fromarray(RGB), "WebP", lossless=lossless, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0")
    pixels = content.index(b"VP8L" if lossless else b"VP8 ") + 8
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_image(content[: (pixels + content.index(b"EXIF")) // 2])


@pytest.mark.parametrize(
    "chunk",
    [
        b"VP8X" + struct.pack("<I4s", 10, b"") + b"\xff\x3f\0\xff\x3f\0",
        b"VP8L" + struct.pack("<IBI", 5, 0x2F, 0x3FFF << 14 | 0x3FFF),
        b"VP8 " + struct.pack("<I6sHH", 10, b"\0\0\0\x9d\x01\x2a", 16383, 16383),
    ],
    ids=["VP8X", "VP8L", "VP8"],
)
def test_large_webp_is_refused_by_its_header(chunk: bytes) -> None:
    line = refusal(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)
    assert "pixels is over the limit of 100 megapixels" in line


@pytest.mark.parametrize(("kind", "module"), [("WebP", webp), ("JPEG2000", jpeg2000)])
def test_decoders_that_do_not_say_that_memory_is_short(kind: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.fromarray(RGB), kind)
    cut = content[: len(content) * 3 // 5]
    assert "damaged or cut short" in refusal(cut)
    monkeypatch.setattr(module, "_BYTES", 2**50)
    assert refusal(cut) == "bytes: not enough memory to decode it; resize it first"
    assert read_image(content).pixels.shape == RGB.shape


@pytest.mark.parametrize("said", ["out of memory when reading image file", "Pixel allocation failed: Out of memory"])
def test_decoders_that_say_that_memory_is_short(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(file: object, name: str) -> None:
        raise OSError(said)

    monkeypatch.setattr(jpeg2000, "read", read)
    assert refusal(encoded(Image.fromarray(RGB), "JPEG2000")) == (
        "bytes: not enough memory to decode it; resize it first"
    )


def test_ycck_and_cmyk_jpeg() -> None:
    image = read_image(encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=100))
    np.testing.assert_allclose(image.pixels.astype(int), RGB, atol=8)


@pytest.mark.parametrize(("marker", "what"), [(0xC5, "hierarchical"), (0xF7, "JPEG-LS")])
def test_kinds_of_jpeg_that_are_not_supported(marker: int, what: str) -> None:
    content = encoded(Image.fromarray(RGB), "JPEG")
    assert f"{what} compression is not supported" in refusal(content.replace(b"\xff\xc0", bytes((0xFF, marker))))


# JPEG 2000 and AVIF


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_jpeg_2000(bits: int, channels: int, codec: str) -> None:
    pixels = {1: GREY, 2: np.dstack([GREY, ALPHA]), 3: RGB, 4: np.dstack([RGB, ALPHA])}[channels]
    stored = pixels if bits == 8 else deep(pixels, bits)
    content = bytes(
        imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, bitspersample=bits, codecformat=codec, mct=False)
    )
    image = read_image(content)
    colours = stored[..., 0] if channels == 2 else stored[..., :3] if channels == 4 else stored
    np.testing.assert_array_equal(image.pixels, image_from_array(colours).pixels)
    assert image.intensity_range == (0.0, 2.0**bits - 1)
    if codec == "jp2" and channels in (2, 4):
        assert image.notes[0] == "alpha channel dropped"


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif(bits: int, channels: int) -> None:
    pixels = {1: GREY, 3: RGB, 4: np.dstack([RGB, ALPHA])}[channels]
    stored = pixels if bits == 8 else deep(pixels, bits)
    image = read_image(bytes(imagecodecs.avif_encode(stored, level=100, bitspersample=bits)))
    expected = image_from_array(stored).pixels
    np.testing.assert_allclose(image.pixels.astype(float), expected, atol=1 if expected.dtype == np.uint8 else 1e-3)
    assert image.intensity_range == (0.0, 2.0**bits - 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_avif(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(encoded(Image.fromarray(RGB), "AVIF", exif=exif, quality=100, subsampling="4:4:4"))
    np.testing.assert_allclose(image.pixels.astype(int), UPRIGHT[orientation](RGB), atol=6)


def test_bombs() -> None:
    j2k = bytearray(imagecodecs.jpeg2k_encode(deep(GREY, 12), level=0, bitspersample=12, codecformat="j2k"))
    j2k[8:16] = struct.pack(">II", 60_000, 60_000)
    gif = bytearray(encoded(Image.fromarray(GREY), "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    avif = bytearray(imagecodecs.avif_encode(GREY))
    at = avif.find(b"ispe") + 8
    avif[at : at + 8] = struct.pack(">II", 60_000, 60_000)
    jpeg = bytearray(imagecodecs.jpeg8_encode(deep(GREY, 12), bitspersample=12))
    at = jpeg.find(b"\xff\xc1") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    for content in (j2k, gif, avif, jpeg):
        assert "60000 x 60000 pixels is over the limit of 100 megapixels" in refusal(bytes(content))


def test_a_gif_whose_frame_is_a_bomb() -> None:
    content = bytearray(encoded(Image.fromarray(GREY), "GIF"))
    at = content.find(b",\0\0\0\0") + 5
    content[at : at + 4] = struct.pack("<HH", 60_000, 60_000)
    assert "is over the limit of 100 megapixels" in refusal(bytes(content))


# What is not supported


def zipped() -> bytes:
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("a.png", b"x")
    return stored.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(struct.pack("<i", 348) + bytes(340) + b"n+1\0", mtime=0), "a gzip archive"),
        (struct.pack("<i", 348) + bytes(340) + b"ni1\0" + bytes(100), "a NIfTI header without its image"),
        (b"8BPS\0\1" + bytes(30), "a Photoshop file"),
        (b"\x76\x2f\x31\x01\2\0\0\0", "an OpenEXR file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC file"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIF file"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a Canon CR3 file"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\x1a\x45\xdf\xa3\1\0\0\0", "a video"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"II*\0\x10\0\0\0CR\2\0", "a Canon CR2 file"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"),
        (b"P5\n8 8\n255\n" + bytes(64), "a PNM file"),
        (b"\xff\x0a\0\0", "a JPEG XL file"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (zipped(), "a ZIP archive"),
        (b"\0\x05\x16\x07\0\2\0\0", "an AppleDouble file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"SIMPLE  =                    T", "a FITS file"),
        (b"ZISRAWFILE\0", "a Zeiss CZI file"),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_what_is_not_supported_is_named(tmp_path: Path, content: bytes, what: str, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / f"a.{suffix}")
    message = str(caught.value)
    assert f": is {what}" in message
    assert ", which is not supported; " in message
    assert "damaged" not in message


@pytest.mark.parametrize(
    ("content", "what", "suffixes"),
    [
        (struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(100), "a NIfTI file", ".nii or .nii.gz"),
        (struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(600), "a NIfTI file", ".nii or .nii.gz"),
        (b"NRRD0004\n", "an NRRD file", ".nrrd or .nhdr"),
        (b"ObjectType = Image\nNDims = 2\n", "a MetaImage file", ".mha or .mhd"),
    ],
)
def test_a_volume_without_its_suffix_is_named_with_who_reads_it(content: bytes, what: str, suffixes: str) -> None:
    assert refusal(content).endswith(
        f": is {what}, which holds a volume, not an image; run and read_volume read it if its name ends with {suffixes}"
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WebP", "GIF", "JPEG2000", "AVIF"])
def test_the_content_decides_not_the_suffix(tmp_path: Path, kind: str) -> None:
    content = encoded(Image.fromarray(RGB), kind)
    found = []
    for suffix in ("png", "jpg", "tif", "h5", "txt", "gif"):
        (tmp_path / f"a.{suffix}").write_bytes(content)
        found.append(read_image(tmp_path / f"a.{suffix}").pixels)
    assert all((pixels == found[0]).all() for pixels in found)


def test_a_slice_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.png", "w") as file:
        file["image"] = GREY / np.float32(255)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, GREY / np.float32(255))
    assert "is HDF5, which can be read only from a path" in refusal((tmp_path / "a.png").read_bytes())


EXPLICIT, IMPLICIT = b"CS\x0a\0ISO_IR 100", b"\x0a\0\0\0ISO_IR 100"


@pytest.mark.parametrize(
    ("content", "is_dicom"),
    [
        (bytes(128) + b"DICM" + bytes(100), True),
        (b"II*\0".ljust(128, b"\0") + b"DICM" + bytes(100), True),  # both, as scanned slides are: a TIFF reader's too
        (b"\x08\0\x05\0" + EXPLICIT, True),
        (b"\x08\0\x05\0" + IMPLICIT, True),
        (b"\0\x08\0\x05CS\0\x0aISO_IR 100", True),
        (b"\x02\0\0\0UL\x04\0" + bytes(4), True),
        (b"\x08\0\x05\0\xff\xff\0\0" + bytes(10), False),
        (b"\x08\0\x05\0", False),
        (b"\x10\0\x10\0" + EXPLICIT, False),
        (b"\x02\0\x10\0" + IMPLICIT, False),  # the file's own elements are always explicit
    ],
)
def test_dicom_is_known_by_its_content(content: bytes, is_dicom: bool) -> None:
    assert (formats.identify(content) == formats.DICOM) == is_dicom


def test_dicom_is_read_from_paths_alone() -> None:
    with pytest.raises(ImageError, match="is a DICOM file, which is not supported; pass its path"):
        read_image(bytes(128) + b"DICM" + bytes(100))


def test_no_second_code_stream_hides_a_huge_size_behind_a_small_one() -> None:
    small = imagecodecs.jpeg2k_encode(np.arange(100, dtype=np.uint16).reshape(10, 10), codecformat="j2k")
    huge = bytearray(small)
    huge[8:16] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ImageError, match="60000 x 60000 pixels is over the limit"):
        read_image(small + bytes(huge))
