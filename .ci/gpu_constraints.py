"""Prints constraints.txt without what this environment sees already, so that pip keeps, say, the system's torch.

    python .ci/gpu_constraints.py

Each package that is kept in another version than the pinned one is named on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def kept(lines: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Each line, with the version that is there already, or None."""
    for line in lines:
        name, pinned, _ = line.partition("==")
        try:
            yield line, version(name.strip()) if pinned else None
        except PackageNotFoundError:
            yield line, None


def main() -> None:
    """Print the lines."""
    path = Path(__file__).resolve().parents[1] / "constraints.txt"
    for line, present in kept(path.read_text(encoding="utf-8").splitlines()):
        if present is None:
            print(line)
        elif line.partition("==")[2].split()[0] != present:
            print(f"kept: {line.partition('==')[0]} {present}, pinned is {line.partition('==')[2]}", file=sys.stderr)


if __name__ == "__main__":
    main()
