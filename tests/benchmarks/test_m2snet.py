"""Training a small set through the commands, judged on what was held out."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scripts

from msformer_deploy.errors import UsageError
from msformer_deploy.models.subtraction import M2SNet
from msformer_deploy.training import supervised


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(scripts.BENCHMARKS)  # as when it is run: it takes the pairs from the script beside it
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


def test_held_out_images_are_spread_evenly_and_in_one_part_only(script):
    data = [(Path(f"{index}.png"), Path(f"{index}m.png")) for index in range(9)]
    training, held_out = script.split(data, 3)
    assert [image.stem for image, _ in held_out] == ["1", "4", "7"]
    assert sorted(training + held_out) == data
    with pytest.raises(UsageError, match="8 of 9 images held out leaves too few"):
        script.split(data, 8)


@pytest.mark.slow
def test_it_trains_exports_judges_and_measures(script, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(supervised, "new_network", lambda _: M2SNet(4, (1, 1, 2, 1)))
    kept = tmp_path / "kept"
    options = ["--side", "96", "--epochs", "2", "--batch", "2", "--hold-out", "2", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["m2snet.py", "--data", str(data), *options, "--folder", str(kept)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "4 images, 2 epochs at side 96" in printed
    assert "of torch" in printed
    assert {"m2snet", "otsu", "kmeans"} <= {line.split()[0] for line in printed.splitlines() if line}
    assert {path.stem for path in (kept / "held-out" / "images").iterdir()} == {"1", "4"}
