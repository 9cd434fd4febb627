"""The prior that is shipped: it is the one that belongs to this version, and it knows figures it never saw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.models.prior import PROMPTS
from msformer_deploy.training.prior.scenes import scene
from msformer_deploy.training.prior.scenes.prompts import disc
from msformer_deploy.weights import packaged
from msformer_deploy.weights.prior import PATH, load_prior, read_prior, write_prior

LARGEST = 3_000_000  # bytes
SCENES = range(2_000_000_000, 2_000_000_064)  # none of them was learned from
DICE = 0.7  # mean over them, at least


def test_the_file_is_small_and_says_what_it_is() -> None:
    assert PATH.stat().st_size <= LARGEST
    with safe_open(PATH, "np") as file:
        said = file.metadata()
    assert said["system"] == "prior"
    assert int(said["epoch"]) * int(said["scenes of an epoch"]) >= 40_000


def test_the_weights_are_read_without_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from msformer_deploy.weights.prior import read_prior; read_prior()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nothing_of_the_prior_is_imported_at_the_start() -> None:
    program = "import sys, msformer_deploy.cli; print([name for name in sys.modules if name.endswith('prior')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_weights_are_of_half_precision() -> None:
    found = read_prior()
    assert {each.dtype for each in found.values()} == {np.dtype(np.float16), np.dtype(np.int64)}
    assert all(np.isfinite(each).all() for each in found.values())


def test_it_finds_the_figure_of_new_scenes() -> None:
    network, scores = load_prior(), []
    for index in SCENES:
        found = scene(0, index, 96)
        with torch.inference_mode():
            logits = network(torch.from_numpy(found.image)[None], torch.from_numpy(found.prompts)[None])
        inside = logits[0, 0].numpy() > 0
        scores.append(2 * (inside & found.figure).sum() / (inside.sum() + found.figure.sum()))
    assert np.mean(scores) >= DICE


def test_a_point_asks_for_the_figure_that_it_is_on() -> None:
    """Channels of prompts mean the same in training, in the shipped weights and for those who use them."""
    image, rows, columns = torch.full((1, 3, 96, 96), 0.5), *np.ogrid[:96, :96]
    for row in (28, 68):  # two equal discs
        image[..., torch.from_numpy((rows - row) ** 2 + (columns - 48) ** 2 < 14**2)] = 0.8
    upper, lower = (torch.from_numpy(disc(96, row, 48)) for row in (28, 68))
    prompts = torch.zeros(3, PROMPTS, 96, 96)
    prompts[1, 0] = upper
    prompts[2, 0] = torch.maximum(upper, lower)
    with torch.inference_mode():
        found = load_prior()(image.expand(3, -1, -1, -1), prompts)[:, 0].sigmoid()
    none, one, all_of_the_kind = found[:, [28, 68], 48]
    assert min(none) > 0.9, "both discs are figure"
    assert one[0] > 0.9
    assert one[1] < 0.1
    assert min(all_of_the_kind) > 0.9


def test_weights_that_are_written_are_read_again(tmp_path: Path) -> None:
    network = load_prior()
    write_prior(tmp_path / "again.safetensors", network.state_dict(), {"system": "prior"})
    again = load_prior(tmp_path / "again.safetensors").state_dict()
    assert all(torch.equal(each, again[name]) for name, each in network.state_dict().items())


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(PATH.read_bytes())
    content[-1] ^= 1
    (tmp_path / "prior.safetensors").write_bytes(content)
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    with pytest.raises(DeployError, match="is not the one of this version"):
        load_prior()
    (tmp_path / "prior.safetensors").unlink()
    with pytest.raises(DeployError, match="cannot be read"):
        read_prior()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    write_prior(tmp_path / "other.safetensors", {"weight": torch.zeros(3)}, {})
    with pytest.raises(UsageError, match="does not fit the prior"):
        load_prior(tmp_path / "other.safetensors")
