"""Short runs without families of scenes: that those are really left out, and what the table says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scripts
from PIL import Image

from msformer_deploy.training.prior.recipe import PriorRecipe, PriorSettings
from msformer_deploy.training.prior.scenes import FAMILIES, LATE


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return scripts.load("prior_families")


def test_groups_name_families_and_no_family_is_forgotten(script: ModuleType) -> None:
    named = [name for group in script.GROUPS.values() for name in group]
    assert set(named) == FAMILIES.keys()


@pytest.mark.parametrize("group", ["no endoscopy", "general ones only"])
def test_what_is_left_out_has_no_weight_early_and_late(script: ModuleType, group: str) -> None:
    before = {name: weight for name, (_, weight) in FAMILIES.items()}, dict(LATE)
    names = script.GROUPS[group]
    with script.without(names):
        record = PriorRecipe(PriorSettings(scenes=1)).record["data"]
        assert all(record["families"][name] == 0 for name in names)
        assert all(record["late"].get(name, 0) == 0 for name in names)
        assert sum(record["families"].values()) > 0
    assert before == ({name: weight for name, (_, weight) in FAMILIES.items()}, dict(LATE))


def test_a_run_trains_and_judges_each_group(
    script: ModuleType, tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "GROUPS", {script.ALL: (), "no endoscopy": script.GROUPS["no endoscopy"]})
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        Image.fromarray(picture if kind == "images" else picture[..., 0]).save(tmp_path / "data" / kind / "a.png")
    table = tmp_path / "table.md"
    given = ["--data", tmp_path / "data", "--work", tmp_path / "runs", "--scenes", 16, "--markdown", table]
    monkeypatch.setattr(sys, "argv", ["prior_families.py", *map(str, given)])
    assert script.main() == 0
    assert "| mean DSC | all families | no endoscopy |" in table.read_text()
    runs = [tmp_path / "runs" / name / "last.safetensors" for name in ("all-families", "no-endoscopy")]
    assert runs[0].read_bytes() != runs[1].read_bytes()
