"""The first page of TIFF files (TIFF 6.0, BigTIFF and the variants of microscopes).

Pillow reads only the upper byte of deep colours, and separate planes of 16 bits as noise; tifffile reads the stored
values. libtiff converts YCbCr colours, and LittleCMS converts CIE L*a*b*.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TiffPage

from ...errors import ImageError
from .. import intensities
from . import stored
from .orientation import ORIENTATION, turned
from .stored import Stored

_LABS = (PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB)
_KNOWN = (
    PHOTOMETRIC.MINISBLACK,
    PHOTOMETRIC.MINISWHITE,
    PHOTOMETRIC.RGB,
    PHOTOMETRIC.PALETTE,
    PHOTOMETRIC.SEPARATED,
    PHOTOMETRIC.YCBCR,
    *_LABS,
)
_JPEGS = (COMPRESSION.OJPEG, COMPRESSION.JPEG, COMPRESSION.JPEG_LOSSY, COMPRESSION.ALT_JPEG)
_CONVERTS = (  # compressions whose decoders convert to RGB
    *_JPEGS[1:],
    COMPRESSION.APERIO_JP2000_YCBC,
    COMPRESSION.APERIO_JP2000_RGB,
    COMPRESSION.JPEG2000,
    COMPRESSION.JPEG_2000_LOSSY,
    COMPRESSION.WEBP,
    COMPRESSION.JPEGXL,
)
_FAXES = (2, 3, 4, 32771)  # CCITT compressions; their names differ between versions of tifffile
_LOSSY = (*_JPEGS, COMPRESSION.WEBP, COMPRESSION.JPEGXL)
_DNG_VERSION, _INK_SET, _CMYK = 50706, 332, 1

_reading: ContextVar[bool] = ContextVar("reading", default=False)


class _Quiet(logging.Filter):
    """Drop tifffile's log messages on files that are read here: this package reports the errors itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _reading.get()


logging.getLogger("tifffile").addFilter(_Quiet())


@contextmanager
def _quiet() -> Iterator[None]:
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


class _Refused(Exception):
    """A kind of TIFF that is not supported."""


def read(file: BinaryIO, name: str) -> Stored:
    """Decode the first page of a file.

    Raises:
        ImageError: the header states a size beyond the limit, or the kind of TIFF is not supported.
    """
    with _quiet(), tifffile.TiffFile(file) as opened:
        page = opened.pages.first
        assert isinstance(page, TiffPage)
        sizes: tuple[Any, ...] = (page.imagewidth, page.imagelength, page.imagedepth, page.samplesperpixel)
        if not all(isinstance(each, int) and each > 0 for each in sizes):  # a damaged tag may hold several numbers
            raise ValueError("its size is not given")
        stored.check_limit(page.imagewidth, page.imagelength, name, page.samplesperpixel * page.imagedepth)
        try:
            _check(page)
            _check_strips(page, file)
            found = _decoded(page, file)
        except _Refused as refused:
            raise ImageError(
                f"{name}: TIFF with {refused} is not supported; export it as an 8-bit or 16-bit PNG"
            ) from refused
        orientation = page.tags.valueof(ORIENTATION, 1)
        pages = _pages(opened)
    found = turned(found, orientation if isinstance(orientation, int) else 1)
    return Stored(
        found.values,
        (*stored.only_first(pages), *found.notes),
        found.white_is_zero,
        found.places,
        found.alpha,
        page.compression in _LOSSY,
    )


def _pages(opened: tifffile.TiffFile) -> int:
    """Number of pictures. ImageJ writes only one header for many, and some files store pictures as planes of a page."""
    try:
        stacked = int((opened.imagej_metadata or {}).get("images", 1)) if opened.is_imagej else 1
        return max(len(opened.pages), stacked, opened.pages.first.imagedepth)
    except Exception:  # damage after the first page does not matter
        return 1


