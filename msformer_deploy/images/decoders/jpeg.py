"""JPEG files (ITU-T T.81) of 8, 12 and 16 bits, lossy or lossless, also with damaged metadata.

Pillow reads 8 bits, and refuses files with damaged metadata, so it only gets the segments that decide the colours.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

from PIL import Image

from ...errors import ImageError
from . import pillow, stored
from .orientation import UNREADABLE, orientation_of, turned
from .stored import Stored

_SCAN, _COMMENT, _LS = 0xDA, 0xFE, 0xF7
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
_FRAMES = tuple(marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC))
_LOSSLESS = 0xC3
_REFUSED = {_LS: "JPEG-LS"} | dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical")
_APPLICATION = range(0xE0, 0xF0)

_Segment = tuple[int, bytes]  # marker, and content without marker and length


def read(file: BinaryIO, name: str) -> Stored:
    """Decode a file.

    Raises:
        ImageError: the header states a size beyond the limit, or the kind of JPEG is not supported.
    """
    content = file.read()
    segments, scan = _segments(content)
    kind, depth, height, width, channels = _frame(segments)
    stored.check_limit(width, height, name)
    if kind in _REFUSED:
        raise ImageError(f"{name}: {_REFUSED[kind]} compression is not supported in JPEG files; export it as PNG")
    if depth > 8 and channels not in (1, 3):
        raise ImageError(f"{name}: {channels} channels of {depth} bits are not supported in JPEG files; export as PNG")
    orientation, notes = _metadata(segments)
    if depth <= 8:
        kept = b"".join(_packed(each) for each in segments if _decides_colours(each))
        found = pillow.read(io.BytesIO(b"\xff\xd8" + kept + content[scan:]), "JPEG", name)
        return replace(turned(found, orientation), notes=(*notes, *found.notes))
    import imagecodecs

    if content.find(b"\xff\xd9", scan) < 0:  # the decoder would fill missing parts with grey
        raise ValueError("its end is missing")
    values = imagecodecs.jpeg8_decode(content)
    return turned(Stored(values, notes, lossy=kind != _LOSSLESS), orientation)


def stated_shape(content: bytes) -> tuple[int, int, int]:
    """Rows, columns and channels that the header of a JPEG or JPEG-LS stream states.

    Raises:
        ValueError: it has no header.
    """
    _, _, height, width, channels = _frame(_segments(content)[0])
    return height, width, channels


def _frame(segments: Sequence[_Segment]) -> tuple[int, int, int, int, int]:
    """Marker, bits, rows, columns and channels of the first frame."""
    frames = [each for each in segments if each[0] in (*_FRAMES, _LS)]
    if not frames or len(frames[0][1]) < 6:
        raise ValueError("the header is missing")
    depth, height, width, channels = struct.unpack(">BHHB", frames[0][1][:6])
    return frames[0][0], depth, height, width, channels


def _segments(content: bytes) -> tuple[list[_Segment], int]:
    """The segments before the picture's data, and the position of these data."""
    found: list[_Segment] = []
    place = 2
    while True:
        place = content.find(b"\xff", place)
        if place < 0 or place + 4 > len(content):
            return found, len(content)
        marker = content[place + 1]
        if marker == _SCAN:
            return found, place
        if marker in (0x00, 0xFF, *_ALONE):  # stuffing, fill
            place += 1
            continue
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        found.append((marker, content[place + 4 : place + 2 + length]))
        place += 2 + max(length, 2)


def _packed(segment: _Segment) -> bytes:
    marker, content = segment
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _decides_colours(segment: _Segment) -> bool:
    """Whether the decoder needs a segment: all except metadata; JFIF and Adobe's transform are needed."""
    marker, content = segment
    if marker == 0xE0:
        return content.startswith(b"JFIF\0") and len(content) >= 14
    if marker == 0xEE:
        return content.startswith(b"Adobe") and len(content) >= 12
    return marker not in (*_APPLICATION, _COMMENT)


def _metadata(segments: Sequence[_Segment]) -> tuple[int, tuple[str, ...]]:
    """Orientation and remarks, read from a picture of one pixel with the metadata of the file."""
    exif = [_packed(each) for each in segments if each[0] == 0xE1]
    pictures = [_packed(each) for each in segments if each[0] == 0xE2 and each[1].startswith(b"MPF\0")]
    if not exif and not pictures:
        return 1, ()
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "JPEG")
    for kept in ([*exif, *pictures], exif):  # a damaged list of pictures must not hide the orientation
        content = b"\xff\xd8" + b"".join(kept) + pixel.getvalue()[2:]
        try:
            with pillow.opened(io.BytesIO(content), "JPEG", "") as image:
                orientation, notes = orientation_of(image)
                return orientation, (*stored.only_first(getattr(image, "n_frames", 1)), *notes)
        except Exception:
            continue
    return 1, (UNREADABLE,)
