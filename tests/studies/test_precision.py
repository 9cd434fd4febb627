"""The comparison of precisions, on a small bundle and made-up masks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scripts
from PIL import Image


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


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    script = scripts.load("precision")

    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["precision.py", "--rounds", "1", *map(str, arguments)])
        script.main()

    return call


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_images_that_calibrate_are_not_judged(compare, tiny_bundle, data, tmp_path, capsys):
    compare("--data", data, "--bundle", tiny_bundle.path, "--calibrate", 1, "--json", tmp_path / "out.json")
    (result,) = json.loads((tmp_path / "out.json").read_text())["data"]
    assert result["calibration"] == ["0.png"]
    assert result["images"] == ["1.png", "2.png"]
    assert {name: record["images"] for name, record in result["records"].items()} == {"fp16": 2, "bf16": 2, "int8": 2}
    assert result["milliseconds"]["fp32"]["ratio"] == 1
    assert set(result["milliseconds"]) == {"fp32", "fp16", "int8"}, "an emulation says nothing of speed"
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table if line.startswith(("fp", "bf", "int"))] == [
        "fp32",
        "fp16",
        "bf16",
        "int8",
    ]


def test_a_data_set_that_only_calibrates_is_refused(compare, tiny_bundle, data):
    with pytest.raises(SystemExit, match="3 images with masks, of which 3 calibrate: none is left"):
        compare("--data", data, "--bundle", tiny_bundle.path, "--calibrate", 3)
