"""Files and folders that survive a loss of power: what these functions have done is on the disk when they return."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file. Its name is safe only after :func:`sync_folder` or :func:`rename`.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def rename(path: Path, to: Path) -> Path:
    """Move a file or folder within one file system, and return its new path.

    Raises:
        OSError: it cannot be moved.
    """
    os.rename(path, to)
    sync_folder(to.parent)
    if path.parent != to.parent:
        sync_folder(path.parent)
    return to


def make_folder(path: Path) -> None:
    """Make a folder for its owner alone, where there is none.

    Raises:
        OSError: it cannot be made.
    """
    if not path.is_dir():
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Bring the content of a file that somebody wrote to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk. Windows has no call for it, and keeps them in its journal."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
