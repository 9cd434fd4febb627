"""The comparison of precisions, on a small bundle and made-up masks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scripts
from PIL import Image

SCRIPT = scripts.BENCHMARKS / "precision.py"


@pytest.fixture
def data(picture, tmp_path) -> Path:
    """Three images with masks and one without."""
    folder = tmp_path / "data"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows, columns = np.mgrid[:60, :80]
    disc = (rows - 30) ** 2 + (columns - 40) ** 2 < 15**2
    for index in range(4):
        Image.fromarray(np.roll(picture, index, axis=2)).save(folder / "images" / f"{index}.png")
        if index < 3:
            Image.fromarray(np.where(disc, 255, 0).astype(np.uint8)).save(folder / "masks" / f"{index}.png")
    return folder


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--rounds", 1, *arguments]
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)


def test_the_images_that_calibrate_are_not_judged(tiny_bundle, data, tmp_path):
    done = compare("--data", data, "--bundle", tiny_bundle.path, "--calibrate", 1, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "out.json").read_text())["data"]
    assert result["calibration"] == ["0.png"]
    assert result["images"] == ["1.png", "2.png"]
    assert {name: record["images"] for name, record in result["records"].items()} == {"fp16": 2, "bf16": 2, "int8": 2}
    assert result["milliseconds"]["fp32"]["ratio"] == 1
    assert set(result["milliseconds"]) == {"fp32", "fp16", "int8"}, "an emulation says nothing of speed"
    table = done.stdout.splitlines()
    assert [line.split()[0] for line in table if line.startswith(("fp", "bf", "int"))] == [
        "fp32",
        "fp16",
        "bf16",
        "int8",
    ]


def test_a_data_set_that_only_calibrates_is_refused(tiny_bundle, data):
    done = compare("--data", data, "--bundle", tiny_bundle.path, "--calibrate", 3)
    assert done.returncode == 1
    assert done.stderr.endswith("3 images with masks, of which 3 calibrate: none is left to judge\n")
