"""One probe per runtime, each run in a separate process: a library that crashes or hangs ends only its own probe.

``python -m msformer_deploy.doctor.probes NAME`` prints the outcome as JSON in its last line.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ..errors import BackendUnavailable
from ..machine.driver import Driver, find_driver
from ..machine.silence import REPORTER, VARIABLE
from ..registry import TrtFlavour

REPORT = "report it with 'msformer-deploy doctor --json'"
# Variables that name a folder of the user, on all operating systems.
HOMES = ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


class Outcome(NamedTuple):
    """Outcome of a probe.

    Attributes:
        works: whether the runtime works.
        detail: what ran, or why it does not work.
        advice: what to do if it does not work.
    """

    works: bool
    detail: str
    advice: str = ""


def nvidia_driver() -> Outcome:
    """The driver and its GPUs."""
    return Outcome(True, str(find_driver()))


def torch_cpu() -> Outcome:
    """One addition in torch."""
    import torch

    if float((torch.ones(2) + 1).sum()) != 4:
        return Outcome(False, f"torch {torch.__version__} gives wrong results", "install torch again")
    cuda = torch.version.cuda
    return Outcome(True, f"{torch.__version__}, " + (f"built for CUDA {cuda}" if cuda else "a CPU build"))


def torch_cuda() -> Outcome:
    """One addition in torch on the first GPU."""
    import torch

    cuda = torch.version.cuda
    if cuda is None:
        return Outcome(False, f"torch {torch.__version__} is a CPU build", "install torch for CUDA")
    driver = find_driver()
    if not driver.serves(cuda):
        return _too_old(driver, f"torch {torch.__version__}", cuda)
    if float((torch.ones(2, device="cuda") + 1).sum()) != 4:
        return Outcome(False, f"torch {torch.__version__} gives wrong results on the GPU", "install torch again")
    return Outcome(True, f"ran on {torch.cuda.get_device_name()}")


def onnxruntime_cpu() -> Outcome:
    """A session on the CPU."""
    return _session("cpu")


def onnxruntime_cuda() -> Outcome:
    """A session with the CUDA execution provider."""
    return _session("cuda")


def onnxruntime_tensorrt() -> Outcome:
    """A session with the TensorRT execution provider."""
    return _session("cuda", tensorrt=True)


def openvino() -> Outcome:
    """A graph compiled by OpenVINO for the CPU."""
    import numpy as np

    from ..backends.openvino import CPU, compile_on_cpu, open_core

    core = open_core()
    compiled = compile_on_cpu(core, core.read_model(_tiny_graph()), threads=1)
    got = compiled([np.ones(2, np.float32)])[0].tolist()
    if got != [2, 2]:
        return Outcome(False, f"gives wrong results: 1 + 1 gave {got}", "install it again")
    bf16 = "with" if "BF16" in core.get_property(CPU, "OPTIMIZATION_CAPABILITIES") else "without"
    return Outcome(True, f"ran a graph on {core.get_property(CPU, 'FULL_DEVICE_NAME')}, {bf16} bf16")


def silence() -> Outcome:
    """Start the runtimes that have telemetry with an empty home folder; with telemetry off they write nothing there."""
    from importlib.util import find_spec

    with TemporaryDirectory(ignore_cleanup_errors=True) as home:
        os.environ |= dict.fromkeys(HOMES, home)
        started = []
        if find_spec("onnxruntime"):
            _session("cpu")
            started.append("onnxruntime")
        if find_spec("openvino"):
            openvino()
            started.append("openvino")
        left = sorted(str(path.relative_to(home)) for path in Path(home).rglob("*") if path.is_file())
    if left:
        return Outcome(False, f"{' and '.join(started)} wrote to an empty home folder: {', '.join(left)}", REPORT)
    tried = f"; {' and '.join(started)} ran with an empty home folder and wrote nothing to it" if started else ""
    off = f"{VARIABLE}={os.environ[VARIABLE]} is set and {REPORTER} cannot be imported"
    return Outcome(True, f"telemetry is off: {off}{tried}")


def tensorrt() -> Outcome:
    """An engine of NVIDIA's full TensorRT."""
    return _engine("tensorrt")


def tensorrt_rtx() -> Outcome:
    """An engine of TensorRT for RTX."""
    return _engine("rtx")


