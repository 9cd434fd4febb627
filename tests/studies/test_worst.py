"""The pictures of the worst images: which they are, what the colours mean, and that no photograph is in them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scripts
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import UsageError

PHOTOGRAPH = (255, 0, 255)  # a colour that no map of agreement has


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("worst")


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


def judged(script: ModuleType, name: str, dsc: float, doubt: str | None = None) -> Any:
    return script.Judged("x", name, SimpleNamespace(confidence=SimpleNamespace(doubt=doubt)), None, dsc)


@pytest.mark.parametrize(("certain", "names"), [(False, ["b", "c", "a"]), (True, ["c", "a", "d"])])
def test_the_worst_come_first(script: ModuleType, certain: bool, names: list[str]) -> None:
    found = [judged(script, *each) for each in (("a", 0.5), ("b", 0.1, "in doubt"), ("c", 0.3), ("d", 0.9))]
    assert [each.name for each in script.worst_of(iter(found), 3, certain)] == names


@pytest.mark.parametrize("photographs", [False, True])
def test_a_picture_holds_photographs_only_where_they_are_asked_for(
    script: ModuleType,
    data: Path,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    photographs: bool,
) -> None:
    path = tmp_path / "worst.png"
    given = ["--data", data, "--bundle", tiny_bundle.path, "--output", path, "--count", 2]
    given += ["--photographs"] if photographs else []
    monkeypatch.setattr(sys, "argv", ["worst.py", *map(str, given)])
    assert script.main() == 0
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert (pixels == PHOTOGRAPH).all(axis=2).any() == photographs
    out = capsys.readouterr().out
    assert out.index(" 2 ") < out.index(" 1 "), "the truth that is furthest off is met worst"


@pytest.mark.parametrize(("count", "word"), [("0", "--count")])
def test_no_picture_of_no_image(
    script: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, count: str, word: str
) -> None:
    given = ["--data", str(data), "--bundle", "none", "--output", "out.png", "--count", count]
    monkeypatch.setattr(sys, "argv", ["worst.py", *given])
    assert script.main() == UsageError.exit_code
    assert word in capsys.readouterr().err
