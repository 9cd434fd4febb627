import errno
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import tifffile  # comes with scikit-image
from PIL import Image

from msformer_deploy.errors import ImageError, UsageError, printable
from msformer_deploy.images import read
from msformer_deploy.images.decoders import pillow
from msformer_deploy.images.read import image_from_array, network_input, read_image, resize_nearest

ODD_NAMES = ["a b.png", 'it\'s "quoted".png', "胸部 é.png", "two\nlines.png", "tab\tbell\a.png", "%s{0}.png"]


@pytest.fixture
def rgb() -> np.ndarray:
    """A picture that every flip, turn and channel swap changes; 24 rows, 32 columns."""
    rows, columns = np.mgrid[:24, :32]
    return np.stack([rows * 10, columns * 8, (rows + columns) * 4], axis=2).astype(np.uint8)


@pytest.fixture
def grey(rgb: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rgb[..., 2])


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Assemble a PNG by hand, for what Pillow does not write. ``rows`` have their filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def failure(path: Path) -> str:
    """Read ``path``, which must fail with one line that starts with its name; return what follows the name."""
    with warnings.catch_warnings(), pytest.raises(ImageError) as caught:
        warnings.simplefilter("error")
        read_image(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    shown = printable(path)
    assert message.startswith(f"{shown}: ")
    assert len(message) - len(shown) < 250
    return message.removeprefix(f"{shown}: ")


# Reading: 8 bits


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_colour_is_read_exactly(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path, lossless=True)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, rgb)
    assert image.pixels.dtype == np.uint8
    assert (image.height, image.width, image.intensity_range) == (24, 32, (0.0, 255.0))
    assert (image.name, image.notes) == (str(path), ())
    np.testing.assert_array_equal(image.display(), rgb)


def test_the_content_decides_not_the_suffix(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, rgb)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_read(tmp_path: Path, rgb: np.ndarray, name: str) -> None:
    Image.fromarray(rgb).save(tmp_path / name)
    image = read_image(tmp_path / name)
    np.testing.assert_array_equal(image.pixels, rgb)
    assert len(image.name.splitlines()) == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, grey: np.ndarray, suffix: str) -> None:
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}", quality=100)
    pixels = read_image(tmp_path / f"a.{suffix}").pixels
    np.testing.assert_allclose(pixels.astype(int), np.repeat(grey[..., None], 3, 2), atol=2 if suffix == "jpg" else 0)
    assert (pixels == pixels[..., :1]).all()