def cuda_kernels() -> Outcome:
    """The library that launches this package's CUDA kernels."""
    from ..kernels.launch import describe

    works, detail = describe()
    return Outcome(works, detail, "install msformer-deploy[cuda] on a machine with NVIDIA's driver")


PROBES: dict[str, Callable[[], Outcome]] = {
    probe.__name__: probe
    for probe in (
        nvidia_driver,
        torch_cpu,
        torch_cuda,
        onnxruntime_cpu,
        onnxruntime_cuda,
        onnxruntime_tensorrt,
        openvino,
        silence,
        tensorrt,
        tensorrt_rtx,
        cuda_kernels,
    )
}


def attempt(name: str) -> Outcome:
    """Run a probe; an error that it raises becomes its outcome."""
    try:
        return PROBES[name]()
    except BackendUnavailable as error:
        detail, separator, advice = re.sub(r"^device \S+ was asked for, but ", "", str(error)).rpartition("; ")
        if not separator or advice == "run 'msformer-deploy doctor'":
            advice = REPORT
        return Outcome(False, detail or str(error), advice)
    except Exception as error:  # a probe must report every failure
        return Outcome(False, " ".join(f"{type(error).__name__}: {error}".split()), "install it again")


def _session(device: str, tensorrt: bool = False) -> Outcome:
    import numpy as np

    from ..backends.base import parse_device
    from ..backends.onnxruntime import open_session, placement

    session = open_session(_tiny_graph(), parse_device(device), threads=1, tensorrt=tensorrt)
    (got,) = session.run(None, {"x": np.ones(2, np.float32)})
    if got.tolist() != [2, 2]:
        return Outcome(False, f"gives wrong results: 1 + 1 gave {got.tolist()}", "install it and the driver again")
    return Outcome(True, f"ran a graph on {placement(session)}")


def _tiny_graph() -> bytes:
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "tiny", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _engine(name: TrtFlavour) -> Outcome:
    from ..machine.trt_flavour import MODULES, find, message_log

    flavour = find(name)
    try:
        driver, no_driver = find_driver(), ""
    except BackendUnavailable as error:
        driver, no_driver = None, str(error).partition(";")[0]
    if name == "tensorrt" and no_driver:
        return Outcome(False, f"{flavour} loads, but building needs a GPU: {no_driver}", "install NVIDIA's driver")
    if driver is not None and (cuda := _built_for(MODULES[name])) and not driver.serves(cuda):
        return _too_old(driver, str(flavour), cuda)
    api: Any = flavour.api
    log = message_log(flavour)
    try:
        plan = _tiny_engine(api, log)
        if plan is not None and not no_driver and api.Runtime(log).deserialize_cuda_engine(plan) is None:
            plan = None
    except Exception as error:  # TensorRT passes on any error of its C++ code
        log.errors.append(str(error))
        plan = None
    if plan is None:
        why = " ".join(log.errors[-1].split()) if log.errors else "without a reason"
        return Outcome(False, f"{flavour} cannot build an engine: {why}", "check the driver, then install it again")
    if no_driver:
        return Outcome(True, f"{flavour} builds engines; cannot run them here: {no_driver}")
    return Outcome(True, f"{flavour} builds engines and loads them")


def _tiny_engine(api: Any, log: Any) -> Any:
    """A serialised engine that adds a vector to itself, or None."""
    builder = api.Builder(log)
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", api.float32, (2,))
    network.mark_output(network.add_elementwise(x, x, api.ElementWiseOperation.SUM).get_output(0))
    return builder.build_serialized_network(network, builder.create_builder_config())


def _built_for(package: str) -> str:
    """CUDA version in the name of TensorRT's wheel; empty if TensorRT was not installed from a wheel."""
    for cuda in ("12", "13"):
        try:
            version(f"{package}_cu{cuda}")
        except PackageNotFoundError:
            continue
        return cuda
    return ""


def _too_old(driver: Driver, what: str, cuda: str) -> Outcome:
    return Outcome(
        False,
        f"{what} is built for CUDA {cuda}, but the driver supports CUDA up to {driver.cuda[0]}.{driver.cuda[1]}",
        "update the driver, or install a build for its CUDA",
    )


if __name__ == "__main__":
    print(json.dumps(attempt(sys.argv[1])))
