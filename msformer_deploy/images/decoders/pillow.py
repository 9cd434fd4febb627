"""Pictures that Pillow decodes: 8-bit files of most formats, and images that a caller opened with Pillow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from ...errors import ImageError
from ...machine.forks import lock_across_forks
from .. import quiet
from . import stored
from .orientation import orientation_of, turned
from .stored import Stored

_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")

_LOCK = lock_across_forks()


@contextmanager
def silent() -> Iterator[None]:
    """Lock Pillow for one thread and silence its warnings: its size limit is a setting of the process."""
    with _LOCK, quiet.warnings_of(r"PIL\.", "ignore"):
        yield


@contextmanager
def opened(file: BinaryIO, kind: str, name: str) -> Iterator[ImageFile.ImageFile]:
    """Open a file by its header, silently.

    Args:
        file: at its beginning.
        kind: Pillow's name of the format.
        name: name of the file in messages.

    Raises:
        ImageError: the header states a size beyond the limit.
    """
    with silent():
        # Pillow's own limit gives no size in its message. It is needed for a GIF, which Pillow prepares while it opens
        # it. Pillow refuses pictures of more than twice its limit.
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
    """Decode a file; arguments and errors as in :func:`opened`."""
    if kind == "GIF":
        width, height = struct.unpack("<HH", file.read(10)[6:])
        stored.check_limit(width, height, name)
        file.seek(0)
    with opened(file, kind, name) as image:
        return decoded(image)


def deep_file(image: Image.Image) -> BinaryIO | None:
    """The file of an unread image in 16-bit colours; Pillow would read its upper 8 bits or noise. None for others."""
    if not isinstance(image, ImageFile.ImageFile) or image.mode.startswith(("I", "F")) or image.tell():
        return None
    file: BinaryIO | None = getattr(image, "fp", None)
    bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (8,))  # of TIFF
    deep = max(bits) > 8 or any(";16" in str(part) for tile in image.tile for part in tile[3:])
    return file if deep and file is not None and not file.closed else None


def decoded(image: Image.Image, notes: tuple[str, ...] = ()) -> Stored:
    """Decode an image of any mode.

    Args:
        image: an image of Pillow; the caller has silenced Pillow's warnings.
        notes: remarks on it so far.
    """
    # Before decoding, because Pillow then forgets how the image was stored.
    notes = (*notes, *stored.only_first(getattr(image, "n_frames", 1)))
    transparent = image.has_transparency_data
    lossy = image.format in _LOSSY
    values, places, alpha = _values(image)
    orientation, remarks = orientation_of(image)
    notes = (*notes, *((stored.DROPPED_ALPHA,) if transparent else ()), *remarks)
    return turned(Stored(values, notes, places=places, alpha=alpha, lossy=lossy), orientation)


def _values(image: Image.Image) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Pixels, indices into the palette, and alpha."""
    mode = image.mode
    if mode in ("1", "L", "RGB") or mode.startswith(("I", "F")):
        return np.array(image), None, None
    if mode in ("P", "PA"):
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        colours = np.concatenate([colours, np.zeros((256 - len(colours), 3), np.uint8)])
        pixels = np.array(image)
        places = pixels if mode == "P" else pixels[..., 0]
        return colours[places], places, None if mode == "P" else pixels[..., 1]
    if mode in ("La", "RGBa"):  # colours are multiplied by alpha
        image = image.convert(mode.upper())
    if image.mode in ("LA", "RGBA"):
        pixels = np.array(image)
        return (pixels[..., 0] if image.mode == "LA" else pixels[..., :3]), None, pixels[..., -1]
    return np.array(image.convert("RGB")), None, None
