"""The script that a GPU is checked with must itself be right before one is at hand: its checks, floors and table."""

from __future__ import annotations

import math
import subprocess
import sys
from types import ModuleType

import pytest
import scripts
import torch

SCRIPT = scripts.STUDIES / "gpu_check.py"


def load() -> ModuleType:
    return scripts.load("gpu_check")


gpu_check = load()
CASES = gpu_check.cases(33, [2], torch.device("cpu"))


def named(case) -> str:
    return f"{case.operation}-{case.dtype}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_case_passes_what_is_right_and_only_that(case):
    """On a CPU the ops run the reference, in float32 sums."""
    inputs = case.draw(torch.Generator().manual_seed(1))
    outputs = case.ours(*inputs)
    assert case.error(inputs, outputs) <= case.tolerance
    # Plain torch rounds in between, so a half type may err by a per cent; on other inputs it would be by all.
    assert case.error(inputs, case.torch_eager(*inputs)) <= 1e-2, "torch is timed on something else"
    first, *rest = gpu_check.tensors(outputs)
    wrong = first.clone()
    wrong.view(-1)[-1] += 1 if first.dtype == torch.uint8 else 1e6
    broken = wrong if isinstance(outputs, torch.Tensor) else (wrong, *rest)
    assert not case.error(inputs, broken) <= case.tolerance
    if first.is_floating_point():
        wrong.fill_(math.nan)
        assert not case.error(inputs, broken) <= case.tolerance


def test_what_the_default_size_must_cost():
    """By hand: 257 x 257 pixels, 200 channels, 100 clusters; 66049 and 16641 positions of width 100."""
    argmax, attention, _, _ = gpu_check.cases(257, [1], torch.device("cpu"))[::3]
    assert argmax.bytes_moved == 66049 * 801
    assert argmax.operations == 2 * 66049 * 200 * 100
    assert attention.bytes_moved == 4 * (66049 + 16641) * 100 * 4
    assert attention.operations == 4 * (66049 + 16641) * 100 * 100


def test_the_table_says_what_was_not_measured():
    timing = gpu_check.Timing("op", "float32", 1, 0.05, 0.06, math.nan, 0.2, None, 0.03, 0.02)
    lines = gpu_check.table([timing]).splitlines()
    assert len(lines) == 3
    assert lines[2].split("|")[4:9] == [" 0.0300 ", " 0.0500 ", " 60% ", " - ", " - "]
    assert {line.count("|") for line in lines} == {14}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_fails(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(tmp_path / "out.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert done.stderr == "error: no CUDA GPU: nothing was checked and nothing was timed\n"
    assert not (tmp_path / "out.json").exists()
