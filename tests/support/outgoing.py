"""Runs a Python process with an empty home folder, and finds what it leaves there, whom it would call, whom it lets in.

Calls are seen by ``outgoing.cpp``, preloaded into the process and all that it starts. They are refused: a test sends
nothing even where it fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).with_suffix(".cpp")
# On Linux a missing compiler is a failure: neither a developer's machine nor CI may lose these tests unnoticed.
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="outgoing calls are watched on Linux only")


class Traces(NamedTuple):
    """What a process left: files and empty folders by their path below its home folder, and outgoing calls."""

    left: list[str]
    calls: list[str]
    output: str


def build(folder: Path) -> Path:
    """Compile the watch into a folder."""
    compiler = shutil.which("g++")
    assert compiler, "outgoing calls cannot be watched: g++ is not installed"
    library = folder / "outgoing.so"
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, str(SOURCE), "-o", str(library), "-ldl"], check=True)
    return library


def watched(watch: Path, folder: Path, *arguments: str | Path) -> Traces:
    """Run Python with an empty environment, home, temporary and current folder; raise if it fails.

    Args:
        watch: of :func:`build`.
        folder: empty; the three folders are made in it.
        arguments: of Python.
    """
    home = folder / "home"
    places = {"HOME": home, "TMPDIR": home / "temporary"}
    current = home / "current"
    for place in (*places.values(), current):
        place.mkdir(parents=True)
    log = folder / "outgoing.log"
    environment = {name: str(place) for name, place in places.items()}
    # Nothing else is inherited. With CI=true the runtimes would be silent by themselves.
    environment |= {"PATH": os.environ["PATH"], "LD_PRELOAD": str(watch), "OUTGOING_LOG": str(log)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=current, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    left = [path for path in home.rglob("*") if path not in (*places.values(), current)]
    return Traces(
        sorted(path.relative_to(home).as_posix() for path in left if not (path.is_dir() and any(path.iterdir()))),
        log.read_text(encoding="utf-8").splitlines() if log.exists() else [],
        done.stdout,
    )
