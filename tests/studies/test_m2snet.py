"""Training a small set through the commands, judged on what was held out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scripts

from msformer_deploy.errors import UsageError
from msformer_deploy.models.subtraction import MSNet
from msformer_deploy.training.supervised import supervised


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("m2snet")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six dark discs on bright grounds."""
    rng = np.random.default_rng(0)
    discs = {f"{index}": np.roll(scripts.disc(), 3 * index, axis=1) for index in range(6)}
    images = {
        name: np.where(disc[..., None], 60, 190).astype(np.uint8) + rng.integers(0, 20, (*disc.shape, 3), np.uint8)
        for name, disc in discs.items()
    }
    return scripts.data_set(tmp_path / "data", images, discs)


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_every_image_is_held_out_once(script, folds):
    data = [(Path(f"{index}.png"), Path(f"{index}m.png")) for index in range(9)]
    parts = [script.split(data, folds, fold) for fold in range(folds)]
    assert sorted(each for _, held_out in parts for each in held_out) == data
    for training, held_out in parts:
        assert sorted(training + held_out) == data
    assert [image.stem for image, _ in script.split(data, 3, 1)[1]] == ["1", "4", "7"]


@pytest.mark.parametrize(("images", "folds"), [(9, 1), (9, 10), (2, 2), (3, 2)])
def test_folds_that_leave_too_little(script, images, folds):
    data = [(Path(f"{index}.png"), Path(f"{index}m.png")) for index in range(images)]
    with pytest.raises(UsageError, match=f"{folds} folds of {images} images leave too few"):
        script.split(data, folds, 0)


def test_means_are_over_images_and_not_over_folds(script):
    folds = {0: {"m2snet": [0.9, 0.5], "otsu": [0.8, 0.6]}, 2: {"m2snet": [0.4], "otsu": [0.1]}}
    lines = script.show(folds).splitlines()
    assert lines[0] == "| | fold 0 | fold 2 | all | median | worst | better on | by, 95 % |"
    assert lines[2] == "| m2snet | 0.700 | 0.400 | 0.600 | 0.500 | 0.400 |  |  |"
    assert lines[3].startswith("| otsu | 0.700 | 0.100 | 0.500 | 0.600 | 0.100 | 2 of 3 | +0.100, -0.")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_it_trains_exports_judges_and_measures(script, data, tmp_path, monkeypatch, capsys):
    # Its sibling goes the same way, and its graph is exported in half the time.
    monkeypatch.setattr(supervised, "new_network", lambda _: MSNet(4, (1, 1, 2, 1)))
    real = script.call

    def call(arguments: list[str]) -> int:
        return real([*arguments, *(("--min-seconds", "0.1") if arguments[0] == "benchmark" else ())])

    monkeypatch.setattr(script, "call", call)
    kept = tmp_path / "kept"
    options = ["--system", "msnet", "--epochs", "2", "--batch", "2", "--fold", "1", "--threads", "1"]
    options += ["--folder", str(kept)]
    monkeypatch.setattr(sys, "argv", ["m2snet.py", "--data", str(data), *options])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "4 images, 2 epochs at side 96" in printed
    assert "of torch" in printed
    table = [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")]
    assert table == ["|", "| msnet", "| otsu", "| kmeans"]
    assert {path.stem for path in (kept / "fold1" / "held-out" / "images").iterdir()} == {"1", "4"}
    settings = json.loads((kept / "fold1" / "run" / "run.json").read_text())["settings"]
    given = {"epochs": 2, "batch": 2, "side": 96, "scales": [96], "lr": 0.05, "backbone_lr_factor": 1.0}
    given |= {"rotation": 180, "zoom": 1.35, "colour": 0.2, "weight_decay": 0.005, "validation": 0.0, "seed": 0}
    assert settings | given == settings
    monkeypatch.setattr(script, "train_and_judge", None)  # what is there is not trained again
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 0
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--epochs", "3"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    assert "has folds of other options" in capsys.readouterr().err


def test_a_fold_that_is_none(script, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["m2snet.py", "--data", str(data), "--folder", str(tmp_path / "kept"), "--fold", "3"]
    )
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    assert "there is no fold 3; choose one from 0 to 2" in capsys.readouterr().err