def test_one_bit(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(grey > 100).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels[..., 1], np.where(grey > 100, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_alpha_is_dropped_and_colour_under_it_kept(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    rgba = np.dstack([rgb, rgb[..., 1]])
    Image.fromarray(rgba).save(tmp_path / f"a.{suffix}", lossless=True, exact=True)
    image = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(image.pixels, rgb)
    assert image.notes == ("alpha channel dropped",)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_with_alpha(tmp_path: Path, grey: np.ndarray, suffix: str) -> None:
    Image.fromarray(np.dstack([grey, grey[::-1]])).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(image.pixels, np.repeat(grey[..., None], 3, 2))
    assert image.notes == ("alpha channel dropped",)


@pytest.mark.parametrize("transparency", [None, 0, bytes(range(0, 256, 64))], ids=["opaque", "index", "table"])
def test_palettes_become_their_colours(tmp_path: Path, transparency: int | bytes | None) -> None:
    colours = np.array([(200, 10, 30), (0, 90, 255), (7, 8, 9), (255, 255, 0)], np.uint8)
    ids = np.arange(24 * 32).reshape(24, 32).astype(np.uint8) % 4
    indexed = Image.fromarray(ids)
    indexed.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    indexed.save(tmp_path / "a.png", **options)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, colours[ids])
    assert image.notes == (() if transparency is None else ("alpha channel dropped",))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    ink = np.zeros((24, 32, 4), np.uint8)
    ink[:, :16, 1:3] = 255  # magenta and yellow: red
    ink[:, 16:, 0] = 255  # cyan
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(ink, mode="CMYK").save(path, **({"quality": 100} if suffix == "jpg" else {}))
    if suffix == "jpg":
        assert b"Adobe" in path.read_bytes()  # that is, stored inverted
    pixels = read_image(path).pixels.astype(int)
    np.testing.assert_allclose(pixels[:, :12], np.broadcast_to((255, 0, 0), (24, 12, 3)), atol=3)
    np.testing.assert_allclose(pixels[:, 20:], np.broadcast_to((0, 255, 255), (24, 12, 3)), atol=3)


def test_ycbcr(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).convert("YCbCr").save(tmp_path / "a.tif")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").pixels.astype(int), rgb, atol=3)


# Reading: geometry and pages


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda pixels: pixels),
        (2, lambda pixels: pixels[:, ::-1]),
        (3, lambda pixels: pixels[::-1, ::-1]),
        (6, lambda pixels: np.rot90(pixels, -1)),
        (8, lambda pixels: np.rot90(pixels)),
    ],
)
def test_exif_orientation(
    tmp_path: Path, rgb: np.ndarray, suffix: str, orientation: int, upright: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(rgb).save(path, exif=exif, **lossless)
    image = read_image(path)
    expected = upright(rgb)
    assert (image.height, image.width) == expected.shape[:2]
    np.testing.assert_allclose(image.pixels.astype(int), expected, atol=4 if suffix == "jpg" else 0)


def test_exif_orientation_of_deep_grey(tmp_path: Path) -> None:
    deep = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(deep).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(read_image(tmp_path / "a.png").pixels, np.rot90(deep, -1) / 65535, atol=1e-7)


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_only_the_first_page_is_used(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    pages = [Image.fromarray(np.roll(rgb, shift, axis=1)) for shift in range(7)]
    pages[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pages[1:], lossless=True)
    image = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(image.pixels, rgb)
    assert image.notes == ("only page 1 of 7 is used",)


# Reading: deep intensities


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("largest", "stands_for_1"),
    [(200, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (16383, 16383), (40000, 65535)],
)
def test_deep_grey_fills_the_bits_it_was_taken_with(
    tmp_path: Path, suffix: str, largest: int, stands_for_1: int
) -> None:
    stored = np.linspace(0, largest, 24 * 32).astype(np.uint16).reshape(24, 32)
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.pixels.dtype == np.float32
    assert image.intensity_range == (0.0, stands_for_1)
    np.testing.assert_allclose(image.pixels, stored / stands_for_1, rtol=1e-6)


def test_a_full_16_bit_image_shows_and_enters_the_network_as_its_8_bit_version(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 24 * 32).astype(np.uint8).reshape(24, 32)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    eight, sixteen = read_image(tmp_path / "8.png"), read_image(tmp_path / "16.png")
    np.testing.assert_array_equal(eight.display(), sixteen.display())
    np.testing.assert_allclose(
        network_input(eight, 16), network_input(sixteen, 16), atol=1.01 / 255
    )  # 8 bits: two roundings


@pytest.mark.parametrize("values", [(-1024, 3071), (0, 100_000), (-5, -1)])
def test_integers_beyond_16_bits_or_below_zero_span_minimum_to_maximum(tmp_path: Path, values: tuple[int, int]) -> None:
    low, high = values
    stored = np.linspace(low, high, 24 * 32).round().astype(np.int32).reshape(24, 32)
    Image.fromarray(stored).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    assert image.intensity_range == values
    np.testing.assert_allclose(image.pixels, (stored - low) / (high - low), atol=1e-6)
    assert (image.pixels.min(), image.pixels.max()) == (0, 1)


@pytest.mark.parametrize("values", [(0.0, 1.0), (0.25, 0.5), (-0.5, 0.5), (0.0, 300.0)])
def test_floats_within_0_and_1_are_kept_and_others_spanned(tmp_path: Path, values: tuple[float, float]) -> None:
    stored = np.linspace(*values, 24 * 32, dtype=np.float32).reshape(24, 32)
    Image.fromarray(stored).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    low, high = (0.0, 1.0) if values[0] >= 0 and values[1] <= 1 else values
    assert image.intensity_range == (low, high)
    np.testing.assert_allclose(image.pixels, (stored - low) / (high - low), atol=1e-6)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_both_byte_orders(tmp_path: Path, byteorder: str) -> None:
    stored = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 85
    tifffile.imwrite(tmp_path / "a.tif", stored, byteorder=byteorder)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").pixels, stored / 65535, atol=1e-7)


def test_unsigned_32_bit_does_not_wrap(tmp_path: Path) -> None:
    stored = np.arange(24 * 32, dtype=np.uint32).reshape(24, 32) * 5_000_000
    tifffile.imwrite(tmp_path / "a.tif", stored)
    image = read_image(tmp_path / "a.tif")
    assert image.intensity_range == (0.0, 767 * 5e6)
    np.testing.assert_allclose(image.pixels, stored / (767 * 5e6), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_looks_as_in_a_viewer(tmp_path: Path, grey: np.ndarray, dtype: type[np.integer[Any]]) -> None:
    largest = np.iinfo(dtype).max
    tifffile.imwrite(tmp_path / "a.tif", grey.astype(dtype) * dtype(largest // 255), photometric="miniswhite")
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.display()[..., 0], 255 - grey)
    assert image.intensity_range == ((0.0, 255.0) if dtype is np.uint8 else (65535.0, 0.0))


# Reading: failures


def test_missing(tmp_path: Path) -> None:
    assert failure(tmp_path / "none.png") == "no such file; check the path"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_failures_name_odd_files_in_one_line(tmp_path: Path, name: str) -> None:
    assert failure(tmp_path / name) == "no such file; check the path"


def test_folder(tmp_path: Path) -> None:
    assert failure(tmp_path) == "is a folder, not an image; name the image files in it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_special_files_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert failure(tmp_path / "pipe.png") == "is not a regular file; copy the image to one first"


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert failure(tmp_path / "a.png") == "the file is empty; export or copy it again"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied; make the file readable"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read: Input/output error; check the path and the disk"),
        (MemoryError(), "not enough memory to decode it; resize it first"),
    ],
)
def test_the_system_refuses(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")

    def refuse(*_args: object) -> None:  # file modes do not stop root
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    assert failure(tmp_path / "a.png") == message


@pytest.mark.parametrize("content", [b"some text\n" * 30, b"x", bytes(5000)])
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    expected = (
        "not a PNG, JPEG, BMP, TIFF, WebP, GIF, JPEG 2000, AVIF or DICOM image; export it again, or save it as an 8-bit"
        " or 16-bit PNG"
    )
    assert failure(tmp_path / "a.png") == expected


@pytest.mark.parametrize("kind", ["PPM", "ICO"])
def test_other_formats_are_not_opened(tmp_path: Path, rgb: np.ndarray, kind: str) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png", format=kind)
    assert failure(tmp_path / "a.png").endswith(", which is not supported; export the picture as PNG or TIFF")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WebP", "GIF", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_cut_short(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    stored = io.BytesIO()
    Image.fromarray(noise).save(stored, format=kind)
    content = stored.getvalue()
    (tmp_path / "a.png").write_bytes(content[: int(len(content) * share)])
    message = failure(tmp_path / "a.png")
    assert message.startswith("cannot be decoded, damaged or cut short (")
    assert message.endswith("); export it again, as PNG if you can")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WebP", "GIF", "JPEG2000", "AVIF"])
def test_damage_never_shows_as_anything_but_an_image_error(tmp_path: Path, rgb: np.ndarray, kind: str) -> None:
    stored = io.BytesIO()
    Image.fromarray(rgb).save(stored, format=kind)
    random = np.random.default_rng(0)
    failures = 0
    for _ in range(60):
        content = bytearray(stored.getvalue())
        for position in random.integers(0, len(content), 8):
            content[position] = random.integers(256)
        (tmp_path / "a").write_bytes(content)
        try:
            read_image(tmp_path / "a")
        except ImageError as error:
            failures += 1
            assert len(str(error).splitlines()) == 1
    assert failures


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_bombs_are_refused_from_the_header(tmp_path: Path, kind: str) -> None:
    if kind == "PNG":
        content = png(30_000, 30_000, 8, 2, b"")
    else:
        content = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
        content += struct.pack("<IiiHHIIiiII", 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(content)
    expected = "30000 x 30000 pixels is over the limit of 100 megapixels; resize it first"
    assert failure(tmp_path / "a.png") == expected


def test_a_large_slice_is_refused_before_it_is_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", shape=(2_000_000, 1_000_000), dtype="u2", chunks=(100, 100))
    assert failure(tmp_path / "a.h5") == (
        "1000000 x 2000000 pixels is over the limit of 100 megapixels; resize it first"
    )


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_between_pillows_limit_and_ours_are_decoded_without_warning(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    Image.fromarray(rgb).save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / f"a.{suffix}")
    assert Image.MAX_IMAGE_PIXELS == 500


def test_only_pillows_own_warnings_are_silenced() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pillow.silent():
            warnings.warn("of another thread", stacklevel=1)
            warnings.warn_explicit("of Pillow", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin")
    assert [str(warning.message) for warning in caught] == ["of another thread"]


def test_pillows_settings_survive_failures_and_threads(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(30_000, 30_000, 8, 2, b""))
    limit = Image.MAX_IMAGE_PIXELS

    def decode() -> None:
        for _ in range(20):
            read_image(tmp_path / "a.png")
            with pytest.raises(ImageError):
                read_image(tmp_path / "b.png")

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 100), (100, 7)])
def test_too_small(tmp_path: Path, width: int, height: int) -> None:
    Image.new("RGB", (width, height)).save(tmp_path / "a.png")
    expected = f"{width} x {height} pixels is too small to segment; at least 8 x 8 is needed"
    assert failure(tmp_path / "a.png") == expected


def test_the_smallest(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb[:8, :8]).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").pixels.shape == (8, 8, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("value", [0, 1, 77])
def test_constant(tmp_path: Path, dtype: type[np.generic], value: int) -> None:
    Image.fromarray(np.full((9, 9), value, dtype)).save(tmp_path / "a.tif")
    assert failure(tmp_path / "a.tif") == "every pixel has the same value; there is nothing to segment"


def test_constant_colour(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (10, 20, 30)).save(tmp_path / "a.png")
    assert failure(tmp_path / "a.png") == "every pixel has the same value; there is nothing to segment"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path: Path, bad: float) -> None:
    stored = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    stored[3, 4:7] = bad
    Image.fromarray(stored).save(tmp_path / "a.tif")
    assert failure(tmp_path / "a.tif") == "3 of 100 pixels are NaN or infinite; replace them first"


