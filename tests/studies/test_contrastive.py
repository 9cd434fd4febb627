"""The timing of the contrastive loss, on small groups."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scripts
import torch

SCRIPT = scripts.STUDIES / "contrastive.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--threads", 1, "--repeats", 2, *arguments]
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)


def slices(folder: Path, count: int = 5, foreground: bool = True) -> Path:
    """Of 30 x 40 pixels, with a class in one corner."""
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    for index in range(count):
        labels = np.zeros((30, 40), np.uint8)
        labels[:7, :9] = foreground * (1 + index % 3)
        with h5py.File(folder / f"patient001_slice_{index}.h5", "w") as file:
            file["image"], file["label"] = np.zeros((30, 40), np.float32), labels
    return folder


def judged(report: Path, printed: str) -> list[tuple[int, int]]:
    """The groups in a report, after a check of its numbers and of the table."""
    facts = json.loads(report.read_text())
    assert set(facts["peak_memory_mb"]) == {"published", "ours"}
    assert set(facts["ms"]) == set(facts["min_ms"]) == {"published", "ours", "products"}
    for ratio in ("ratio", "bound"):
        assert len(facts[f"{ratio}s"]) == 2
        assert 0 < min(facts[f"{ratio}s"]) <= facts[ratio] <= max(facts[f"{ratio}s"])
    assert [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")][2:] == [
        "published",
        "ours",
        "products",
        "ratio",
        "ratio, all but the products free",
    ]
    return [(kept, every) for kept, every in facts["groups"]]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_time_and_memory_of_an_update_are_told(tmp_path):
    target, options = tmp_path / "out.json", ("--slices", slices(tmp_path / "slices"), "--side", 24)
    done = run("--block", 4, "--channels", 16, "--json", target, *options)
    assert done.returncode == 0, done.stderr
    assert all(0 < kept < every == 25 for kept, every in judged(target, done.stdout))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_time_and_memory_of_a_group_are_told(tmp_path, monkeypatch, capsys):
    script: Any = scripts.load("contrastive")
    here = SimpleNamespace(apply=lambda function, arguments: function(*arguments))  # a fresh process takes seconds
    monkeypatch.setattr(
        script.multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=lambda _: nullcontext(here))
    )
    options = ("--block", 4, "--channels", 16, "--threads", 1, "--repeats", 2, "--json", tmp_path / "out.json")
    monkeypatch.setattr(sys, "argv", ["contrastive.py", *map(str, options)])
    script.main()
    assert judged(tmp_path / "out.json", capsys.readouterr().out) == [(1, 1), (1, 1)]


@pytest.mark.parametrize(("block", "groups"), [(None, 1), (3, 7)])
def test_the_bare_products_are_those_of_the_groups(monkeypatch, block, groups):
    """Half of the similarities of all pairs of 72 pixels, and the gradient."""
    script: Any = scripts.load("contrastive")
    case = script.group(3, 16) if block is None else script.Case(torch.rand(8, 16, 9, 9), torch.ones(8, 9, 9), block)
    made, real = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda one, other: made.append((*one.shape, other.shape[1])) or real(one, other))
    assert script.products(case, groups) > 0
    assert made == [(36, 16, 72), (72, 72, 16)] * groups


def refused(script: Any, monkeypatch: pytest.MonkeyPatch, *options: object) -> object:
    """The exit status of the script itself."""
    monkeypatch.setattr(sys, "argv", ["contrastive.py", *map(str, options)])
    with pytest.raises(SystemExit) as caught:
        script.main()
    return caught.value.code


@pytest.mark.parametrize("options", [("--block", 1), ("--slices", "nowhere", "--block", 19, "--side", 37)])
def test_blocks_that_make_no_groups(options, monkeypatch, capsys):
    assert refused(scripts.load("contrastive"), monkeypatch, *options) == 2
    assert "at most half of their side" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    assert refused(scripts.load("contrastive"), monkeypatch, "--device", "cuda") == 4
    assert "torch finds no CUDA GPU; drop --device" in capsys.readouterr().err


@pytest.mark.gpu
def test_both_are_measured_on_a_gpu(tmp_path):
    done = run("--block", 4, "--channels", 16, "--device", "cuda", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["gpu"] == torch.cuda.get_device_name()


def test_folders_without_what_is_needed(tmp_path, monkeypatch, capsys):
    script: Any = scripts.load("contrastive")
    few, empty = slices(tmp_path / "few", 3), slices(tmp_path / "empty", foreground=False)
    assert "3 slices with labels, 4 are needed" in str(refused(script, monkeypatch, "--slices", few))
    assert "all background" in str(refused(script, monkeypatch, "--slices", empty))
    assert refused(script, monkeypatch, "--slices", tmp_path / "missing") == 2
    assert "no such folder" in capsys.readouterr().err


def test_an_update_has_two_views_of_four_slices(tmp_path):
    script: Any = scripts.load("contrastive")
    folder = slices(tmp_path / "slices", 30)
    first, again, other = (script.update(folder, 24, 4, 8, seed) for seed in (0, 0, 1))
    assert first.features.shape == (8, 8, 24, 24)
    assert torch.equal(first.labels[:4], first.labels[4:])
    assert first.labels.shape == (8, 24, 24)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    torch.testing.assert_close(first.features.norm(dim=1), torch.ones(8, 24, 24))


def test_the_published_side_computes_background_and_throws_it_away(tmp_path, monkeypatch):
    script: Any = scripts.load("contrastive")
    case = script.update(slices(tmp_path / "slices"), 24, 4, 8)
    made: list[bool] = []
    real = script.published_loss
    monkeypatch.setattr(
        script, "published_loss", lambda features, labels: made.append(bool(labels.any())) or real(features, labels)
    )
    script.check(script.run("published", case), script.run("ours", case))
    assert (sum(made), len(made)) == script.count(case)


def test_other_numbers_are_an_error():
    script: Any = scripts.load("contrastive")
    case = script.group(4, 8)
    theirs, ours = (script.run(side, case) for side in ("published", "ours"))
    script.check(theirs, ours)
    with pytest.raises(SystemExit, match="losses differ by"):
        script.check(theirs, script.run("ours", case._replace(labels=case.labels.roll(1, 2))))
    with pytest.raises(SystemExit, match="gradients by"):
        script.check(theirs, (ours[0], ours[1], 1.01 * ours[2]))
