"""One image in a new process: what the script measures, and how it fails."""

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
    return scripts.load("cold_start")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_rows_have_times_and_memory(
    script: ModuleType, tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    monkeypatch.setattr(script, "RUNTIMES", ("onnxruntime", "absent_runtime"))
    report = tmp_path / "x.json"
    given = [tmp_path / "a.png", "--repeats", 1, "--json", report]
    monkeypatch.setattr(sys, "argv", ["cold_start.py", *map(str, given)])
    assert script.main() == 0
    rows = json.loads(report.read_text())["rows"]
    assert list(rows) == ["imports only", "onnxruntime, first", "onnxruntime, again"]
    assert all(row["lowest_s"] <= row["median_s"] <= row["highest_s"] for row in rows.values())
    assert rows["onnxruntime, again"]["median_s"] > rows["imports only"]["median_s"]
    assert all(row["peak_mb"] > 10 for row in rows.values())


def test_a_command_that_fails_is_one_line(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cold_start.py", str(tmp_path / "absent.png"), "--repeats", "1"])
    assert script.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "exit code 5" in line
    assert "absent.png" in line