# Images of Pillow


@pytest.mark.parametrize("kind", ["png", "tiff", "planar"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_colour_that_pillow_opened_is_that_of_the_file(kind: str, alpha: bool, bits: int) -> None:
    array = pictures.deep(pictures.RGB, bits)
    stored = np.dstack([array, array[..., 0]]) if alpha else array
    if kind == "png":
        content = pictures.png(stored)
    else:
        planar = kind == "planar"
        content = pictures.tiff(
            np.ascontiguousarray(stored.transpose(2, 0, 1)) if planar else stored,
            photometric="rgb", planarconfig="separate" if planar else "contig",
            extrasamples=["unassalpha"] if alpha else [],
        )  # fmt: skip
    with Image.open(io.BytesIO(content)) as opened:
        image = read.image_from_pillow(opened)
        np.testing.assert_array_equal(image.pixels, read_image(content).pixels)
        assert image.intensity_range == (0.0, 2.0**bits - 1)
        assert opened.convert("RGB").size == image.pixels.shape[1::-1]  # it still can be read


@pytest.mark.parametrize("lazily", [False, True])
def test_an_image_of_pillow_whose_file_was_closed_is_not_damaged(tmp_path: Path, rgb: np.ndarray, lazily: bool) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        image = Image.open(file if lazily else tmp_path / "a.png")
        if not lazily:
            image.close()
    with pytest.raises(ImageError, match=r"^image: its file was closed before it was read; call load"):
        read.image_from_pillow(image)


def test_an_image_of_pillow_that_memory_does_not_hold_is_not_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(ImageError, match=r"^image: not enough memory to decode it"):
        read.image_from_pillow(Image.new("P", (9, 9)))


# Arrays


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_uint8_arrays_of_every_shape(rgb: np.ndarray, grey: np.ndarray, channels: int | None) -> None:
    array = {None: grey, 1: grey[..., None], 3: rgb, 4: np.dstack([rgb, grey])}[channels]
    image = image_from_array(array)
    expected = np.repeat(grey[..., None], 3, 2) if channels in (None, 1) else rgb
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.pixels.dtype == np.uint8
    assert (image.name, image.intensity_range) == ("array", (0.0, 255.0))
    assert image.notes == (("alpha channel dropped",) if channels == 4 else ())


def test_arrays_are_copied(rgb: np.ndarray) -> None:
    image = image_from_array(rgb)
    rgb[:] = 0
    assert image.pixels.any()


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int64, np.uint32, np.int16])
def test_integer_arrays_follow_the_rule_of_files(dtype: Any) -> None:
    array = np.linspace(0, 3000, 100).reshape(10, 10).astype(dtype)
    image = image_from_array(array)
    assert image.pixels.dtype == np.float32
    assert image.intensity_range == (0.0, 4095.0)
    np.testing.assert_allclose(image.pixels, array / 4095, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_follow_the_rule_of_files(dtype: type[np.floating[Any]]) -> None:
    array = np.linspace(-1, 1, 100).reshape(10, 10).astype(dtype)
    image = image_from_array(array)
    assert image.intensity_range == (-1.0, 1.0)
    np.testing.assert_allclose(image.pixels, (array.astype(float) + 1) / 2, atol=1e-6)


def test_deep_colour_arrays_are_scaled_together_and_rounded(rgb: np.ndarray) -> None:
    for deep, span in ((rgb.astype(np.uint16) * 257, (0.0, 65535.0)), (rgb / 255.0, (0.0, 1.0))):
        image = image_from_array(deep)
        np.testing.assert_array_equal(image.pixels, rgb)
        assert image.pixels.dtype == np.uint8
        assert image.intensity_range == span
        assert image.notes == ("colour rounded to 8 bits",)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((9, 9), complex), "mine: complex128 values are not intensities; pass integers or floats"),
        (np.full((9, 9), "x"), "mine: <U1 values are not intensities; pass integers or floats"),
        *(
            (np.zeros(shape), f"mine: shape {shape} is not an image; pass (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
            for shape in [(), (9,), (9, 9, 2), (3, 9, 9), (1, 9, 9, 3)]
        ),
    ],
)
def test_what_is_no_image_at_all_is_a_usage_error(array: np.ndarray, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        image_from_array(array, "mine")
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((1, 5)), "array: 5 x 1 pixels is too small to segment; at least 8 x 8 is needed"),
        (np.zeros((0, 0), np.uint8), "array: 0 x 0 pixels is too small to segment; at least 8 x 8 is needed"),
        (np.ones((9, 9, 3)), "array: every pixel has the same value; there is nothing to segment"),
        (np.full((9, 9, 3), np.nan), "array: 81 of 81 pixels are NaN or infinite; replace them first"),
        (np.full((9, 9), 1e300), "array: 81 of 81 pixels are NaN or infinite; replace them first"),
        (
            np.broadcast_to(np.uint8(0), (20_000, 10_000)),
            "array: 10000 x 20000 pixels is over the limit of 100 megapixels; resize it first",
        ),
    ],
)
def test_arrays_that_cannot_be_segmented(array: np.ndarray, expected: str) -> None:
    with pytest.raises(ImageError) as caught:
        image_from_array(array)
    assert str(caught.value) == expected


