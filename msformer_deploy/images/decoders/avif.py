"""AVIF files (AV1 Image File Format). Pillow reads 10 and 12 bits as 8 bits, and refuses files with damaged EXIF."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import BinaryIO

from ...errors import ImageError
from . import pillow, stored
from .orientation import UNREADABLE, orientation_of, turned
from .stored import Stored

_SIZE = b"ispe"  # box with the size of a picture; version and flags, then width and height, 4 bytes each
_CONFIGURATION = b"av1C"  # box of the coded picture; bit 6 of its third byte says that it is deep


def read(file: BinaryIO, name: str) -> Stored:
    """Decode a file.

    Raises:
        ImageError: the header states a size beyond the limit.
    """
    content = file.read()
    for at in _places(content, _SIZE):
        width, height = (int.from_bytes(content[at + first : at + first + 4], "big") for first in (8, 12))
        stored.check_limit(width, height, name)
    try:
        return _decoded(content, name)
    except ImageError:
        raise
    except Exception:
        # libavif refuses files with damaged EXIF, but skips items of an unknown kind.
        header = content[: content.find(b"mdat") + 1]
        if b"Exif" not in header:
            raise
        found = _decoded(header.replace(b"Exif", b"free") + content[len(header) :], name)
        return replace(found, notes=(*found.notes, UNREADABLE))


def _decoded(content: bytes, name: str) -> Stored:
    deep = any(content[at + 6] & 0x40 for at in _places(content, _CONFIGURATION))
    with pillow.opened(io.BytesIO(content), "AVIF", name) as image:
        if not deep:
            return pillow.decoded(image)
        pages = stored.only_first(getattr(image, "n_frames", 1))
        orientation, notes = orientation_of(image)
    import imagecodecs

    values = imagecodecs.avif_decode(content, index=0)
    alpha = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        alpha, values = values[..., -1], values[..., 0] if values.shape[2] == 2 else values[..., :3]
        notes = (stored.DROPPED_ALPHA, *notes)
    return turned(Stored(values, (*pages, *notes), alpha=alpha, lossy=True), orientation)


def _places(content: bytes, box: bytes) -> list[int]:
    """Positions of the boxes of a kind in the part of the file before the pictures."""
    header = content[: content.find(b"mdat") + 1 or None]
    found = []
    place = header.find(box)
    while 0 <= place <= len(content) - 16:
        found.append(place)
        place = header.find(box, place + 4)
    return found
