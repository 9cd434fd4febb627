"""The picture of scenes: a row for each family, the scene itself untouched above its marks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scripts
from PIL import Image


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("prior_scenes")


def test_a_scene_stands_above_its_figure(script: ModuleType) -> None:
    what = script.scene(0, 0, 64, "dermoscopy")
    plain, marked = np.split(script.drawn(what), 2)
    assert np.array_equal(plain, np.rint(what.image.transpose(1, 2, 0) * 255).astype(np.uint8))
    outlined = (marked == script.FIGURE).all(axis=2)
    assert outlined.any()
    assert what.figure[outlined].all()


def test_the_command_draws_a_row_for_each_family(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scenes.png"
    given = ["prior_scenes.py", "--output", str(path), "--count", "3", "--side", "64", "--only"]
    monkeypatch.setattr(sys, "argv", [*given, "polyp", "heart"])
    assert script.main() == 0
    assert Image.open(path).size == (3 * 64, 2 * 2 * 64)
    monkeypatch.setattr(sys, "argv", [*given, "cat"])
    assert script.main() == 2
    assert capsys.readouterr().err.startswith("error: there is no family cat; choose among blobs")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--side", "128"], "the side of a scene must be 32 to 100 pixels, not 128"),
        (["--count", "0"], "--count must be 1 or more"),
        (["--output", "no such folder/a.png"], "cannot be written"),
        (["--output", "a.xyz"], "cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(
    wrong: list[str],
    message: str,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["prior_scenes.py", "--output", "a.png", "--only", "heart", "--side", "64", *wrong]
    )
    assert script.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