# What the network takes


def test_network_input_is_bgr_from_0_to_1() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = 255, 51, 0
    pixels[0, 0] = 1  # not constant
    taken = network_input(image_from_array(pixels), 4)
    assert (taken.shape, taken.dtype) == ((3, 4, 4), np.float32)
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken[:, 2:, 2:].reshape(3, -1).T, np.full((4, 3), np.float32([0, 0.2, 1])))


def test_network_input_of_a_part_is_that_of_the_part_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    seen = network_input(image_from_array(pixels), 8, part=(10, 4, 26, 20))
    alone = network_input(image_from_array(pixels[4:20, 10:26]), 8)
    assert np.array_equal(seen[:, 1:-1, 1:-1], alone[:, 1:-1, 1:-1])
    assert not np.array_equal(seen, alone), "pixels at its border are mixed with those beside it"


def test_network_input_of_the_same_side_is_the_picture(rgb: np.ndarray) -> None:
    square = rgb[:, :24]
    np.testing.assert_allclose(network_input(image_from_array(square), 24)[::-1].transpose(1, 2, 0) * 255, square)


def test_network_input_squeezes_without_turning_or_aliasing() -> None:
    pixels = np.zeros((64, 128), np.uint8)
    pixels[:, :64:2] = 200  # stripes of one pixel on the left: antialiased to their mean
    taken = network_input(image_from_array(pixels), 16)
    np.testing.assert_allclose(taken[:, :, :6] * 255, 100, atol=8)
    assert not taken[:, :, 10:].any()


