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
from msformer_deploy.driver import Driver, Gpu
from msformer_deploy.errors import BackendUnavailable, BundleError, DeployError

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


@pytest.mark.parametrize(
    ("error", "exit_code", "reason"),
    [
        (BackendUnavailable("no such device"), 4, "no such device"),
        (BundleError("engine: damaged"), 3, "engine: damaged"),
        (ValueError("invalid\ncapsule"), 3, "ValueError: invalid capsule"),
    ],
    ids=["lacks something", "fails", "bug"],
)
def test_a_backend_that_fails_does_not_hide_the_others(
    script: ModuleType,
    tiny_bundle: Bundle,
    images: Path,
    monkeypatch: Any,
    capsys: Any,
    error: Exception,
    exit_code: int,
    reason: str,
) -> None:
    real = script.Segmenter

    def opened(*arguments: Any, **options: Any) -> Any:
        if options.get("whole_graph") is not None and options["backend"] == "onnxruntime":
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(script, "Segmenter", opened)
    arguments = ["--bundle", tiny_bundle.path, "--device", "cpu", "--images", images, "--seconds", 0]
    assert run(script, monkeypatch, *arguments) == exit_code
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("onnxruntime ") and line.endswith(f"  {reason}") for line in lines) == 2
    assert any(line.startswith("torch ") and line.endswith("  cpu") for line in lines)


OK = {"status": "ok", "agreement": 1.0}
LACKS, FAILS = ({"status": "failed", "exit_code": code} for code in (4, 1))


@pytest.mark.parametrize(
    ("rows", "exit_code"),
    [
        ({"torch": OK, "onnxruntime": OK, "tensorrt": LACKS}, 0),
        ({"torch": OK}, 0),
        ({"torch": OK, "onnxruntime": LACKS}, 4),
        ({"torch": LACKS, "onnxruntime": LACKS}, 4),
        ({"torch": OK, "onnxruntime": OK, "tensorrt": FAILS}, 3),
        ({"torch": OK, "onnxruntime": LACKS, "tensorrt": FAILS}, 3),
        ({"torch": OK, "onnxruntime": OK | {"agreement": 0.9}}, 3),
    ],
)
def test_the_exit_code(script: ModuleType, rows: dict[str, dict[str, Any]], exit_code: int) -> None:
    assert script.verdict([{"backend": backend, **entry} for backend, entry in rows.items()]) == exit_code


def test_a_bundle_that_is_none_is_one_line(script: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    assert run(script, monkeypatch, "--bundle", tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


@pytest.fixture
def builds(script: ModuleType, monkeypatch: Any) -> list[Any]:
    """A machine with TensorRT and a GPU; what is built is only noted."""
    plans: list[Any] = []

    def build(*_: object, additions: Any, **__: object) -> str:
        assert additions.precisions == ("fp32", "fp16")
        assert additions.plan is None
        return "without engines"

    def update(_: Path, additions: Any, **__: object) -> str:
        assert additions.precisions == ("fp32", "fp16")
        plans.append(additions.plan)
        return "with engines"

    monkeypatch.setattr(script, "build_bundle", build)
    monkeypatch.setattr(script, "update_bundle", update)
    monkeypatch.setattr(script, "find", lambda: "TensorRT")
    monkeypatch.setattr(script, "find_driver", lambda: Driver((13, 0), (Gpu("H200", "9.0"),)))
    return plans


def test_engines_are_for_the_first_gpu(script: ModuleType, builds: list[Any], tmp_path: Path) -> None:
    assert script.make_bundle(tmp_path) == "with engines"
    assert [(plan.flavour, plan.gpu, plan.driver) for plan in builds] == [("TensorRT", Gpu("H200", "9.0"), "13.0")]


@pytest.mark.parametrize("lacking", ["find", "find_driver", "update_bundle"])
@pytest.mark.usefixtures("builds")
def test_without_engines_that_run_here_the_rest_is_compared(
    script: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: Any, lacking: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackendUnavailable("TensorRT-RTX cannot run it on H200 at all")

    monkeypatch.setattr(script, lacking, fail)
    assert script.make_bundle(tmp_path) == "without engines"
    assert "no engines: TensorRT-RTX cannot run it on H200 at all" in capsys.readouterr().out


@pytest.mark.usefixtures("builds")
def test_engines_that_are_wrong_are_an_error(script: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DeployError("cannot parse encoder.onnx")

    monkeypatch.setattr(script, "update_bundle", fail)
    with pytest.raises(DeployError, match="cannot parse"):
        script.make_bundle(tmp_path)
