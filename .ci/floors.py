"""Prints the lowest version that pyproject.toml allows of each direct dependency, as requirements for pip.

    python .ci/floors.py

Of the extras those that install anywhere, and of [dev] what runs the tests.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXTRAS = ("cpu", "openvino", "plot", "evaluate", "train")
RUNS_TESTS = "pytest"  # and its plugins, by the beginning of the name


def floors(project: Mapping[str, Any]) -> list[str]:
    """``name==version`` of each dependency.

    Args:
        project: table ``project`` of pyproject.toml.

    Raises:
        ValueError: a dependency is not of the form ``name>=version``.
    """
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for extra in EXTRAS for each in extras[extra])]
    wanted += [each for each in extras["dev"] if each.startswith(RUNS_TESTS)]
    found = []
    for each in wanted:
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)", each)
        if match is None:
            raise ValueError(f"pyproject.toml: the dependency {each!r} has no lowest version; write name>=version")
        found.append("==".join(match.groups()))
    return found


if __name__ == "__main__":
    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    try:
        print("\n".join(floors(tomllib.loads(path.read_text(encoding="utf-8"))["project"])))
    except ValueError as error:
        sys.exit(f"error: {error}")
