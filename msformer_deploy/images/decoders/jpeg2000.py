"""JPEG 2000 files and code streams (ITU-T T.800). Pillow reads up to 8 bits, and scales deeper pictures wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from PIL import UnidentifiedImageError

from ...errors import ImageError
from . import pillow, stored
from .stored import Stored

_SIZE = b"\xff\x4f\xff\x51"  # start of the code stream, and its size (A.5.1)
_DEPTHS_AT = 42
_BYTES = 8  # memory that the decoders need per value


def read(file: BinaryIO, name: str) -> Stored:
    """Decode a file.

    Raises:
        ImageError: the header states a size beyond the limit, or the channels are not grey or RGB.
    """
    content = file.read()
    file.seek(0)
    start, height, width, channels = stated_shape(content)
    for _, rows, columns, values in _code_streams(content):  # which of them a decoder takes is not known
        stored.check_limit(columns, rows, name, values)
    header = content[start + _DEPTHS_AT : start + _DEPTHS_AT + 3 * channels : 3]
    depth = max((byte & 127) + 1 for byte in header)
    with stored.in_memory(_BYTES * width * height * channels):
        return _decoded(file, name, content[start:] if depth <= 8 else content, depth, channels)


def stated_shape(content: bytes) -> tuple[int, int, int, int]:
    """Where the code stream starts, and the rows, columns and channels that it states.

    Raises:
        ValueError: there is none.
    """
    found = next(_code_streams(content), None)
    if found is None:
        raise ValueError("no picture in it")
    return found


def _code_streams(content: bytes) -> Iterator[tuple[int, int, int, int]]:
    """What may be a code stream: its start, rows, columns and channels."""
    start = content.find(_SIZE)
    while start >= 0:
        channels = int.from_bytes(content[start + _DEPTHS_AT - 2 : start + _DEPTHS_AT], "big")
        if int.from_bytes(content[start + 4 : start + 6], "big") == 38 + 3 * channels:  # length of the segment
            corners = (int.from_bytes(content[start + at : start + at + 4], "big") for at in (8, 12, 16, 20))
            right, bottom, left, top = corners
            yield start, max(bottom - top, 0), max(right - left, 0), channels
        start = content.find(_SIZE, start + 1)


def _decoded(file: BinaryIO, name: str, content: bytes, depth: int, channels: int) -> Stored:
    """Decode a picture: up to 8 bits from ``file``, or from its code stream ``content``; more bits from ``content``."""
    if depth <= 8:
        # If the boxes around the code stream are damaged, the code stream may still be readable.
        with suppress(UnidentifiedImageError), pillow.opened(file, "JPEG2000", name) as image:
            return pillow.decoded(image)
    if channels > 4:
        raise ImageError(f"{name}: {channels} channels are not supported in JPEG 2000 files; save only grey or RGB")
    import imagecodecs

    values = imagecodecs.jpeg2k_decode(content)
    if channels in (1, 3):
        return Stored(values)
    return Stored(values[..., 0] if channels == 2 else values[..., :3], (stored.DROPPED_ALPHA,), alpha=values[..., -1])
