"""Which packages are installed, and whether they are in each other's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.machine.versions import installed_versions, overwrite_each_other


def put(folder: Path, name: str) -> None:
    (folder / f"{name}-1.0.dist-info").mkdir(parents=True)
    (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


@pytest.mark.parametrize(
    ("places", "expected"),
    [({"one": "a", "two": "a"}, True), ({"one": "a", "two": "b"}, False), ({"one": "a"}, False), ({}, False)],
    ids=["one folder", "two folders", "one package", "none"],
)
def test_packages_in_one_folder(monkeypatch: Any, tmp_path: Path, places: dict[str, str], expected: bool) -> None:
    """An environment that sees the system's packages has two folders, and nothing of the system's is overwritten."""
    for name, folder in places.items():
        put(tmp_path / folder, f"testing_{name}")
        monkeypatch.syspath_prepend(tmp_path / folder)
    assert overwrite_each_other(("testing_one", "testing_two")) is expected


def test_versions_of_what_is_here() -> None:
    found = installed_versions(["numpy", "no-such-package"])
    assert found.keys() == {"python", "numpy"}
