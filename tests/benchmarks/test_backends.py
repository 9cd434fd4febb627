"""The table of backends that a GPU is checked with, made on a CPU: what runs, what cannot, and what counts as wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from msformer_deploy.bundle import Bundle

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "backends.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backends_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, monkeypatch: Any, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["backends.py", *map(str, arguments)])
    return int(script.main())


def test_what_runs_on_a_cpu(
    script: ModuleType, tiny_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    report = tmp_path / "report.json"
    arguments = ["--bundle", tiny_bundle.path, "--device", "cpu", "--images", images, "--seconds", 0, "--json", report]
    assert run(script, monkeypatch, *arguments) == 0
    rows = {(row["backend"], row["graph"]): row for row in json.loads(report.read_text())["rows"]}
    assert {key for key, row in rows.items() if row["status"] == "ok"} == {
        ("onnxruntime", "encoder"),
        ("onnxruntime", "segmenter"),
        ("torch", "encoder"),
    }
    assert rows["onnxruntime", "encoder"]["agreement"] == 1
    assert rows["torch", "encoder"]["agreement"] > 0.99
    assert {"encoder", "refine", "total"} <= rows["torch", "encoder"]["milliseconds"].keys()
    for backend in ("tensorrt", "onnxruntime-tensorrt"):
        assert rows[backend, "encoder"]["exit_code"] == 4
        assert rows[backend, "encoder"]["reason"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rows)
    assert all(row["reason"] in lines[1 + index] for index, row in enumerate(rows.values()) if "reason" in row)


def test_nothing_that_runs_is_no_success(
    script: ModuleType, tiny_bundle: Bundle, images: Path, monkeypatch: Any
) -> None:
    arguments = ["--bundle", tiny_bundle.path, "--device", "cpu", "--images", images, "--backend", "tensorrt"]
    assert run(script, monkeypatch, *arguments) == 4


def test_a_backend_that_disagrees_is_an_error(
    script: ModuleType, tiny_bundle: Bundle, images: Path, monkeypatch: Any
) -> None:
    """Half of the pixels in another region than fp32 has them."""

    def wrong(*_: object) -> SimpleNamespace:
        labels = np.zeros((33, 33), np.uint8)
        labels[:, ::2] = 1
        mask = np.zeros((60, 80), bool)
        result = SimpleNamespace(network_labels=labels, mask=mask, seconds={"encoder": 0.001})
        return SimpleNamespace(provider="p", kernels="k", segment=lambda _: result)

    real, calls = script.Segmenter, []

    def opened(*arguments: Any, **options: Any) -> Any:
        calls.append(options)
        return real(*arguments, **options) if len(calls) == 1 else wrong()

    monkeypatch.setattr(script, "Segmenter", opened)
    arguments = ["--bundle", tiny_bundle.path, "--device", "cpu", "--images", images, "--seconds", 0]
    assert run(script, monkeypatch, *arguments, "--backend", "torch") == 3
