"""What this machine can run, found by trying: a session on a tiny graph per provider."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from .errors import BackendUnavailable
from .versions import installed_versions


def diagnose() -> dict[str, Any]:
    """Machine, versions and one check per runtime: name, works, detail, advice."""
    versions = installed_versions()
    return {
        "machine": {
            "system": platform.platform(terse=True),
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": versions,
        "checks": [
            _torch(versions),
            *_onnxruntime(versions),
            *(_package(*entry) for entry in _OPTIONAL),
            _cuda_kernels(),
        ],
    }


_OPTIONAL = (
    ("tensorrt", "tensorrt", "install msformer-deploy[tensorrt]; its wheels are on NVIDIA's own package index"),
    ("tensorrt-rtx", "tensorrt_rtx", "install msformer-deploy[tensorrt-rtx]"),
)


_DRIVER = "check driver and CUDA"


def _check(name: str, works: bool, detail: str, advice: str = "") -> dict[str, Any]:
    return {"name": name, "works": works, "detail": detail, "advice": "" if works else advice}


def _torch(versions: dict[str, str]) -> dict[str, Any]:
    if "torch" not in versions:
        return _check("torch", False, "not installed", "install msformer-deploy again")
    return _check("torch", True, versions["torch"])


def _onnxruntime(versions: dict[str, str]) -> list[dict[str, Any]]:
    cpu, gpu = "onnxruntime" in versions, "onnxruntime-gpu" in versions
    if cpu and gpu:
        return [
            _check(
                "onnxruntime",
                False,
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
                "uninstall both, then install exactly one of msformer-deploy[cpu] and msformer-deploy[gpu]",
            )
        ]
    if not (cpu or gpu):
        return [_check("onnxruntime", False, "not installed", "install msformer-deploy[cpu] or msformer-deploy[gpu]")]
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        return [_check("onnxruntime", False, f"cannot be imported: {error}", "uninstall it and install it again")]
    available = onnxruntime.get_available_providers()
    checks = [_provider(name, available) for name in ("CPUExecutionProvider", "CUDAExecutionProvider")]
    return [_check("onnxruntime", True, onnxruntime.__version__), *checks]


def _provider(name: str, available: list[str]) -> dict[str, Any]:
    from .backends.base import Device
    from .backends.onnxruntime import open_session

    label = f"onnxruntime {name}"
    try:
        session = open_session(_tiny_graph(), Device("cpu") if name.startswith("CPU") else Device("cuda"), threads=1)
        import numpy as np

        (got,) = session.run(None, {"x": np.ones(2, np.float32)})
    except BackendUnavailable as error:
        advice = "install msformer-deploy[gpu] in place of [cpu]" if name not in available else _DRIVER
        return _check(label, False, str(error), advice)
    except Exception as error:  # the binding raises many classes, none of them public
        return _check(label, False, f"opens a session but cannot run it: {' '.join(str(error).split())}", _DRIVER)
    if not (got == 2).all():
        return _check(label, False, f"computes wrongly: 1 + 1 gave {got.tolist()}", _DRIVER)
    return _check(label, True, f"ran a graph on {session.get_providers()[0]}")


def _tiny_graph() -> bytes:
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "tiny", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _cuda_kernels() -> dict[str, Any]:
    advice = "install msformer-deploy[cuda] on a machine with NVIDIA's driver"
    if not any(map(_is_installed, ("pycuda", "cuda.core"))):
        return _check("cuda kernels", False, "neither PyCUDA nor cuda.core is installed", advice)
    from .kernels.launch import describe

    works, detail = describe()
    return _check("cuda kernels", works, detail, advice)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def _package(name: str, module: str, advice: str) -> dict[str, Any]:
    if importlib.util.find_spec(module) is None:
        return _check(name, False, "not installed", advice)
    return _check(name, True, "installed")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
