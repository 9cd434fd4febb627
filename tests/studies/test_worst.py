"""The pictures of the worst images: which they are, what the colours mean, and that no photograph is in them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts
from PIL import Image

from msformer_deploy.errors import UsageError

PHOTOGRAPH = (255, 0, 255)  # a colour that no map of agreement has


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return scripts.load_small(monkeypatch, "worst")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Dark discs on magenta, the truth beside them further with each image."""
    folder = tmp_path / "spots"
    rows, columns = np.mgrid[:60, :80]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(3):
        disc = (rows - 30) ** 2 + (columns - 40) ** 2 < 15**2
        picture = np.where(disc[..., None], (60, 0, 30), PHOTOGRAPH).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{index}.png")
        mask = np.roll(disc, 6 * index, axis=1)
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(folder / "masks" / f"{index}.png")
    return folder


def test_colours_say_where_masks_agree(script: ModuleType) -> None:
    mask, truth = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    picture = script.agreement_picture(mask, truth)
    names = ("both", "false", "missed", "neither")
    assert [bytes(colour).hex() for colour in picture[0]] == [script.COLOURS[name][1:].lower() for name in names]


def test_the_worst_come_first_by_their_mean_over_seeds(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"a": (0.9, 0.1), "b": (0.6, 0.2), "c": (0.1, 0.8), "d": (0.9, 0.9)}

    def judge(task: Any) -> Any:
        return script.Judged(None, task.seed, scores[task.image.stem][task.seed])

    monkeypatch.setattr(script, "judge", judge)
    tasks = [script.Task(Path(f"{name}.png"), Path(), seed) for seed in (0, 1) for name in scores]
    worst = script.worst_of(tasks, 3)
    assert [each.name for each in worst] == ["b", "c", "a"]
    assert worst[0].scores == [0.6, 0.2]
    assert worst[0].mean == pytest.approx(0.4)


@pytest.mark.parametrize("photographs", [False, True])
def test_a_picture_holds_photographs_only_where_they_are_asked_for(
    script: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, photographs: bool
) -> None:
    given = ["--data", data, "--output", tmp_path / "pictures", "--seeds", 0, "--count", 2]
    given += ["--photographs"] if photographs else []
    monkeypatch.setattr(sys, "argv", ["worst.py", *map(str, given)])
    assert script.main() == 0
    (path,) = (tmp_path / "pictures").iterdir()
    assert path.name == ("photographs-spots.png" if photographs else "quality-worst-spots.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert (pixels == PHOTOGRAPH).all(axis=2).any() == photographs
    out = capsys.readouterr().out
    assert out.index(" 2 ") < out.index(" 1 "), "the truth that is furthest off is met worst"


def test_no_picture_of_no_image(script: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["worst.py", "--data", str(data), "--output", "out", "--count", "0"])
    assert script.main() == UsageError.exit_code
    assert "--count" in capsys.readouterr().err
