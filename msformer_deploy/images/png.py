"""PNG files (W3C Portable Network Graphics, third edition), read whatever their metadata is like.

Pixels are in a few kinds of chunks. Only these are handed to a decoder, so that a profile or a text that is damaged or
beyond a decoder's limits does not keep an image from being read.
"""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import BinaryIO

from PIL import Image

from . import pillow, stored
from .orientation import UNREADABLE, orientation_of, turned
from .stored import Stored

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_END = b"\0\0\0\0IEND\xaeB`\x82"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may hold an orientation
_ALPHA = 4  # bit of the colour type


def read(file: BinaryIO, name: str) -> Stored:
    """Decode a file.

    Raises:
        ImageError: the header states a size beyond the limit.
    """
    content = memoryview(file.read())
    chunks = _chunks(content)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) < 25:
        raise ValueError("the header is missing")
    width, height, depth, colour = struct.unpack(">IIBB", chunks[0][1][8:18])
    stored.check_limit(width, height, name)
    notes = stored.only_first(_frames(chunks))
    orientation, remarks = _orientation(chunks)
    deep = depth == 16
    kept = (chunk for kind, chunk in chunks if kind in _PIXELS and not (deep and kind == b"tRNS"))
    pixels = SIGNATURE + b"".join([*kept, _END])  # the file's own may be cut off
    if not deep:
        with pillow.opened(io.BytesIO(pixels), "PNG", name) as image:
            found = pillow.decoded(image, notes)
        return replace(turned(found, orientation), notes=(*found.notes, *remarks))
    import imagecodecs

    values = imagecodecs.png_decode(pixels)  # Pillow reads deep colour at its upper byte
    transparent = bool(colour & _ALPHA) or any(kind == b"tRNS" for kind, _ in chunks)
    notes = (*notes, *((stored.CROPPED_ALPHA,) if transparent else ()), *remarks)
    if not colour & _ALPHA:
        return turned(Stored(values, notes), orientation)
    colours = values[..., 0] if values.shape[2] == 2 else values[..., :3]
    return turned(Stored(colours, notes, alpha=values[..., -1]), orientation)


def _chunks(content: memoryview) -> list[tuple[bytes, memoryview]]:
    """Kind and bytes of every chunk, length and checksum included."""
    found = []
    place = len(SIGNATURE)
    while place + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        found.append((kind, content[place : place + 12 + length]))
        place += 12 + length
        if kind == b"IEND":
            break
    return found


def _frames(chunks: list[tuple[bytes, memoryview]]) -> int:
    """How many pictures an animation has: its frames, and the picture before them where that is not one of them."""
    kinds = [kind for kind, _ in chunks]
    if b"acTL" not in kinds or b"IDAT" not in kinds:
        return 1
    control = chunks[kinds.index(b"acTL")][1]
    frames = int.from_bytes(control[8:12], "big")
    return frames + (b"fcTL" not in kinds[: kinds.index(b"IDAT")])


def _orientation(chunks: list[tuple[bytes, memoryview]]) -> tuple[int, tuple[str, ...]]:
    """Read the orientation from a picture of one pixel that has the file's metadata and nothing else."""
    kept = [
        chunk
        for kind, chunk in chunks
        if kind == b"eXIf" or (kind in _TEXTS and bytes(chunk[8:40]).startswith(_ORIENTED))
    ]
    if not kept:
        return 1, ()
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "PNG")
    first, *others = _chunks(memoryview(pixel.getvalue()))
    content = SIGNATURE + b"".join([first[1], *kept, *(chunk for _, chunk in others)])
    try:
        with pillow.opened(io.BytesIO(content), "PNG", "") as image:
            image.load()  # texts may come after the pixels
            return orientation_of(image)
    except Exception:  # too large, or damaged in whatever way
        return 1, (UNREADABLE,)
