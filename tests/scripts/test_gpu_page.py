"""The page of results: what it makes of numbers, and that it says what was not measured."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import pytest
import scripts
from locations import ROOT

gpu_page = scripts.load("gpu_page", ROOT / "scripts")
STEP = {"call": 1, "reason": "", "seconds": 12.3}


def timing(operation: str, **milliseconds: float) -> dict[str, Any]:
    return asdict(gpu_page.Timing(operation, "float32", 1, 0.01, 0.02, **milliseconds))


@pytest.fixture
def measured(tmp_path):
    """A folder as a run on a GPU leaves it."""
    checks = [
        {"operation": "cluster_argmax", "dtype": "float32", "batch": 1, "error": 2e-7, "tolerance": 1e-5, "ok": True},
        {"operation": "cluster_argmax", "dtype": "float16", "batch": 32, "error": "not enough memory", "ok": None},
    ]
    timings = [
        timing("cluster_argmax", ours=0.05, ours_with_launches=0.06, torch_eager=0.2),
        timing("cross_scale_attention", ours=0.1, ours_with_launches=0.12, torch_eager=0.15),
        timing("15 refinement steps", ours=0.4, ours_with_launches=0.4),
    ]
    environment = {"gpu": "NVIDIA H200", "driver": "580", "versions": {"torch": "2.11"}}
    files = {
        "summary": {
            "steps": [
                {**STEP, "name": "kernels", "status": "passed"},
                {**STEP, "name": "pipeline-8", "status": "passed"},
                {**STEP, "name": "tests", "status": "failed", "reason": "this | that"},
            ]
        },
        "kernels": {"environment": environment, "checks": checks, "timings": timings},
        "pipeline-8": {"rows": [{"way": "run", "images_per_second": 123.4}]},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_the_page_has_what_was_measured(measured):
    text = gpu_page.page(gpu_page.read(measured))
    assert text.startswith("# On a GPU: NVIDIA H200\n")
    for part in ("driver: 580", "torch 2.11", "this / that", "2.0e-07", "not enough memory", "123.4"):
        assert part in text
    assert "## The contrastive loss" not in text


def test_goals_are_judged_by_the_worst_case(measured):
    found = {goal: (value, met) for goal, value, met in gpu_page.goals(gpu_page.read(measured))}
    assert [met for _, met in found.values()] == ["met", "missed", "", "met", "missed"]
    assert found["argmax 2 times as fast as torch"][0].startswith("4.00 x")
    assert found["attention not slower than torch.compile"] == ("not measured", "")


def test_rows_for_the_readme(measured, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_page.py", str(measured), "--page", str(measured / "page.md")])
    gpu_page.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "| a folder on NVIDIA H200, backend torch, images per second | 123 at batch 8 | | `scripts/gpu_hour.sh` |"
    )
    assert all(line.count("|") == 5 for line in lines)
    assert (measured / "page.md").read_text().startswith("# On a GPU")


def test_without_a_gpu_it_says_that_nothing_was_measured(tmp_path):
    steps = [{**STEP, "name": "kernels", "status": "skipped", "reason": "no CUDA GPU"}]
    (tmp_path / "summary.json").write_text(json.dumps({"steps": steps}))
    results = gpu_page.read(tmp_path)
    assert "There was no GPU." in gpu_page.page(results)
    assert [value for _, value, _ in gpu_page.goals(results)] == ["not measured"] * 5
    assert gpu_page.rows(results) == ["No rows for the README: nothing was measured on a GPU."]


def test_a_folder_without_results(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_page.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"summary\.json: is not there; run scripts/gpu_hour\.sh first"):
        gpu_page.main()
