"""The bytes of voxels: mapped or unpacked, never more of them than the header describes; and packed again.

No message here or in the parsers has text from a header: it may name a patient.
"""

from __future__ import annotations

import bz2
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import DeployError, ImageError, printable, why_unread

Packing = Literal["gzip", "zlib", "bzip2"]

_CHUNK = 1 << 20
_MAX_RATIO = 1032  # of deflate: 258 bytes from 2 bits
_WINDOW = {"gzip": 31, "zlib": 15}  # zlib's codes for the two containers
# Label maps are nearly constant. One of 300 x 512 x 512 takes 0.2 s and 1.2 MB at level 3, and 1.1 s and 0.8 MB at
# zlib's own level 6.
_LEVEL = 3


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file of voxels to read, and name it for messages; whatever goes wrong with it becomes one line.

    Raises:
        ImageError: it is no regular file, cannot be read, is damaged, or changes while it is read.
    """
    name = printable(path)
    try:
        _check_regular(path, name)
        with path.open("rb") as file, np.errstate(all="ignore"):  # numbers of damaged headers overflow
            before = os.fstat(file.fileno())
            yield file, name
            after = os.fstat(file.fileno())
    except DeployError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: {_explain(error)}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ImageError(f"{name}: changed while it was read; wait until it is complete")


def _check_regular(path: Path, name: str) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(f"{name}: is a folder, not a volume; name the files in it")
    if not stat.S_ISREG(mode):
        raise ImageError(f"{name}: is not a regular file; copy the volume to one first")


def _explain(error: Exception) -> str:
    match error:
        case MemoryError():
            return "not enough memory for its voxels; crop it or lower its resolution first"
        case zlib.error() | EOFError() | OSError(errno=None):
            return "its compressed data is damaged or cut short; copy or write it again"
        case OSError(errno=int(), strerror=str()):
            return why_unread(error)
    return "its header is damaged; write it again with the program that it comes from"


class Unpacked:
    """Unpacked bytes of a file, from front to back, without more than a chunk of them in memory."""

    def __init__(self, file: BinaryIO, packing: Packing) -> None:
        self._chunks = _unpack(file, packing)
        self._rest = memoryview(b"")

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes; fewer at the end."""
        found = bytearray()
        while len(found) < count and self._more():
            found += self._take(count - len(found))
        return bytes(found)

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        while count > 0 and self._more():
            count -= len(self._take(count))

    def fill(self, buffer: NDArray[np.uint8]) -> int:
        """Write the next bytes into a buffer; returns how many there were."""
        filled = 0
        while filled < buffer.size and self._more():
            taken = self._take(buffer.size - filled)
            buffer[filled : filled + len(taken)] = taken
            filled += len(taken)
        return filled

    def at_end(self) -> bool:
        """Whether nothing is left; checksums are verified then."""
        return not self._more()

    def _more(self) -> bool:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._rest = memoryview(chunk)
        return True

    def _take(self, count: int) -> memoryview:
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


def _unpack(file: BinaryIO, packing: Packing) -> Iterator[bytes]:
    """Chunks of unpacked bytes; files may be several compressed parts, one after the other.

    Raises:
        zlib.error, OSError, EOFError: damaged, or cut short.
    """
    if packing == "bzip2":
        with bz2.open(file) as unpacked:
            while chunk := unpacked.read(_CHUNK):
                yield chunk
        return
    parts, packed = 0, file.read(_CHUNK)
    while packed:
        if parts and packing == "gzip" and packed[:2] != b"\x1f\x8b":  # zeros that pad the file, as gzip has it
            return
        inflate = zlib.decompressobj(_WINDOW[packing])
        while not inflate.eof:
            chunk = inflate.decompress(packed, _CHUNK)
            if not (chunk or packed or inflate.eof):
                raise EOFError
            yield chunk
            packed = inflate.unconsumed_tail or inflate.unused_data or file.read(_CHUNK)
        if packing == "zlib":
            return
        parts += 1


def read_voxels(
    file: BinaryIO, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], skip: int, packing: Packing | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The voxels of a file: mapped read-only if they are not packed, else in memory.

    Args:
        file: positioned at the start of the data.
        name: what messages call it.
        shape: of the array in C order, all at least 1.
        dtype: with the byte order of the file.
        skip: bytes of the data, unpacked, before the first voxel; -1 if the voxels are the last bytes of the file.
        packing: how the data is compressed; None for not at all.

    Returns:
        the array, and notes.

    Raises:
        ImageError: the file has fewer voxels than that.
        MemoryError, OSError, zlib.error, EOFError: for :func:`opened`.
    """
    needed = dtype.itemsize
    for side in shape:
        needed *= side
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    short = ImageError(
        f"{name}: its header describes {needed} bytes of voxels, and the file has fewer; it is cut short, or still"
        " being written"
    )
    if packing is None:
        start = size - needed if skip < 0 else start + skip
        if start < 0 or start + needed > size:
            raise short
        voxels = np.asarray(np.memmap(file, dtype, "r", start, shape))
        return voxels, _rest(start + needed < size)
    if packing != "bzip2" and skip + needed > _MAX_RATIO * (size - start):
        raise short
    if needed > sys.maxsize:
        raise MemoryError
    stream = Unpacked(file, packing)
    stream.skip(skip)
    buffer = np.empty(needed, np.uint8)
    if stream.fill(buffer) < needed:
        raise short
    return buffer.view(dtype).reshape(shape), _rest(not stream.at_end())


def _rest(more: bool) -> tuple[str, ...]:
    return ("the file goes on after the voxels that its header describes; the rest is not used",) if more else ()


def packed(parts: Iterator[bytes], packing: Literal["gzip", "zlib"]) -> Iterator[bytes]:
    """Compress bytes. Equal bytes give equal results: the container has neither a time nor a name."""
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[packing])
    for part in parts:
        yield deflate.compress(part)
    yield deflate.flush()


def slices_of(array: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The bytes of an array, slice by slice, because a turned array would be copied as a whole."""
    for each in array:
        yield np.ascontiguousarray(each, dtype).tobytes()
