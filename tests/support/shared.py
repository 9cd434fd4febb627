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

    folder = folder_of_the_run(factory)
    path = folder / name
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            make(path)
    return path


def folder_of_the_run(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all processes of a run share."""
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # below it each process has one of its own
