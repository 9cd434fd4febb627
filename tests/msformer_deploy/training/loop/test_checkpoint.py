"""A state comes back as it was, and a file that is not one is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from msformer_deploy import files
from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.training.loop import checkpoint


def state() -> dict[str, Any]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimiser = torch.optim.AdamW(module.parameters(), betas=(0.8, 0.9))
    module(torch.randn(1, 1, 5, 5)).sum().backward()
    optimiser.step()
    shared = torch.arange(6.0)
    return {
        "epoch": 3,
        "nothing": None,
        "score": -math.inf,
        "flag": True,
        "nested": [{"a": (1, [2.5, "text"])}, (), {}, [shared[:3], shared[2:]]],
        "half": torch.randn(3, 2).bfloat16(),
        "transposed": torch.randn(3, 2).T,
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "tensor": {"tensor": "not one"},
        "module": dict(module.state_dict()),
        "optimiser": optimiser.state_dict(),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.write(path, state())
    return path


def test_everything_comes_back(path):
    assert same(checkpoint.read(path), state())
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_nothing_else_has_a_place_in_it(tmp_path):
    with pytest.raises(TypeError, match="/a/1: the state of a run cannot hold a set"):
        checkpoint.write(tmp_path / "a", {"a": [1, {2}]})


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_one_cut_short_is_told(path, length):
    content = path.read_bytes()
    path.write_bytes(content[:length])
    with pytest.raises(DeployError, match=r"checkpoint.safetensors: cannot be read, cut short or damaged .*--force"):
        checkpoint.read(path)


def test_a_changed_byte_is_told(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DeployError, match="is damaged, its checksum"):
        checkpoint.read(path)


def test_a_changed_setting_is_told(path):
    content = path.read_bytes()
    assert content.count(b"0.8") == 1
    path.write_bytes(content.replace(b"0.8", b"0.7"))
    with pytest.raises(DeployError, match="its checksum"):
        checkpoint.read(path)


@pytest.mark.parametrize("metadata", [None, {"system": "m2snet"}])
def test_other_files_of_tensors_are_told(tmp_path, metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "a", metadata)
    with pytest.raises(UsageError, match="a: is not a training state"):
        checkpoint.read(tmp_path / "a")


def test_no_file_and_a_folder_are_told(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(DeployError, match="cannot be read"):
            checkpoint.read(path)


def test_a_write_that_fails_leaves_the_last_one(path, monkeypatch):
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DeployError, match=r"cannot be written \(No space left on device\)"):
        checkpoint.write(path, {"epoch": 4})
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1
