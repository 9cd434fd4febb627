"""The comparison of a folder run with the encoder alone: what it reports, and how it fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts

from msformer_deploy.bundle.folder import Bundle


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("throughput")


def run(script: ModuleType, monkeypatch: Any, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["throughput.py", *map(str, arguments)])
    return int(script.main())


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_folder(
    script: ModuleType, tiny_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    target = tmp_path / "deep" / "report.json"
    options = ["--bundle", tiny_bundle.path, "--rounds", 2, "--batch", 2, "--json", target]
    options += ["--writers", 2, "--learning-threads", 1, "--processes", 1]
    assert run(script, monkeypatch, images, *options) == 0
    told = json.loads(target.read_text(encoding="utf-8"))
    assert told["settings"]["batch"] == 2
    assert len(told["images"]) == 3
    assert [row["way"] for row in told["rows"]] == ["encoder", "run", "around", "serial"]
    for row in told["rows"]:
        assert {name: len(values) for name, values in row["seconds"].items()} == {"wall": 2, "cpu": 2, "main": 2}
        if row["way"] in ("run", "around"):  # a process starts in well over a tenth of a second
            assert all(np.less(np.add(row["seconds"]["main"], 0.1), row["seconds"]["cpu"]))
        assert row["images_per_second"] == pytest.approx(3 / (sum(row["seconds"]["wall"]) / 2))
    assert (told["rows"][0]["share_of_encoder"], told["rows"][0]["cpu_over_encoder"]) == (1, 1)
    assert len(capsys.readouterr().out.splitlines()) == 6


@pytest.mark.parametrize(("device", "waited"), [("cuda:1", ["cuda:1"]), ("cpu", [])])
def test_a_gpu_finishes_before_the_clock_is_read(
    script: ModuleType, monkeypatch: Any, device: str, waited: list[str]
) -> None:
    done: list[str] = []
    monkeypatch.setattr("torch.cuda.synchronize", done.append)
    script.wait_for(device)
    assert done == waited


def test_shares_are_of_the_same_round(script: ModuleType) -> None:
    seconds = {"encoder": {"wall": [1.0, 10.0, 1.0], "cpu": [2.0, 2.0, 2.0], "main": [2.0, 2.0, 2.0]}}
    seconds["run"] = {"wall": [2.0, 20.0, 4.0], "cpu": [3.0, 3.0, 9.0], "main": [0.2, 0.4, 0.9]}
    row = script.summarise(seconds, 4)[1]
    assert (row["images_per_second"], row["share_of_encoder"]) == (1, 0.5)
    assert (row["cpu_seconds_per_image"], row["cpu_over_encoder"]) == (0.75, 1.5)
    assert row["main_cpu_seconds_per_image"] == 0.1


def test_an_image_that_fails_is_no_measurement(
    script: ModuleType, tiny_bundle: Bundle, images: Path, monkeypatch: Any, capsys: Any
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    assert run(script, monkeypatch, images, "--bundle", tiny_bundle.path, "--rounds", 1) == 1
    assert "broken.png" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--rounds", 0], ["--batch", 0], ["--writers", 0], ["--learning-threads", 0]])
def test_slips(script: ModuleType, tiny_bundle: Bundle, images: Path, monkeypatch: Any, arguments: list[Any]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(script, monkeypatch, images, "--bundle", tiny_bundle.path, *arguments)
    assert ended.value.code == 2


def test_a_folder_without_images(
    script: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    assert run(script, monkeypatch, tmp_path, "--bundle", tiny_bundle.path) == 2
    assert "no images" in capsys.readouterr().err
