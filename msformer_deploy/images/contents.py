"""The content of an input as one hash. It says whether an input has changed, whatever its name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import ImageError, printable, why_unread
from .inputs import Item

_BLOCK = 1 << 20


def content_sha256(item: Item) -> str:
    """SHA-256 of the file of an item, in hexadecimal digits, as ``sha256sum`` prints it.

    An item of several files has the SHA-256 of the sorted digests of its files, with a line end behind each: a DICOM
    series, and a volume whose header names the file of its voxels.

    Raises:
        ImageError: a file cannot be read.
    """
    files = item.files or _files_of(item)
    digests = sorted(map(_sha256, files))
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def stamps(item: Item) -> list[tuple[int, int] | None]:
    """Size and time of change of each file of an item; None for one that is not there.

    If they are the same before and after a reading, all that was read is of one content.
    """
    found: list[tuple[int, int] | None] = []
    for path in item.files or (item.path,):
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_size, status.st_mtime_ns))
    return found


def _files_of(item: Item) -> tuple[Path, ...]:
    if item.kind == "volume":
        from .volumes.read import files_of

        return files_of(item.path)
    return (item.path,)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ImageError(f"{printable(path)}: {why_unread(error)}") from error
    return digest.hexdigest()
