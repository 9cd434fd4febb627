"""The script that a GPU is checked with must itself be right before one is at hand: its checks, floors and table."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
import scripts
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from msformer_deploy.kernels import reference
from msformer_deploy.kernels.geometry import max_shared_bytes

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
    timing = gpu_check.Timing("op", "float32", 1, 0.03, 0.02, ours=0.05, ours_with_launches=0.06)
    lines = gpu_check.table([timing]).splitlines()
    assert len(lines) == 3
    assert lines[2].split("|")[4:9] == [" 0.0300 ", " 0.0500 ", " 60% ", " - ", " - "]
    assert {line.count("|") for line in lines} == {14}


class Forbidden(TorchDispatchMode):
    """Fails at what waits for the device, which no CUDA graph can hold."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = str(function).split(".")[1]
        assert name not in {"bincount", "_local_scalar_dense", "nonzero", "masked_select", "unique", "item"}, name
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("case", CASES, ids=named)
def test_what_is_captured_never_waits_for_the_device(case):
    inputs = case.draw(torch.Generator().manual_seed(1))
    with Forbidden():
        case.torch_eager(*inputs)
    with pytest.raises(AssertionError, match="bincount"), Forbidden():
        torch.bincount(torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("seed", range(5))
def test_no_label_of_a_step_hangs_on_rounding(seed):
    """In float64, through all steps: the best score is ahead by far more than float32 can err."""
    settings = gpu_check.SETTINGS
    features, head = gpu_check.clusters_apart(1, 200, 33 * 33, torch.Generator().manual_seed(seed), torch.device("cpu"))
    features, head = features.double(), head.double()
    velocity = torch.zeros_like(head)
    for step in range(settings.steps):
        best, second = torch.matmul(head, features).topk(2, dim=1).values.unbind(dim=1)
        assert (best - second).min() > 0.1
        offset = step % settings.stride
        head, velocity, _, _ = reference.head_refine_step(
            features, head, velocity, offset, settings.stride, settings.lr, settings.momentum
        )


@pytest.fixture
def cpu(monkeypatch):
    """The script takes the CPU for a GPU, and the times are made up."""
    monkeypatch.setattr(gpu_check, "gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(gpu_check, "environment", lambda device: {})
    monkeypatch.setattr(gpu_check, "load_all", lambda device: [])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=1))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu_check.Timer, "replayed", fails)
    rates = {"bytes_per_second": 1e9, **{f"operations_per_second_{name}": 1e9 for name in gpu_check.DTYPES}}
    monkeypatch.setattr(gpu_check, "measured_rates", lambda timer, device: rates)
    monkeypatch.setattr(gpu_check.Timer, "called", lambda self, function, sets: 2.0)
    monkeypatch.setattr(gpu_check.torch, "compile", fails)
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)


def fails(*_, **__):
    raise RuntimeError("no compiler\nis here")


def examine(path: Path, *more: str) -> int:
    with mock.patch.object(sys, "argv", ["gpu_check.py", "--json", str(path), "--side", "9", "--batches", "1", *more]):
        return gpu_check.main()


def test_one_failure_stops_nothing_and_is_in_the_report(cpu, tmp_path, capsys):
    """Every graph fails to be captured here, and torch.compile too."""
    assert examine(tmp_path / "out.json") == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [each["ok"] for each in report["checks"]] == [True] * 12
    assert report["sanitizer"] == "not installed"
    argmax, attention = report["timings"][0], report["timings"][3]
    assert argmax["ours"] is None and argmax["ours_with_launches"] == argmax["torch_eager_with_launches"] == 2
    assert argmax["failures"].keys() == {"ours", "torch_eager"}
    assert attention["failures"]["torch_compiled"] == "RuntimeError: no compiler is here"
    assert "12 of 12 checks passed, 0 failed, 0 had not enough memory" in capsys.readouterr().out


@pytest.mark.parametrize("step", ["check", "measure"])
def test_what_was_found_is_kept_where_the_process_ends(cpu, tmp_path, monkeypatch, step):
    done, original = [], getattr(gpu_check, step)

    def ends(*arguments):
        if len(done) == 2:
            raise SystemExit(139)
        done.append(original(*arguments))
        return done[-1]

    monkeypatch.setattr(gpu_check, step, ends)
    with pytest.raises(SystemExit):
        examine(tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["timings" if step == "measure" else "checks"]) == 2


@pytest.mark.parametrize(
    ("error", "ok", "message", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), None, "not enough memory on this GPU", 3),
        (RuntimeError("an illegal\naccess"), False, "RuntimeError: an illegal access", 3),
    ],
    ids=["memory", "failure"],
)
def test_a_case_that_cannot_be_checked_is_no_pass(cpu, tmp_path, monkeypatch, error, ok, message, code):
    def raises(*_, **__):
        raise error

    monkeypatch.setattr(gpu_check.kernels, "cluster_argmax", raises)
    monkeypatch.setattr(gpu_check, "attention_case", gpu_check.argmax_case)
    monkeypatch.setattr(gpu_check, "step_case", gpu_check.argmax_case)
    monkeypatch.setattr(gpu_check, "loop_case", gpu_check.argmax_case)
    assert examine(tmp_path / "out.json", "--parts", "checks") == code
    report = json.loads((tmp_path / "out.json").read_text())
    assert {(each["ok"], each["error"]) for each in report["checks"]} == {(ok, message)}


RECORD = """========= COMPUTE-SANITIZER
========= Invalid __shared__ write of size 4 bytes
=========     at {kernel}+0x1230
=========     by thread (0,0,0) in block (1,0,0)
=========
========= ERROR SUMMARY: 1 error
"""


@pytest.mark.parametrize(
    ("output", "code", "verdict", "of_libraries"),
    [
        ("12 of 12 checks passed\n========= ERROR SUMMARY: 0 errors\n", 0, "clean", 0),
        (RECORD.format(kernel="cluster_argmax_f32_n13"), 0, "found", 0),
        (RECORD.format(kernel="attention_context_bf16_n4"), 3, "found", 0),
        (RECORD.format(kernel="ampere_sgemm_128x64_nn"), 0, "clean", 1),
        ("1 of 12 checks passed\n", 3, "failed", 0),
    ],
    ids=["clean", "argmax", "attention", "cuBLAS", "a check failed"],
)
def test_the_sanitizer_judges_our_kernels_alone(output, code, verdict, of_libraries):
    found = gpu_check.judged(output, code)
    assert (found["verdict"], found["of_libraries"]) == (verdict, of_libraries)


def test_every_kernel_of_ours_is_known_by_its_name():
    assert all(gpu_check.OURS.fullmatch(name) for name in max_shared_bytes())


def test_a_sanitizer_that_does_not_end_is_stopped(tmp_path):
    endless = tmp_path / "compute-sanitizer"
    endless.write_text("#!/bin/sh\nexec sleep 60\n")
    endless.chmod(0o755)
    assert gpu_check.sanitized(str(endless), 0.1)["memcheck"] == {"verdict": "no time", "seconds": 0.1}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_fails(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(tmp_path / "out.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert done.stderr == "error: no CUDA GPU: nothing was checked and nothing was timed\n"
    assert not (tmp_path / "out.json").exists()
