"""``import-weights``: the file it writes, and what each slip costs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from msformer_deploy import cli
from msformer_deploy.commands.import_weights import import_weights
from msformer_deploy.models import subtraction
from msformer_deploy.models.subtraction import MSNet

SMALL = {"channels": 8, "layers": (1, 1, 1, 1)}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a small MSNet, which is what the command then expects."""
    monkeypatch.setattr(subtraction, "MSNet", partial(MSNet, **SMALL))
    torch.save(MSNet(**SMALL).state_dict(), tmp_path / "published.pth")
    return tmp_path / "published.pth"


@pytest.fixture
def call(invoke: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setitem(cli.cli.commands, "import-weights", import_weights)

    def run(source: Path, *arguments: object, output: object = tmp_path / "msnet.safetensors") -> Any:
        return invoke("import-weights", source, "--system", "msnet", "--output", output, *arguments)

    return run


def test_it_writes_the_weights_and_where_they_came_from(call, source, tmp_path):
    outcome = call(source)
    assert (outcome.code, outcome.err) == (0, "")
    path = tmp_path / "msnet.safetensors"
    expected = torch.load(source, weights_only=True)
    got = load_file(path)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {
            "system": "msnet",
            "source": "published.pth",
            "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        }
    count = sum(tensor.numel() for tensor in expected.values())
    assert outcome.out == f"{path}: msnet, {len(expected)} tensors, {count:,} numbers\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["msnet.safetensors", "published.pth"]


def test_what_is_there_is_kept_without_force(call, source, tmp_path):
    path = tmp_path / "msnet.safetensors"
    path.write_text("of before")
    call(source).error(2, path, "--force")
    assert path.read_text() == "of before"
    assert call(source, "--force").code == 0
    assert "output1.0.bias" in load_file(path)


class Malice:
    """Leaves a folder behind when a pickle of it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("change", ["missing file", "malice", "truncated", "shape"])
def test_a_bad_source_is_one_line_and_no_file(change, call, source, tmp_path):
    parts = ["published.pth"]
    if change == "missing file":
        source.unlink()
        parts.append("cannot be read")
    elif change == "malice":
        torch.save({"a": Malice(tmp_path / "trace")}, source)
        parts.append("no code in it was run")
    elif change == "truncated":
        source.write_bytes(source.read_bytes()[:-2000])
        parts.append("damaged or cut short")
    else:
        torch.save(torch.load(source, weights_only=True) | {"output1.0.bias": torch.zeros(7)}, source)
        parts.append("output1.0.bias (7,) instead of (1,)")
    call(source).error(2, *parts)
    assert [each.name for each in tmp_path.iterdir() if each != source] == []


@pytest.mark.parametrize("name", ["msnet.pth", "none/msnet.safetensors", "folder.safetensors"])
def test_a_bad_place_is_told_before_anything_is_read(name, call, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    call(tmp_path / "none.pth", output=tmp_path / name).error(2, tmp_path / name)


def test_an_unknown_system_is_refused(invoke, call, source):
    invoke("import-weights", source, "--system", "unet", "--output", "a.safetensors").error(2, "unet", "m2snet")