def test_network_input_of_deep_grey_keeps_its_depth() -> None:
    deep = np.linspace(0.5, 0.5 + 1 / 1024, 32 * 32, dtype=np.float32).reshape(32, 32)
    taken = network_input(image_from_array(deep), 16)
    assert (taken.shape, taken.dtype) == ((3, 16, 16), np.float32)
    assert taken.flags.c_contiguous
    assert len(np.unique(taken[0])) > 200
    assert (taken == taken[:1]).all()
    assert (np.diff(taken[0, :, 8]) > 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, bool])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (8, 12), (560, 768), (2, 3), (5, 7)])
def test_resize_nearest_takes_the_pixel_under_each_centre(dtype: type, height: int, width: int) -> None:
    array = np.arange(24).reshape(4, 6).astype(dtype)
    resized = resize_nearest(array, height, width)
    assert (resized.shape, resized.dtype) == ((height, width), array.dtype)
    rows = [int((row + 0.5) * 4 / height) for row in range(height)]
    columns = [int((column + 0.5) * 6 / width) for column in range(width)]
    np.testing.assert_array_equal(resized, [[array[row, column] for column in columns] for row in rows])


def test_resize_nearest_there_and_back_and_symmetric() -> None:
    ids = np.random.default_rng(0).integers(0, 9, (32, 32))
    np.testing.assert_array_equal(resize_nearest(resize_nearest(ids, 101, 77), 32, 32), ids)
    enlarged = resize_nearest(ids, 96, 160)
    np.testing.assert_array_equal(enlarged[::-1, ::-1], resize_nearest(ids[::-1, ::-1], 96, 160))


@pytest.mark.parametrize("place", [(0, 1), (0, 79), (1, 0), (59, 79)])
def test_a_single_other_pixel_is_something_to_segment(place: tuple[int, int]) -> None:
    pixels = np.full((60, 80), 9, np.uint8)
    with pytest.raises(ImageError, match="same value"):
        read.image_from_array(pixels)
    pixels[place] = 10
    assert read.image_from_array(pixels).pixels.shape == (60, 80, 3)


def test_an_image_that_memory_does_not_hold_fails_by_name(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")

    def exhaust(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(read, "of_stored", exhaust)
    with pytest.raises(ImageError, match=r"a\.png: not enough memory"):
        read_image(tmp_path / "a.png")


def test_importing_brings_no_heavy_package() -> None:
    heavy = ("torch", "onnx", "scipy", "skimage")
    code = f"import sys, msformer_deploy.images.read; print([m for m in {heavy} if m in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
