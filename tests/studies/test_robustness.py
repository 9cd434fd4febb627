"""Altered images: that truth goes with the pixels, and what the table tells."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import UsageError

ROWS, COLUMNS = np.mgrid[:60, :80]
DISC = (ROWS - 20) ** 2 + (COLUMNS - 30) ** 2 < 12**2
COLOURED = np.where(DISC[..., None], (90, 40, 20), (220, 180, 160)).astype(np.uint8)


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("robustness")


def names() -> list[str]:
    return list(scripts.load("robustness").ALTERATIONS)


@pytest.mark.parametrize("name", names())
def test_the_truth_stays_on_the_object(script: ModuleType, name: str) -> None:
    pixels, truth = script.ALTERATIONS[name](COLOURED, DISC)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*truth.shape, 3)
    inside, outside = (pixels.mean(axis=2)[where] for where in (truth, ~truth))
    assert np.quantile(inside, 0.9) < np.quantile(outside, 0.1)
    assert np.array_equal(pixels, COLOURED) == (name == script.UNCHANGED)
    again, _ = script.ALTERATIONS[name](COLOURED, DISC)
    assert np.array_equal(pixels, again), "noise is the same each time"


def test_what_has_no_colours_gets_none(script: ModuleType) -> None:
    grey = np.where(DISC[..., None], 90, 200).astype(np.uint8).repeat(3, axis=2)
    for name, alter in script.ALTERATIONS.items():
        pixels, _ = alter(grey, DISC)
        assert not np.ptp(pixels, axis=2).any(), name
        assert pixels.min() > 0, "no black corners either"


def test_a_table_of_two_data_sets(script: ModuleType) -> None:
    found = {
        "x": {
            "unchanged": {"ours": [[0.9, 0.8], [0.5, 0.6]], "otsu": [0.4, 0.6]},
            "noise": {"ours": [[0.7, 0.75], [0.5, 0.8]], "otsu": [0.2, 0.2]},
            "gamma 0.7": {"ours": [[0.9, 0.9], [0.9, 0.9]], "otsu": [0.3, 0.3]},
        },
        "y": {name: {"ours": [[0.5]], "otsu": [0.25]} for name in ("unchanged", "noise", "gamma 0.7")},
    }
    assert script.markdown(found).splitlines() == [
        "|  | x | moved by more than 0.1 | Otsu | y | moved by more than 0.1 | Otsu |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| unchanged | 0.700 |  | 0.500 | 0.500 |  | 0.250 |",
        "| noise | 0.688 | -1 +1 | 0.200 | 0.500 | -0 +0 | 0.250 |",
        "| gamma 0.7 | 0.900 | -0 +2 | 0.300 | 0.500 | -0 +0 | 0.250 |",
        "| mean of all but the first | 0.794 |  | 0.250 | 0.500 |  | 0.250 |",
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for kind, pixels in (("images", COLOURED), ("masks", DISC)):
        (tmp_path / "discs" / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "discs" / kind / "a.png")
    return tmp_path / "discs"


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["robustness.py", *map(str, arguments)])
    return script.main()


def test_images_are_altered_and_segmented(
    script: ModuleType, data: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    given = ["--data", data, "--bundle", tiny_bundle.path, "--foreground", "largest"]
    assert run(script, monkeypatch, *given, "--only", "unchanged", "mirrored") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("|  | discs |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| unchanged", "| mirrored", "| mean of all but the first"]
    assert float(lines[2].split("|")[4]) > 0.9, "of Otsu's threshold"


def test_an_unknown_alteration_is_one_line(
    script: ModuleType, data: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    given = ["--data", data, "--bundle", tiny_bundle.path, "--only", "rain"]
    assert run(script, monkeypatch, *given) == UsageError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert "'rain' is unknown; choose of 'unchanged'" in line