def _check(page: TiffPage) -> None:
    preview = page.is_reduced and bool(page.subifds)  # of a camera's raw data, which is in the sub-pages
    if preview or _DNG_VERSION in page.tags or page.photometric in (PHOTOMETRIC.CFA, PHOTOMETRIC.LINEAR_RAW):
        raise _Refused("a camera's raw data")
    if page.photometric not in _KNOWN or (page.photometric in _LABS and page.bitspersample != 8):
        raise _Refused(f"colours of the kind {_named(page.photometric)} in {page.bitspersample} bits")
    if page.photometric == PHOTOMETRIC.YCBCR and page.shaped[0] > 1:
        raise _Refused("separate planes of YCbCr")
    if page.photometric == PHOTOMETRIC.SEPARATED and (
        page.tags.valueof(_INK_SET, _CMYK) != _CMYK or page.samplesperpixel < 4
    ):
        raise _Refused("inks other than CMYK")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise _Refused(f"pixels of {page.bitspersample} bits and sample format {_named(page.sampleformat)}")


def _check_strips(page: TiffPage, file: BinaryIO) -> None:
    """Refuse a page whose strips or tiles do not fit its size, or lie outside of the file."""
    end = file.seek(0, 2)
    if len(page.dataoffsets) < int(np.prod(page.chunked)):
        raise ValueError(f"{len(page.dataoffsets)} strips or tiles of {int(np.prod(page.chunked))} are there")
    if int(np.prod(page.chunks, dtype=object)) > 8 * stored.MAX_PIXELS:
        raise ValueError("its strips or tiles are absurdly large")
    if page.compression == COMPRESSION.NONE:  # a wrong length is harmless if all pixels are there
        counts = zip(page.dataoffsets, page.databytecounts, strict=False)
        page.databytecounts = tuple(min(count, max(end - offset, 0)) for offset, count in counts)
    elif any(offset + count > end for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)):
        raise ValueError("its end is missing")


def _named(value: Any) -> str:
    name = str(getattr(value, "name", value))
    return name if len(name) < 20 else "that is none"  # a damaged tag


def _decoded(page: TiffPage, file: BinaryIO) -> Stored:
    """Decode the pixels of the page as they are stored, not turned."""
    if page.photometric == PHOTOMETRIC.YCBCR and page.compression not in _CONVERTS:
        return Stored(_by_libtiff(page, file))
    if page.compression in _FAXES:
        return Stored(_by_libtiff(page, file)[..., 0] > 127)
    try:
        pixels = page.asarray(maxworkers=1)
    except (NotImplementedError, ImportError) as error:
        raise _Refused(f"compression {_named(page.compression)}") from error
    except (ValueError, RuntimeError) as error:
        if "not supported" in str(error) or "not implemented" in str(error):
            raise _Refused(f"compression {_named(page.compression)}") from error
        pixels = _again(page, file)
    planes = page.shaped[0]
    pixels = pixels.reshape(page.shaped)[:, 0]  # (planes, height, width, samples), the first of a stack
    channels = pixels[0] if planes == 1 else pixels[..., 0].transpose(1, 2, 0)
    depth = page.bitspersample
    if page.photometric == PHOTOMETRIC.PALETTE:
        places = channels[..., 0].astype(np.uint8) if channels.dtype == bool else channels[..., 0]
        colours = np.asarray(page.colormap)
        colours = (colours if colours.max() < 256 else colours >> 8).astype(np.uint8).T  # some write 8 bits
        return Stored(colours[places], places=places)
    if channels.dtype == np.uint8 and isinstance(depth, int) and depth < 8:
        channels = _spread(depth)[channels]
    return _coloured(page, channels)


def _coloured(page: TiffPage, channels: NDArray[Any]) -> Stored:
    """Split the channels (H, W, C) into grey or RGB and alpha."""
    if page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE):
        count = 1
    else:
        count = 4 if page.photometric == PHOTOMETRIC.SEPARATED else 3
    if channels.shape[2] < count:
        raise ValueError(f"{channels.shape[2]} channels of {count} are there")
    extra = list(page.extrasamples)
    alpha, notes = None, []
    if channels.shape[2] > count:
        if extra and extra[0] in (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA):
            alpha = channels[..., count]
            notes.append(stored.DROPPED_ALPHA)
        elif count == 1:
            notes.append(f"only channel 1 of {channels.shape[2]} is used")
        else:
            notes.append(f"only {count} channels of {channels.shape[2]} are used")
    values = channels[..., 0] if count == 1 else channels[..., :count]
    if alpha is not None and extra[0] == EXTRASAMPLE.ASSOCALPHA and values.dtype.kind == "u":
        values = _divided(values, alpha)
    if page.photometric == PHOTOMETRIC.SEPARATED:
        values = _from_cmyk(values)
    if page.photometric in _LABS and page.compression not in _CONVERTS:
        values = _from_lab(values, signed=page.photometric == PHOTOMETRIC.CIELAB)
    white_is_zero = page.photometric == PHOTOMETRIC.MINISWHITE
    if white_is_zero and values.dtype.kind == "b":
        return Stored(~values, tuple(notes), alpha=alpha)
    if white_is_zero and values.dtype == np.uint8:
        return Stored(255 - values, tuple(notes), alpha=alpha)
    return Stored(values, tuple(notes), white_is_zero, alpha=alpha)


