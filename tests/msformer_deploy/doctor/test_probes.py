"""Each probe tries its runtime for real where it is here; what is not here is a recorded surface."""

from __future__ import annotations

import json
import re
import runpy
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from msformer_deploy.backends import onnxruntime as backend
from msformer_deploy.doctor import probes
from msformer_deploy.doctor.probes import Outcome, attempt
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.machine import trt_flavour
from msformer_deploy.machine.driver import Driver, Gpu


def no_driver() -> Driver:
    raise BackendUnavailable("there is no NVIDIA driver (libcuda.so.1 is not found); install it")


def driver(*cuda: int) -> Any:
    return lambda: Driver(cuda, (Gpu("GPU A", "8.6"),))  # type: ignore[arg-type]


def test_torch_computes() -> None:
    outcome = attempt("torch_cpu")
    assert outcome.works
    assert outcome.detail.startswith(f"{torch.__version__}, ")


def test_the_cpu_provider_runs_a_graph() -> None:
    pytest.importorskip("onnxruntime")
    assert attempt("onnxruntime_cpu") == Outcome(True, "ran a graph on CPUExecutionProvider")


def test_openvino_compiles_and_runs_a_graph() -> None:
    works, detail, advice = attempt("openvino")
    assert (works, advice) == (True, "")
    assert re.fullmatch(r"ran a graph on .+, with(out)? bf16", detail)


def test_openvino_that_computes_wrongly(monkeypatch: Any) -> None:
    from msformer_deploy.backends import openvino

    monkeypatch.setattr(openvino, "compile_on_cpu", lambda *_, **__: lambda inputs: [inputs[0] * 3])
    assert attempt("openvino") == (False, "gives wrong results: 1 + 1 gave [3.0, 3.0]", "install it again")


@pytest.mark.trt
def test_tensorrt_rtx_builds_without_a_gpu(monkeypatch: Any) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(probes, "find_driver", no_driver)
    outcome = attempt("tensorrt_rtx")
    assert outcome.works
    assert outcome.detail.startswith("TensorRT-RTX ")
    assert outcome.detail.endswith(
        "builds engines; cannot run them here: there is no NVIDIA driver (libcuda.so.1 is not found)"
    )


@pytest.mark.parametrize(
    ("found", "works", "detail", "advice"),
    [
        (driver(13, 1), True, "driver for CUDA 13.1, GPU A", ""),
        (no_driver, False, "there is no NVIDIA driver (libcuda.so.1 is not found)", "install it"),
    ],
)
def test_the_driver(monkeypatch: Any, found: Any, works: bool, detail: str, advice: str) -> None:
    monkeypatch.setattr(probes, "find_driver", found)
    assert attempt("nvidia_driver") == (works, detail, advice)


class OnGpu:
    """A torch tensor on a GPU that is not there; it computes ``total``."""

    def __init__(self, total: float) -> None:
        self.total = total

    def __add__(self, _: int) -> OnGpu:
        return self

    def sum(self) -> float:
        return self.total


