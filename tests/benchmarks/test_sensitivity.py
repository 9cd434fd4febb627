"""The sensitivity to constants: which are found, what they become, and that each is put back."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts
from PIL import Image

from msformer_deploy.errors import UsageError
from msformer_deploy.foreground import borders, endoscopy, frame, rules, view


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return scripts.load_small(monkeypatch, "sensitivity")


@pytest.fixture
def data(picture: np.ndarray, tmp_path: Path) -> Path:
    """An image in colour with a mask, and a grey one."""
    images = {"colour": picture, "grey": np.asarray(Image.fromarray(picture).convert("L"))}
    return scripts.data_set(tmp_path / "data", images, dict.fromkeys(images, scripts.disc()))


def test_every_module_has_constants_and_each_is_listed_once(script: ModuleType) -> None:
    found = script.constants_of()
    assert {each.module for each in found} == set(script.MODULES)
    names = [str(each) for each in found]
    assert len(names) == len(set(names))
    for each in found:
        assert type(each.value) in (int, float)
        assert getattr(script.module_of(each.module), each.name) == each.value
    # endoscopy takes BLACK from view, and has a MARGIN of its own, as frame does.
    assert "endoscopy.BLACK" not in names
    assert {"view.BLACK", "frame.MARGIN", "endoscopy.MARGIN"} <= set(names)


@pytest.mark.parametrize(
    ("value", "becomes"),
    [(0.3, [0.15, 0.225, 0.3, 0.399, 0.6]), (8, [4, 6, 8, 11, 16]), (2, [1, 1, 2, 3, 4]), (1, [0, 0, 1, 2, 2])],
)
def test_a_whole_number_stays_one_and_is_moved(script: ModuleType, value: Any, becomes: list[Any]) -> None:
    made = [script.Constant("frame", "A", value).times(factor) for factor in script.FACTORS]
    assert made == pytest.approx(becomes)
    assert {type(each) for each in made} == {type(value)}


def test_a_constant_is_changed_wherever_it_is_used_and_put_back(script: ModuleType) -> None:
    before = view.BLACK, endoscopy.MARGIN, frame.MARGIN
    with script.changed(script.Constant("view", "BLACK", view.BLACK), 0.5):
        assert (view.BLACK, endoscopy.BLACK) == (0.5, 0.5)
    margin = script.Constant("frame", "MARGIN", frame.MARGIN)
    with pytest.raises(ZeroDivisionError), script.changed(margin, 77):
        assert (77, before[1]) == (frame.MARGIN, endoscopy.MARGIN)
        raise ZeroDivisionError
    assert before == (view.BLACK, endoscopy.MARGIN, frame.MARGIN)
    assert endoscopy.BLACK == view.BLACK


def test_what_was_computed_with_another_constant_is_forgotten(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    @cache
    def doubled() -> int:
        return 2 * frame.MARGIN

    monkeypatch.setattr(frame, "doubled", doubled, raising=False)
    before = frame.MARGIN
    assert doubled() == 2 * before
    with script.changed(script.Constant("frame", "MARGIN", before), 77):
        assert doubled() == 154
    assert doubled() == 2 * before


def test_a_constant_that_breaks_is_impossible_and_not_the_end(
    script: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [script.Prepared("data", task) for task in script.tasks_of([data], [0], None)["data"]]

    def choose(*_: Any) -> np.ndarray:
        if rules.MIN_AREA > 0.005:
            raise ValueError
        return np.ones((borders.SIDE, borders.SIDE), bool)

    monkeypatch.setattr(rules, "choose", choose)
    (row,) = script.measure(images, [script.Constant("rules", "MIN_AREA", 0.004)])
    scores = [means["data"] for means in row["dsc"]]
    assert scores[0] == scores[1] == scores[2] > 0
    assert np.isnan(scores[3:]).all()
    assert "impossible" in script.markdown([row])


def test_tables_and_picture_of_what_is_asked(
    script: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--data", data, "--only", "borders.BLUR", "view.BLACK", "--json", tmp_path / "out.json"]
    given += ["--markdown", tmp_path / "out.md", "--picture", tmp_path / "out.png"]
    monkeypatch.setattr(sys, "argv", ["sensitivity.py", *map(str, given)])
    assert script.main() == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["constant"] for row in rows] == ["borders.BLUR", "view.BLACK"]
    assert rows[0]["values"] == pytest.approx([borders.BLUR * factor for factor in script.FACTORS])
    assert len(rows[0]["dsc"]) == len(script.FACTORS)
    assert "`view.BLACK`" in (tmp_path / "out.md").read_text()
    with Image.open(tmp_path / "out.png") as image:
        assert image.width > 400


def test_a_constant_that_is_none_is_one_line(
    script: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["sensitivity.py", "--data", str(data), "--only", "frame.NOTHING"])
    assert script.main() == UsageError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert "'frame.NOTHING' is unknown" in line
