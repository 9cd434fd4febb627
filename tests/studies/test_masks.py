"""What is said of masks and their confidence: fits that have not seen a data set, curves, prompts and the table."""

from __future__ import annotations

import json
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
from msformer_deploy.foreground.confidence import confidence_of, evidence


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("masks")


def judged(script: ModuleType, source: str, dsc: float, dice: float, sureness: float = 1.0, name: str = "a") -> Any:
    return script.Judged(source, name, 0, dsc, 0.5, 0.4, 0.8, 0.9, dice, sureness)


def line(script: ModuleType, source: str, slope: float, count: int = 5) -> list[Any]:
    """Images whose DSC is slope times the evidence."""
    return [
        judged(script, source, slope * each, each, name=f"{source} {each}") for each in np.linspace(0.1, 0.9, count)
    ]


def test_the_fit_is_that_of_its_line(script: ModuleType) -> None:
    found = script.fit(line(script, "x", 0.7))
    assert found[:2] == pytest.approx((0, 0.7), abs=1e-9)
    assert found[2:] == pytest.approx((0, 0), abs=1e-9)
    assert found.expected([judged(script, "x", 0, 0.5, 0.5)]) == pytest.approx([0.175])


def test_every_data_set_weighs_the_same_however_many_images_it_has(script: ModuleType) -> None:
    some, few = line(script, "x", 0.9), line(script, "y", 0.5)
    assert script.fit([*some * 10, *few])[:2] == pytest.approx(script.fit([*some, *few])[:2], abs=1e-9)


def test_no_data_set_is_judged_by_a_fit_that_has_seen_it(script: ModuleType) -> None:
    expected, _ = script.held_out([*line(script, "x", 0.9), *line(script, "y", 0.5)])
    assert expected[:5] == pytest.approx(0.5 * np.linspace(0.1, 0.9, 5)), "x by the line of y"
    assert expected[5:] == pytest.approx(0.9 * np.linspace(0.1, 0.9, 5)), "y by the line of x"


@pytest.mark.parametrize(
    ("scores", "good", "area"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5], [0, 1, 1], 0.5),
        ([0.1, 0.2], [1, 1], float("nan")),
    ],
)
def test_area_under_the_curve(script: ModuleType, scores: list[float], good: list[int], area: float) -> None:
    assert script.area_under_curve(np.array(scores), np.array(good, bool)) == pytest.approx(area, nan_ok=True)


def test_the_worth_of_the_confidence_in_numbers(script: ModuleType) -> None:
    images = [judged(script, "x", dsc, 0.5) for dsc in (0.9, 0.8, 0.3, 0.1)]
    text, facts = script.confidence_of(images, np.array([0.95, 0.75, 0.6, 0.2]), 0.8)
    assert facts["area under the curve"] == 1
    assert facts["sure"] == 0.5
    assert facts["kept"] == {0.25: 0.9, 0.5: pytest.approx(0.85), 0.75: pytest.approx(2 / 3), 1.0: pytest.approx(0.525)}
    assert "50% of the masks, mean DSC 0.850; in doubt: mean DSC 0.200" in text


def test_a_run_over_two_data_sets(
    script: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray
) -> None:
    rows, columns = np.mgrid[:60, :80]
    mask = ((rows - 30) ** 2 + (columns - 40) ** 2 < 15**2).astype(np.uint8) * 255
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        for kind, pixels in (("images", picture), ("masks", mask)):
            (folder / kind).mkdir(parents=True)
            for index in range(2):
                Image.fromarray(np.roll(pixels, 4 * index, axis=1)).save(folder / kind / f"{index}.png")
    facts, table = tmp_path / "facts.json", tmp_path / "table.md"
    given = ["--data", *folders, "--bundle", tiny_bundle.path, "--json", facts, "--markdown", table]
    monkeypatch.setattr(sys, "argv", ["masks.py", *map(str, given)])
    assert script.main() == 0
    found = json.loads(facts.read_text())
    assert [each["source"] for each in found["images"]] == ["one", "one", "two", "two"]
    assert all(0 <= each[name] <= 1 for each in found["images"] for name in ("dsc", "click", "box", "otsu", "expected"))
    assert "| one | 2 |" in table.read_text()
    assert "| mean of data sets | 4 |" in table.read_text()


def test_one_data_set_is_refused(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    monkeypatch.setattr(sys, "argv", ["masks.py", "--data", str(tmp_path), "--bundle", "none"])
    assert script.main() == UsageError.exit_code


def test_evidence_is_what_the_confidence_takes() -> None:
    probability = np.full((10, 10), 0.9, np.float32)
    probability[:, 5:] = 0.1
    dice, sureness = evidence(probability > 0.5, probability)
    assert dice == pytest.approx(2 * 45 / (50 + 50))
    assert sureness == pytest.approx((50 * 0.81 + 50 * 0.01) / 50)
    assert confidence_of(probability > 0.5, probability).value > confidence_of(probability > 0.95, probability).value