@pytest.mark.parametrize(
    ("cuda", "found", "total", "expected"),
    [
        (None, driver(13, 1), 4.0, (False, "is a CPU build", "install torch for CUDA")),
        ("13.0", no_driver, 4.0, (False, "there is no NVIDIA driver", "install it")),
        (
            "13.0",
            driver(12, 8),
            4.0,
            (False, "built for CUDA 13.0, but the driver supports CUDA up to 12.8", "update the"),
        ),
        ("12.8", driver(12, 2), 4.0, (True, "ran on GPU A", "")),
        ("13.0", driver(13, 0), 5.0, (False, "gives wrong results on the GPU", "install torch again")),
    ],
    ids=["CPU build", "no driver", "old driver", "works", "wrong"],
)
def test_torch_on_a_gpu(monkeypatch: Any, cuda: str | None, found: Any, total: float, expected: Any) -> None:
    """A recorded surface: there is no GPU here."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch, "ones", lambda *_, device: OnGpu(total))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU A")
    monkeypatch.setattr(probes, "find_driver", found)
    works, detail, advice = attempt("torch_cuda")
    assert works == expected[0]
    assert expected[1] in detail
    assert advice.startswith(expected[2])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("onnxruntime_cpu", ("cpu", False)),
        ("onnxruntime_cuda", ("cuda:0", False)),
        ("onnxruntime_tensorrt", ("cuda:0", True)),
    ],
)
@pytest.mark.parametrize("got", [2.0, 1.0])
def test_sessions_are_opened_where_they_are_named_for(monkeypatch: Any, name: str, arguments: Any, got: float) -> None:
    import numpy as np

    asked = []

    def open_session(model: bytes, device: Any, threads: int, tensorrt: bool) -> Any:
        asked.append((str(device), tensorrt))
        return SimpleNamespace(
            run=lambda *_: [np.full(2, got, np.float32)], get_providers=lambda: ["CPUExecutionProvider"]
        )

    monkeypatch.setattr(backend, "open_session", open_session)
    outcome = attempt(name)
    assert asked == [arguments]
    assert outcome.works == (got == 2)
    if not outcome.works:
        assert outcome.detail == "gives wrong results: 1 + 1 gave [1.0, 1.0]"
        assert outcome.advice


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BackendUnavailable("device cuda:0 was asked for, but a; b is gone; do c"), (False, "a; b is gone", "do c")),
        (
            BackendUnavailable("odd; run 'msformer-deploy doctor'"),
            (False, "odd", "report it with 'msformer-deploy doctor --json'"),
        ),
        (BackendUnavailable("one thing"), (False, "one thing", "report it with 'msformer-deploy doctor --json'")),
        (OSError("no\nsuch file"), (False, "OSError: no such file", "install it again")),
    ],
)
def test_whatever_is_raised_is_an_outcome(monkeypatch: Any, error: Exception, expected: Any) -> None:
    def fail() -> Outcome:
        raise error

    monkeypatch.setitem(probes.PROBES, "torch_cpu", fail)
    assert attempt("torch_cpu") == expected


class Builder:
    """As much of TensorRT's builder as the tiny engine needs."""

    plan: bytes | None = b"plan"
    refuses = False

    def __init__(self, log: Any) -> None:
        if self.refuses:
            log.errors.append("CUDA initialization failure\nwith error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int) -> Any:
        output = SimpleNamespace(get_output=lambda _: "y")
        return SimpleNamespace(
            add_input=lambda *_: "x", add_elementwise=lambda *_: output, mark_output=lambda tensor: None
        )

    def create_builder_config(self) -> None:
        return None

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        return self.plan


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (True, "TensorRT 10.13.3.9 builds engines and loads them", "")),
        ({"driver": no_driver}, (False, "TensorRT 10.13.3.9 loads, but building needs a GPU: there is no", "install")),
        ({"driver": driver(12, 8)}, (False, "built for CUDA 13, but the driver supports CUDA up to 12.8", "update")),
        ({"refuses": True}, (False, "cannot build an engine: pybind11::init()", "check the driver")),
        ({"plan": None}, (False, "cannot build an engine: without a reason", "check the driver")),
        ({"loads": None}, (False, "cannot build an engine: without a reason", "check the driver")),
    ],
    ids=["works", "no driver", "old driver", "no builder", "no plan", "does not load"],
)
def test_the_full_tensorrt(monkeypatch: Any, change: dict[str, Any], expected: Any) -> None:
    """A recorded surface of TensorRT 10: its wheels and a GPU are not here."""
    monkeypatch.setattr(Builder, "refuses", change.get("refuses", False))
    monkeypatch.setattr(Builder, "plan", change.get("plan", b"plan"))
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: change.get("loads", "engine"))
    api = SimpleNamespace(
        __version__="10.13.3.9",
        Builder=Builder,
        Runtime=lambda log: runtime,
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        ElementWiseOperation=SimpleNamespace(SUM=0),
        float32="float32",
    )
    monkeypatch.setattr(trt_flavour, "find", lambda name: trt_flavour.Flavour(name, api))  # type: ignore[arg-type]
    monkeypatch.setattr(trt_flavour, "message_log", lambda _: SimpleNamespace(errors=[]))
    monkeypatch.setattr(
        probes, "version", lambda name: {"tensorrt_cu13": "10.13.3.9"}[name] if name[-1] == "3" else gone()
    )
    monkeypatch.setattr(probes, "find_driver", change.get("driver", driver(13, 1)))
    works, detail, advice = attempt("tensorrt")
    assert works == expected[0]
    assert expected[1] in detail
    assert advice.startswith(expected[2])


def gone() -> str:
    raise probes.PackageNotFoundError


@pytest.mark.parametrize("works", [False, True])
def test_the_cuda_kernels(monkeypatch: Any, works: bool) -> None:
    from msformer_deploy.kernels import launch

    monkeypatch.setattr(launch, "describe", lambda: (works, "as it said"))
    assert attempt("cuda_kernels")[:2] == (works, "as it said")


def test_as_a_program_it_prints_the_outcome_last(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["probes", "torch_cpu"])
    monkeypatch.delitem(sys.modules, probes.__name__)  # as in a fresh process
    runpy.run_module(probes.__name__, run_name="__main__")
    assert Outcome(*json.loads(capsys.readouterr().out.splitlines()[-1])).works
