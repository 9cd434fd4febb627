"""What unlabelled slices add, on a few small ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts

h5py = pytest.importorskip("h5py")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    from dataclasses import replace

    made = scripts.load("mcsc_acdc")
    small = replace(
        made.SMALL,
        side=32,
        window=1,
        unet_widths=(2, 2, 2, 2, 2),
        swin_width=2,
        swin_heads=(1, 1, 1, 1),
        coarse_block=2,
    )
    monkeypatch.setattr(made, "SMALL", small)
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "slices"
    folder.mkdir()
    labels = (np.arange(32 * 32).reshape(32, 32) // 8 % 4).astype(np.uint8)
    for patient in range(5):
        for index in range(2):
            with h5py.File(folder / f"patient{patient}_frame1_slice_{index}.h5", "w") as file:
                file["image"] = (labels / 4).astype(np.float32)
                file["label"] = np.roll(labels, patient, axis=1)
    return folder


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    given: list[Any] = ["mcsc_acdc.py", "--threads", 1, "--iterations", 2, *arguments]
    monkeypatch.setattr(sys, "argv", [str(each) for each in given])
    return int(script.main())


@pytest.mark.slow
@pytest.mark.exhaustive
def test_both_runs_of_a_seed_are_compared(script, data, tmp_path, monkeypatch, capsys):
    assert run(script, monkeypatch, "--data", data, "--seeds", 2, "--json", tmp_path / "out.json") == 0
    records = json.loads((tmp_path / "out.json").read_text())["records"]
    assert len(records) == 2 * 2 * 3
    assert {(each["seed"], each["run"], each["network"]) for each in records} == {
        (seed, name, network) for seed in (0, 1) for name in script.RUNS for network in ("unet", "swin", "both")
    }
    for each in records:
        assert [entry["class_id"] for entry in each["classes"]] == [1, 2, 3]
        assert len(each["volumes"]) == 2 * 3
    for seed in (0, 1):
        judged = {tuple(entry["volume"] for entry in each["volumes"]) for each in records if each["seed"] == seed}
        assert len(judged) == 1, "both runs are judged on the same volumes"
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + 6
    assert len([line for line in lines if line.startswith("Mean Dice of")]) == 3


def test_a_missed_class_is_counted_and_the_gain_is_of_each_seed(script):
    def record(seed: int, name: str, dice: float) -> dict[str, Any]:
        entry = {"dice": dice, "hd95": float("nan") if seed else 4.0, "missed": seed, "volumes": 2}
        return {"seed": seed, "run": name, "network": "unet", "classes": [entry] * 3}

    better, plain = script.RUNS
    records = [record(0, better, 0.5), record(0, plain, 0.4), record(1, better, 0.3), record(1, plain, 0.6)]
    copies = [each | {"network": network} for each in records for network in ("unet", "swin", "both")]
    table = script.show(copies)
    assert "| MCSC | U-Net | 0.400 ± 0.141 | 0.400 ± 0.141 | 0.400 ± 0.141 | 0.400 ± 0.141 | 4.0 | 3 of 12 |" in table
    assert "by seed: +0.100, -0.300; mean -0.100" in table


def test_bad_data_are_one_line(script, tmp_path, monkeypatch, capsys):
    assert run(script, monkeypatch, "--data", tmp_path / "nowhere") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("nowhere: no such folder")
