"""Pictures whose turns and flips all differ, deep ones, and PNG and TIFF files by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile

ROWS, COLUMNS = np.mgrid[:24, :32]
RGB = np.stack([ROWS * 10, COLUMNS * 8, (ROWS + COLUMNS) * 4], axis=2).astype(np.uint8)
GREY = np.ascontiguousarray(RGB[..., 2])
ALPHA = np.ascontiguousarray(GREY[::-1])

UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: np.rot90(pixels),
}


def deep(pixels: np.ndarray, bits: int) -> np.ndarray:
    """The picture in so many bits."""
    return np.round(pixels / 255 * (2**bits - 1)).astype(np.uint16)


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    """A TIFF file."""
    stored = io.BytesIO()
    tifffile.imwrite(stored, pixels, **options)
    return stored.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: np.ndarray, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG file of 8 or 16 bits, (H, W) or (H, W, C), with chunks before and after its pixels."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before + data + after + png_chunk(b"IEND", b"")