def _spread(depth: int) -> NDArray[np.uint8]:
    """The 8-bit grey level of each value of fewer bits."""
    return np.round(np.arange(2**depth) * (255 / (2**depth - 1))).astype(np.uint8)


def _divided(values: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Divide colours by alpha, by which they were multiplied; fully transparent pixels stay unchanged."""
    largest = (
        intensities.largest_of(max(values.max(), alpha.max())) if values.itemsize == 2 else np.iinfo(values.dtype).max
    )
    share = np.where(alpha > 0, alpha, largest).astype(np.float32) / np.float32(largest)
    share = share if values.ndim == 2 else share[..., None]
    return np.minimum(np.rint(values / share), largest).astype(values.dtype)


def _from_cmyk(ink: NDArray[Any]) -> NDArray[Any]:
    """Convert CMYK (H, W, 4) to RGB without a profile: R = (1 - C) (1 - K), and the same for G and B."""
    if ink.dtype == np.uint8:
        return np.array(Image.fromarray(np.ascontiguousarray(ink), mode="CMYK").convert("RGB"))
    if ink.dtype.kind != "u":
        raise _Refused("inks that are not whole numbers")
    largest = np.iinfo(ink.dtype).max
    left = 1 - ink / np.float32(largest)
    return np.rint(left[..., :3] * left[..., 3:] * largest).astype(ink.dtype)


def _from_lab(lab: NDArray[np.uint8], signed: bool) -> NDArray[np.uint8]:
    """Convert 8-bit CIE L*a*b* (H, W, 3) to sRGB; a* and b* are signed, or have an offset of 128."""
    profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
    bits = lab if signed else lab ^ np.array((0, 128, 128), np.uint8)
    picture = Image.frombytes("LAB", (lab.shape[1], lab.shape[0]), bits.tobytes())
    converted = ImageCms.applyTransform(picture, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    return np.array(converted)


def _again(page: TiffPage, file: BinaryIO) -> NDArray[Any]:
    """Decode the pixels of the page by libtiff, which accepts strips that are too long.

    Raises:
        ValueError: libtiff cannot decode them either.
    """
    import imagecodecs

    file.seek(0)
    pixels: NDArray[Any] = imagecodecs.tiff_decode(file.read(), index=0)
    if pixels.dtype != page.dtype or pixels.squeeze().shape != page.shape:
        raise ValueError("its strips are damaged")
    return pixels


def _by_libtiff(page: TiffPage, file: BinaryIO) -> NDArray[np.uint8]:
    """Decode to 8-bit RGB by libtiff: YCbCr, which tifffile does not convert, and faxes, where tifffile loses lines."""
    import imagecodecs

    if page.bitspersample not in (1, 8):
        raise _Refused(f"colours of the kind {_named(page.photometric)} in {page.bitspersample} bits")
    file.seek(0)
    try:
        converted: NDArray[np.uint8] = imagecodecs.tiff_decode(file.read(), index=0, asrgb=True)
    except imagecodecs.TiffError as error:
        raise _Refused(f"colours of the kind {_named(page.photometric)} (libtiff: {error})") from error
    # libtiff has already mirrored the picture by its orientation, but not turned it.
    orientation = page.tags.valueof(ORIENTATION, 1)
    if orientation in (3, 4, 7, 8):
        converted = converted[::-1]
    if orientation in (2, 3, 6, 7):
        converted = converted[:, ::-1]
    return converted[..., :3]
