"""Prints the lowest version that pyproject.toml allows of each direct dependency, as requirements for pip.

    python .ci/floors.py

Of the extras those that install anywhere, and of [dev] what runs the tests.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

EXTRAS = ("cpu", "openvino", "plot", "evaluate", "export", "train", "dicom", "volumes", "serve", "listen")
RUNS_TESTS = "pytest"  # and its plugins, by the beginning of the name
FLOOR = re.compile(r"(?P<name>[\w.-]+)>=(?P<version>[\w.]+)(?:; python_version (?P<sense><|>=) '3\.(?P<minor>\d+)')?")
OWN = re.compile(r"msformer-deploy\[(?P<extras>[\w,-]+)\]")


def floors(project: Mapping[str, Any], minor: int = sys.version_info.minor) -> list[str]:
    """``name==version`` of each dependency.

    Args:
        project: table ``project`` of pyproject.toml.
        minor: of the Python that installs them, 11 for Python 3.11.

    Raises:
        ValueError: a dependency is not of the form ``name>=version``, with a condition on Python's version or without.
    """
    extras = project["optional-dependencies"]

    def plain(dependencies: Iterable[str]) -> Iterator[str]:
        for each in dependencies:
            if match := OWN.fullmatch(each):
                for extra in match["extras"].split(","):
                    yield from plain(extras[extra])
            else:
                yield each

    wanted = [*project["dependencies"], *plain(each for extra in EXTRAS for each in extras[extra])]
    wanted += [each for each in extras["dev"] if each.startswith(RUNS_TESTS)]
    found = {}
    for each in wanted:
        match = FLOOR.fullmatch(each)
        if match is None:
            raise ValueError(f"pyproject.toml: the dependency {each!r} has no lowest version; write name>=version")
        if match["sense"] is None or (minor < int(match["minor"])) == (match["sense"] == "<"):
            found[f"{match['name']}=={match['version']}"] = None
    return list(found)


if __name__ == "__main__":
    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    try:
        print("\n".join(floors(tomllib.loads(path.read_text(encoding="utf-8"))["project"])))
    except ValueError as error:
        sys.exit(f"error: {error}")
