"""What takes seconds to make and is only read: made once in a run, whichever of its processes asks for it first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A file or folder of the run.

    Args:
        factory: pytest's.
        name: of the path, the same wherever the same is made.
        make: makes it at the path that it is given, whole or not at all.
    """
    from filelock import FileLock

    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the run's; below it each process has one of its own
    path = folder / name
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            make(path)
    return path
