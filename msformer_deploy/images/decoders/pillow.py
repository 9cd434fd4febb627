"""Pictures that Pillow decodes: 8-bit files of most formats, and images that were opened with it."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from ...errors import ImageError
from ...machine.forks import lock_across_forks
from . import stored
from .orientation import orientation_of, turned
from .stored import Stored

_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")

_LOCK = lock_across_forks()


@contextmanager
def silent() -> Iterator[None]:
    """Hold Pillow for one thread, without its warnings: filters and size limit are settings of the whole process."""
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # and no others: threads that compute may warn meanwhile
        yield


@contextmanager
def opened(file: BinaryIO, kind: str, name: str) -> Iterator[ImageFile.ImageFile]:
    """Open a file by its header, silently.

    Args:
        file: at its beginning.
        kind: Pillow's name of the format.
        name: what messages call it.

    Raises:
        ImageError: the header states a size beyond the limit.
    """
    with silent():
        # Pillow's own guard names no size. But it prepares a GIF as it opens it; it refuses twice what it is told.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, stored.MAX_PIXELS // 2 if kind == "GIF" else None
        try:
            image = Image.open(file, formats=(kind,))
        except Image.DecompressionBombError as error:
            raise ImageError(f"{name}: is over the limit of {stored.LIMIT}; resize it first") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        with image:
            stored.check_limit(image.width, image.height, name)
            yield image


def read(file: BinaryIO, kind: str, name: str) -> Stored:
    """Decode a file; arguments and errors are those of ``opened``."""
    if kind == "GIF":
        width, height = struct.unpack("<HH", file.read(10)[6:])
        stored.check_limit(width, height, name)
        file.seek(0)
    with opened(file, kind, name) as image:
        return decoded(image)


def deep_file(image: Image.Image) -> BinaryIO | None:
    """The file of an image in colours of 16 bits that was not read yet: Pillow would take the upper 8, or noise."""
    if not isinstance(image, ImageFile.ImageFile) or image.mode.startswith(("I", "F")) or image.tell():
        return None
    file: BinaryIO | None = getattr(image, "fp", None)
    bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (8,))  # of TIFF
    deep = max(bits) > 8 or any(";16" in str(part) for tile in image.tile for part in tile[3:])
    return file if deep and file is not None and not file.closed else None


def decoded(image: Image.Image, notes: tuple[str, ...] = ()) -> Stored:
    """Decode an image of any mode.

    Args:
        image: opened or made with Pillow, whose warnings are silenced.
        notes: remarks on it so far.
    """
    # In this order: decoding forgets how an image was stored.
    notes = (*notes, *stored.only_first(getattr(image, "n_frames", 1)))
    transparent = image.has_transparency_data
    lossy = image.format in _LOSSY
    values, places, alpha = _values(image)
    orientation, remarks = orientation_of(image)
    notes = (*notes, *((stored.DROPPED_ALPHA,) if transparent else ()), *remarks)
    return turned(Stored(values, notes, places=places, alpha=alpha, lossy=lossy), orientation)


def _values(image: Image.Image) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Pixels, places in the palette and transparency."""
    mode = image.mode
    if mode in ("1", "L", "RGB") or mode.startswith(("I", "F")):
        return np.array(image), None, None
    if mode in ("P", "PA"):
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        colours = np.concatenate([colours, np.zeros((256 - len(colours), 3), np.uint8)])
        pixels = np.array(image)
        places = pixels if mode == "P" else pixels[..., 0]
        return colours[places], places, None if mode == "P" else pixels[..., 1]
    if mode in ("La", "RGBa"):  # multiplied by their transparency
        image = image.convert(mode.upper())
    if image.mode in ("LA", "RGBA"):
        pixels = np.array(image)
        return (pixels[..., 0] if image.mode == "LA" else pixels[..., :3]), None, pixels[..., -1]
    return np.array(image.convert("RGB")), None, None
