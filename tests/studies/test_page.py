"""Times of the page: what the script counts, and how it fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scripts
from PIL import Image


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return scripts.load("page")


def test_a_row_has_medians_and_the_longest_times(script: ModuleType) -> None:
    seen = {
        "seconds": {"a": {"fromDrop": 1.0}, "b": {"fromDrop": 3.0}, "c": {"fromDrop": 2.0}},
        "milliseconds": {"one": 10, "two": 50, "three": 20},
        "values": {"milliseconds to ready, fast": 1500},
    }
    row = script.row(seen, "fast")
    assert list(row.values()) == [1.5, 2.0, 3.0, 20, 50, seen["milliseconds"]]
    assert script.table({"presets": {"fast": row}}).splitlines()[-1] == "| fast | 1.5 | 2.00 (3.00) | 20 (50) |"


def test_without_chromium_it_is_one_line(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["page.py", str(tmp_path / "a.png")])
    assert script.main() == 1
    assert capsys.readouterr().err == "error: chromium or Node.js is not installed; install both to time the page\n"


@pytest.mark.exhaustive
def test_both_presets_are_timed(
    script: ModuleType, tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script.shutil.which("chromium") is None:
        pytest.skip("Debian's chromium is not installed")
    Image.fromarray(picture).save(tmp_path / "a.png")
    given = [tmp_path / "a.png", "--rounds", 1, "--json", tmp_path / "x.json"]
    monkeypatch.setattr(sys, "argv", ["page.py", *map(str, given)])
    assert script.main() == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert list(found["presets"]) == ["fast", "balanced"]
    assert all(row["longest_milliseconds_of_a_correction"] > 0 for row in found["presets"].values())
