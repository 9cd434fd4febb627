"""The diagnosis tries things for real, so it must also survive what is broken."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from msformer_deploy import diagnosis

onnxruntime = pytest.importorskip("onnxruntime")


def check(name: str) -> dict[str, Any]:
    (found,) = [entry for entry in diagnosis.diagnose()["checks"] if entry["name"] == name]
    return dict(found)


def test_the_cpu_provider_ran_a_graph() -> None:
    found = check("onnxruntime CPUExecutionProvider")
    assert found == {
        "name": "onnxruntime CPUExecutionProvider",
        "works": True,
        "detail": "ran a graph on CPUExecutionProvider",
        "advice": "",
    }


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this is a GPU build")
def test_a_provider_that_is_absent_says_what_to_install() -> None:
    found = check("onnxruntime CUDAExecutionProvider")
    assert not found["works"]
    assert "CPUExecutionProvider" in found["detail"]
    assert found["advice"] == "install msformer-deploy[gpu] in place of [cpu]"


@pytest.mark.parametrize(
    ("versions", "detail", "advice"),
    [
        ({}, "not installed", "install msformer-deploy[cpu]"),
        ({"onnxruntime": "1", "onnxruntime-gpu": "1"}, "overwrite each other", "uninstall both"),
    ],
    ids=["none", "both"],
)
def test_onnxruntime_wheels(monkeypatch: Any, versions: dict[str, str], detail: str, advice: str) -> None:
    monkeypatch.setattr(diagnosis, "installed_versions", lambda: versions)
    found = check("onnxruntime")
    assert not found["works"]
    assert detail in found["detail"]
    assert advice in found["advice"]
    assert not check("torch")["works"]


def test_a_runtime_that_cannot_be_imported(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = check("onnxruntime")
    assert not found["works"]
    assert found["detail"].startswith("cannot be imported: ")
    assert found["advice"]


class Session:
    """A session that opens and then fails or computes wrongly, as with a driver that does not match."""

    def run(self, *_: object) -> list[Any]:
        raise RuntimeError("CUDA failure 35:\n driver too old")

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


class WrongSession(Session):
    def run(self, _: object, inputs: dict[str, Any]) -> list[Any]:
        return [inputs["x"]]


def test_a_session_that_opens_but_does_not_run(monkeypatch: Any) -> None:
    monkeypatch.setattr("msformer_deploy.backends.onnxruntime.open_session", lambda *_, **__: Session())
    found = check("onnxruntime CPUExecutionProvider")
    assert not found["works"]
    assert "CUDA failure 35: driver too old" in found["detail"]
    assert found["advice"]


def test_a_session_that_computes_wrongly(monkeypatch: Any) -> None:
    monkeypatch.setattr("msformer_deploy.backends.onnxruntime.open_session", lambda *_, **__: WrongSession())
    found = check("onnxruntime CPUExecutionProvider")
    assert not found["works"]
    assert "1 + 1 gave [1.0, 1.0]" in found["detail"]
    assert found["advice"]


def test_optional_packages(monkeypatch: Any) -> None:
    real = diagnosis.importlib.util.find_spec
    monkeypatch.setattr(
        diagnosis.importlib.util, "find_spec", lambda name: object() if name == "tensorrt" else real(name)
    )
    assert check("tensorrt")["works"]


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("works", [False, True])
def test_the_cuda_kernels(monkeypatch: Any, installed: bool, works: bool) -> None:
    """Without either launcher torch is not even asked; with one, the launcher says whether it works."""
    from msformer_deploy.kernels import launch

    monkeypatch.setattr(diagnosis, "_is_installed", lambda module: installed and module == "cuda.core")
    monkeypatch.setattr(launch, "describe", lambda: (works, "as it said"))
    found = check("cuda kernels")
    assert found["works"] == (installed and works)
    assert found["detail"] == ("as it said" if installed else "neither PyCUDA nor cuda.core is installed")
    assert bool(found["advice"]) != found["works"]


def test_a_module_of_an_absent_package_is_not_installed() -> None:
    assert not diagnosis._is_installed("no_such_package.module")


def test_the_machine() -> None:
    machine = diagnosis.diagnose()["machine"]
    assert machine.keys() == {"system", "cpu", "cores", "python"}
    assert machine["cores"] >= 1
    assert all(machine.values())
