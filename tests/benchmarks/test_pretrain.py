"""The measuring of adapted encoders, on a small network."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts
from PIL import Image

ROWS, COLUMNS = np.mgrid[:60, :80]
DISC = (ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 15**2


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = scripts.load("pretrain")
    monkeypatch.setattr(module, "SYSTEM", replace(module.SYSTEM, side=33, width=8, clusters=6, blocks=1))
    monkeypatch.setattr(module, "COLLAPSE", (2, 4))
    return module


@pytest.fixture
def data(images: Path, tmp_path: Path) -> Path:
    """The three small images as a data set, the disc on each of them."""
    (tmp_path / "masks").mkdir()
    for name in "abc":
        Image.fromarray(DISC).save(tmp_path / "masks" / f"{name}.png")
    assert images.parent == tmp_path
    return tmp_path


def measured(script: ModuleType, monkeypatch: pytest.MonkeyPatch, data: Path, *more: object) -> Any:
    arguments = ("--data", data, "--train-side", 33, "--threads", 1, "--json", data / "out.json", *more)
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *map(str, arguments)])
    script.main()
    return json.loads((data / "out.json").read_text())


def test_every_encoder_is_judged_on_every_data_set(script, monkeypatch, data, capsys):
    told = measured(script, monkeypatch, data, "--steps", 2, "--seeds", 2)
    rows = told["rows"]
    assert [(row["learned_from"], row["seed"]) for row in rows] == [
        (learned_from, seed)
        for seed in (0, 1)
        for learned_from in (script.RANDOM, data.name)
        for _ in script.DataSet(data).halves(seed).held_out
    ]
    assert told["settings"]["steps"] == 2
    assert all(0 <= row["label_free"] <= 1 and row["contrast"] > 0 and row["explained"] <= 1 for row in rows)
    printed = capsys.readouterr().out
    assert f"| {data.name} | {script.RANDOM} | 0 |" in printed
    assert f"| {data.name} | contrast |" in printed


def test_collapse_is_measured_with_the_term_and_without(script, monkeypatch, data):
    rows = measured(script, monkeypatch, data, "--collapse")["rows"]
    assert list(dict.fromkeys((row["weight"], row["learned_from"]) for row in rows)) == [
        (0.0, 0),
        (0.0, 2),
        (0.0, 4),
        (2.0, 2),
        (2.0, 4),
    ]


def test_a_correlation_is_that_of_the_changes(script):
    signs = dict.fromkeys(("published", *script.SCORES), 1) | {"label_free": -1}

    def rows(learned_from: str, gains: list[float]) -> list[dict[str, Any]]:
        return [
            {"data": "d", "seed": 0, "image": place, "learned_from": learned_from}
            | {name: place + sign * gain for name, sign in signs.items()}
            for place, gain in enumerate(gains)
        ]

    found = script.correlations([*rows(script.RANDOM, [0.0] * 4), *rows("d", [0.1, 0.4, 0.2, 0.3])])
    assert [each["score"] for each in found] == list(script.SCORES)
    assert {(each["published"], each["label_free"]) for each in found} == {(1, -1)}
