"""Files that a command writes at its end: seen to before the work, written whole after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import DeployError, UsageError


def check_files(paths: Sequence[Path], force: bool) -> None:
    """See that files can be written before anything is measured.

    Raises:
        UsageError: one is named twice, exists without ``force``, is a folder, or is in one that is missing or closed.
    """
    from ..errors import printable

    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise UsageError(f"{printable(path)}: two options name this file; choose two names")
        if path.is_dir() or not path.parent.is_dir():
            why = "is a folder" if path.is_dir() else "its folder does not exist"
            raise UsageError(f"{printable(path)}: {why}; choose another name")
        if os.path.lexists(path) and not force:
            raise UsageError(f"{printable(path)}: exists already; pass --force to replace it")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UsageError(f"{printable(path.parent)}: is not writable; choose another folder")


def write_files(writers: dict[Path, Callable[[Path], None]]) -> None:
    """Call each writer with its path.

    Raises:
        DeployError: a file cannot be written.
    """
    from ..errors import printable

    for path, write in writers.items():
        try:
            write(path)
        except OSError as error:
            raise DeployError(
                f"{printable(path)}: cannot be written ({error.strerror}); make room, try again"
            ) from error
