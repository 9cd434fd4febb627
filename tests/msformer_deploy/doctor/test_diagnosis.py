"""The diagnosis tries things for real, in processes that may die, so it must survive what is broken."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.doctor import diagnosis
from msformer_deploy.doctor.probes import Outcome
from msformer_deploy.machine.jetson import Jetson

FAILED = Outcome(False, "as it said", "as it advised")


@pytest.fixture
def probed(monkeypatch: Any) -> list[str]:
    """The probes that would run; they all fail. Nothing is installed but what a test says."""
    ran: list[str] = []

    def probe(name: str) -> Outcome:
        ran.append(name)
        return FAILED

    monkeypatch.setattr(diagnosis, "probe", probe)
    monkeypatch.setattr(diagnosis, "find_jetson", lambda: None)
    monkeypatch.setattr(diagnosis, "installed_versions", lambda: {"torch": "2", "onnxruntime": "1.31"})
    monkeypatch.setattr(diagnosis, "is_installed", lambda module: module == "onnxruntime")
    return ran


def checks() -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in diagnosis.diagnose()["checks"]}


def test_everything_installed_is_tried_and_the_rest_is_not(probed: list[str]) -> None:
    found = checks()
    assert sorted(probed) == [
        "nvidia_driver",
        "onnxruntime_cpu",
        "onnxruntime_cuda",
        "onnxruntime_tensorrt",
        "silence",
        "torch_cpu",
        "torch_cuda",
    ]
    assert found["torch cuda"] == {
        "name": "torch cuda",
        "works": False,
        "detail": "as it said",
        "advice": "as it advised",
    }
    assert found["onnxruntime"]["detail"] == "onnxruntime 1.31"
    for name in ("openvino", "tensorrt", "tensorrt-rtx"):
        assert found[name]["detail"] == "not installed"
    assert found["openvino"]["advice"] == "install msformer-deploy[openvino]"
    assert found["cuda kernels"]["detail"] == "neither cuda.core nor PyCUDA is installed"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("openvino", "openvino"),
        ("tensorrt", "tensorrt"),
        ("tensorrt_rtx", "tensorrt_rtx"),
        ("pycuda", "cuda_kernels"),
        ("cuda.core", "cuda_kernels"),
    ],
)
def test_optional_packages_are_tried_where_they_are(
    probed: list[str], monkeypatch: Any, module: str, name: str
) -> None:
    monkeypatch.setattr(diagnosis, "is_installed", lambda asked: asked == module)
    diagnosis.diagnose()
    assert name in probed


@pytest.mark.parametrize(
    ("versions", "installed", "detail", "advice"),
    [
        ({}, False, "not installed", "install msformer-deploy[cpu]"),
        ({"onnxruntime": "1", "onnxruntime-gpu": "1"}, True, "overwrite each other", "uninstall both"),
    ],
    ids=["none", "both"],
)
def test_onnxruntime_wheels(
    probed: list[str], monkeypatch: Any, versions: dict[str, str], installed: bool, detail: str, advice: str
) -> None:
    monkeypatch.setattr(diagnosis, "installed_versions", lambda: versions)
    monkeypatch.setattr(diagnosis, "overwrite_each_other", lambda names: versions.keys() >= set(names))
    monkeypatch.setattr(diagnosis, "is_installed", lambda _: installed)
    found = checks()
    assert not found["onnxruntime"]["works"]
    assert detail in found["onnxruntime"]["detail"]
    assert advice in found["onnxruntime"]["advice"]
    assert not found["torch"]["works"]
    assert not any(name.startswith("onnxruntime") for name in probed)


@pytest.mark.parametrize(
    ("versions", "detail"),
    [
        ({"onnxruntime-gpu": "1.31"}, "onnxruntime-gpu 1.31"),
        ({"onnxruntime": "1.30", "onnxruntime-gpu": "1.31"}, "onnxruntime 1.30, onnxruntime-gpu 1.31"),
        ({}, "a build of its own"),
    ],
)
def test_onnxruntime_of_either_kind(probed: list[str], monkeypatch: Any, versions: dict[str, str], detail: str) -> None:
    monkeypatch.setattr(diagnosis, "installed_versions", lambda: versions)
    assert checks()["onnxruntime"]["detail"] == detail


def test_on_a_jetson_wheels_come_from_elsewhere(probed: list[str], monkeypatch: Any) -> None:
    board = Jetson("NVIDIA Jetson Orin Nano", "36.4.3")
    monkeypatch.setattr(diagnosis, "find_jetson", lambda: board)
    found = checks()
    assert found["jetson"]["works"]
    assert found["jetson"]["detail"] == "NVIDIA Jetson Orin Nano (JetPack 6, L4T 36.4.3)"
    for name in ("torch cuda", "onnxruntime CUDAExecutionProvider", "tensorrt"):
        assert found[name]["advice"] == board.wheels
    for name in ("nvidia driver", "torch", "onnxruntime CPUExecutionProvider", "tensorrt-rtx"):
        assert found[name]["advice"] != board.wheels


def test_an_old_jetson_is_told_to_update(probed: list[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(diagnosis, "find_jetson", lambda: Jetson("NVIDIA Jetson Xavier NX", "35.4.1"))
    assert checks()["jetson"]["advice"].startswith("update to JetPack 6")


@pytest.mark.slow
def test_a_probe_of_its_own_process_answers() -> None:
    outcome = diagnosis.probe("torch_cpu")
    assert outcome.works, outcome


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ('echo noise; echo \'[true, "fine", ""]\'', Outcome(True, "fine", "")),
        ("kill -SEGV $$", Outcome(False, "the check ended with signal SIGSEGV", "install it again")),
        (
            "echo first >&2; echo ' last words' >&2; exit 3",
            Outcome(False, "the check ended with exit code 3:  last words", "install it again"),
        ),
        ("echo nonsense", Outcome(False, "the check ended with exit code 0", "install it again")),
        ("echo '[1]'", Outcome(False, "the check ended with exit code 0", "install it again")),
        ("exec sleep 60", Outcome(False, "gave no answer within 0.2 s", "reboot if nvidia-smi hangs as well")),
        # Grandchildren that live on must not keep the diagnosis waiting for its pipes.
        ("sleep 8 & kill -KILL $$", Outcome(False, "the check ended with signal SIGKILL", "install it again")),
    ],
    ids=["answers", "crashes", "fails", "nonsense", "too little", "hangs", "leaves a child"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
def test_a_process_that_dies_or_hangs_is_an_outcome(
    monkeypatch: Any, tmp_path: Path, script: str, outcome: Outcome
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert diagnosis.probe("torch_cpu", timeout=0.2 if "exec" in script else 4) == outcome


def test_the_machine(probed: list[str]) -> None:
    machine = diagnosis.diagnose()["machine"]
    assert machine.keys() == {"system", "cpu", "cores", "cpu_quota", "python"}
    assert machine["cores"] >= 1
    assert all(value for name, value in machine.items() if name != "cpu_quota")
