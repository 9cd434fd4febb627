"""WebP files (RFC 9649). Pillow refuses files with damaged metadata, so it only gets the chunks that hold pixels."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import BinaryIO

from PIL import Image

from . import pillow, stored
from .orientation import UNREADABLE, orientation_of, turned
from .stored import Stored

_EXTENDED = b"VP8X"  # size of the canvas, and flags for the kinds of other chunks
_PIXELS = (b"VP8 ", b"VP8L", _EXTENDED, b"ALPH", b"ANIM", b"ANMF")
_METADATA = (b"EXIF", b"XMP ")
_FLAGS = {b"EXIF": 0x08, b"XMP ": 0x04}
_OF_PIXELS = 0x12  # flags of transparency and of an animation

_BYTES = 12  # memory that the decoder needs per pixel

_Chunk = tuple[bytes, bytes]  # kind and content


def read(file: BinaryIO, name: str) -> Stored:
    """Decode a file.

    Raises:
        ImageError: the header states a size beyond the limit.
    """
    chunks = _chunks(file.read())
    pixels = [(kind, content) for kind, content in chunks if kind in _PIXELS]
    if not pixels:
        raise ValueError("no picture in it")
    metadata = [(kind, content) for kind, content in chunks if kind in _METADATA]
    width, height = _size(pixels)
    stored.check_limit(width, height, name)
    with stored.in_memory(_BYTES * width * height):
        found = pillow.read(io.BytesIO(_packed(pixels)), "WEBP", name)
    orientation, notes = _orientation(metadata)
    return replace(turned(found, orientation), notes=(*found.notes, *notes))


def _chunks(content: bytes) -> list[_Chunk]:
    """Kind and content of every chunk; the last one may be cut short."""
    found = []
    place = 12
    while place + 8 <= len(content):
        kind, length = struct.unpack("<4sI", content[place : place + 8])
        found.append((kind, content[place + 8 : place + 8 + length]))
        place += 8 + length + length % 2
    return found


def _size(chunks: list[_Chunk]) -> tuple[int, int]:
    """Width and height in the header of the first chunk: VP8X, VP8L or VP8."""
    kind, content = chunks[0]
    if kind == _EXTENDED:
        return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(content[6:8], "little") & 0x3FFF, int.from_bytes(content[8:10], "little") & 0x3FFF


def _packed(chunks: Iterable[_Chunk]) -> bytes:
    """A file of these chunks; its flags name only kinds of chunks that it holds."""
    body = b"WEBP"
    for kind, content in chunks:
        if kind == _EXTENDED and content:
            content = bytes([content[0] & _OF_PIXELS]) + content[1:]
        body += kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _orientation(metadata: list[_Chunk]) -> tuple[int, tuple[str, ...]]:
    """Read the orientation from a picture of one pixel with the metadata of the file."""
    if not metadata:
        return 1, ()
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "WEBP", lossless=True)
    canvas = bytes([sum(_FLAGS[kind] for kind in {kind for kind, _ in metadata}), *bytes(9)])
    own = [each for each in _chunks(pixel.getvalue()) if each[0] == b"VP8L"]
    body = _packed([*own, *metadata])
    content = body[:12] + _EXTENDED + struct.pack("<I", len(canvas)) + canvas + body[12:]
    content = content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    try:
        with pillow.opened(io.BytesIO(content), "WEBP", "") as image:
            return orientation_of(image)
    except Exception:  # any damage
        return 1, (UNREADABLE,)
