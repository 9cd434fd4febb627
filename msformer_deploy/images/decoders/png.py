"""PNG files (W3C Portable Network Graphics, third edition), also with damaged metadata.

Only the chunks that hold pixels are passed to a decoder. So an image can be read even if a profile or a text is damaged
or exceeds a limit of the decoder.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
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
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type, of 16 bits
# For each pass of an interlaced picture: its first row and column, and the steps between rows and columns.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def read(file: BinaryIO, name: str) -> Stored:
    """Decode a file.

    Raises:
        ImageError: the header states a size beyond the limit.
    """
    content = memoryview(file.read())
    chunks = _chunks(content)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 25:
        raise ValueError("the header is missing")
    if zlib.crc32(chunks[0][1][4:21]) != int.from_bytes(chunks[0][1][21:], "big"):
        raise ValueError("the header's checksum is wrong")
    width, height, depth, colour = struct.unpack(">IIBB", chunks[0][1][8:18])
    stored.check_limit(width, height, name)
    notes = stored.only_first(_frames(chunks))
    orientation, remarks = _orientation(chunks)
    if depth != 16:
        kept = (chunk for kind, chunk in chunks if kind in _PIXELS)
        pixels = SIGNATURE + b"".join([*kept, _END])  # the file's own end may be cut off
        with pillow.opened(io.BytesIO(pixels), "PNG", name) as image:
            found = pillow.decoded(image, notes)
        return replace(turned(found, orientation), notes=(*found.notes, *remarks))
    values = _deep(chunks)
    transparent = bool(colour & _ALPHA) or any(kind == b"tRNS" for kind, _ in chunks)
    notes = (*notes, *((stored.DROPPED_ALPHA,) if transparent else ()), *remarks)
    if not colour & _ALPHA:
        return turned(Stored(values, notes), orientation)
    colours = values[..., 0] if values.shape[2] == 2 else values[..., :3]
    return turned(Stored(colours, notes, alpha=values[..., -1]), orientation)


def _deep(chunks: list[tuple[bytes, memoryview]]) -> NDArray[Any]:
    """Pixels of 16 bits; Pillow would read only their upper byte if they have colours or alpha.

    The decoder prints warnings of damage and of interlacing on stderr. So the stream is checked first, and each pass of
    an interlaced picture is decoded as a separate picture.
    """
    import imagecodecs

    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1][8:21])
    channels = _CHANNELS[colour]
    steps = _PASSES if interlaced else ((0, 0, 1, 1),)
    passes = [(range(row, height, down), range(column, width, right)) for row, column, down, right in steps]
    passes = [(rows, columns) for rows, columns in passes if rows and columns]
    sizes = [len(rows) * (1 + 2 * channels * len(columns)) for rows, columns in passes]
    packed = b"".join(bytes(chunk[8:-4]) for kind, chunk in chunks if kind == b"IDAT")
    stream = zlib.decompressobj()
    content = stream.decompress(packed, sum(sizes))
    stream.decompress(stream.unconsumed_tail, 1)  # the checksum after the data
    if len(content) < sum(sizes):
        raise ValueError("its end is missing")
    found = np.empty((height, width, channels), np.uint16)
    start = 0
    for (rows, columns), size in zip(passes, sizes, strict=True):
        header = struct.pack(">IIBBBBB", len(columns), len(rows), depth, colour, 0, 0, 0)
        data = zlib.compress(memoryview(content)[start : start + size], 0)
        part = imagecodecs.png_decode(SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _END)
        found[rows.start :: rows.step, columns.start :: columns.step] = part.reshape(len(rows), len(columns), channels)
        start += size
    return found[..., 0] if channels == 1 else found


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


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
    """Number of pictures in an animation: its frames, and the picture before them if it is not a frame."""
    kinds = [kind for kind, _ in chunks]
    if b"acTL" not in kinds or b"IDAT" not in kinds:
        return 1
    control = chunks[kinds.index(b"acTL")][1]
    frames = int.from_bytes(control[8:12], "big")
    return frames + (b"fcTL" not in kinds[: kinds.index(b"IDAT")])


def _orientation(chunks: list[tuple[bytes, memoryview]]) -> tuple[int, tuple[str, ...]]:
    """Read the orientation from a picture of one pixel with the metadata of the file."""
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
    except Exception:  # too large, or any damage
        return 1, (UNREADABLE,)
