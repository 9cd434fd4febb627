"""Find what this machine can run: every runtime does one small computation in a separate process."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from ..backends.onnxruntime_failures import BOTH_WHEELS, WHEELS
from ..machine.cores import cpu_quota, usable_cores
from ..machine.extras import is_installed
from ..machine.interpreter import command_of
from ..machine.jetson import Jetson, find_jetson
from ..machine.versions import installed_versions, overwrite_each_other
from .probes import Outcome

TIMEOUT = 120  # seconds for one check; building a first engine on a slow board can take half of it

_ONNXRUNTIME = {
    "onnxruntime CPUExecutionProvider": "onnxruntime_cpu",
    "onnxruntime CUDAExecutionProvider": "onnxruntime_cuda",
    "onnxruntime TensorrtExecutionProvider": "onnxruntime_tensorrt",
}
_NEEDS_WHEELS = ("torch cuda", *list(_ONNXRUNTIME)[1:], "tensorrt")


def diagnose() -> dict[str, Any]:
    """Return the machine, the versions and one check per runtime: name, works, detail, advice (empty if it works)."""
    versions, jetson = installed_versions(), find_jetson()
    probes = _absent_or_probed(versions)
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        outcomes = dict(zip(probes, pool.map(_settle, probes.values()), strict=True))
    if jetson:
        outcomes["jetson"] = _jetson(jetson)
        for name in _NEEDS_WHEELS:
            if name in outcomes and not outcomes[name].works:
                outcomes[name] = outcomes[name]._replace(advice=jetson.wheels)
    return {
        "machine": {
            "system": platform.platform(terse=True),
            "cpu": _cpu_name(),
            "cores": usable_cores(),
            "cpu_quota": cpu_quota(),
            "python": platform.python_version(),
        },
        "versions": versions,
        "checks": [
            {"name": name, "works": works, "detail": detail, "advice": "" if works else advice}
            for name, (works, detail, advice) in outcomes.items()
        ],
    }


def probe(name: str, timeout: float = TIMEOUT) -> Outcome:
    """Run one of :mod:`.probes` in a separate process; a crash and a timeout are outcomes too.

    Args:
        name: name of the probe.
        timeout: seconds.
    """
    command = [*command_of("msformer_deploy.doctor.probes"), name]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()  # do not wait: a process that hangs in a driver cannot end
            return Outcome(False, f"gave no answer within {timeout:g} s", "reboot if nvidia-smi hangs as well")
        printed, said = (_lines(file) for file in (out, err))
    try:
        works, detail, advice = json.loads(printed[-1])
    except (IndexError, TypeError, ValueError):
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Outcome(False, ": ".join([f"the check ended with {ending}", *said[-1:]]), "install it again")
    return Outcome(works, detail, advice)


def _absent_or_probed(versions: dict[str, str]) -> dict[str, Outcome | str]:
    """For each check by name: the probe to run, or the outcome where nothing needs to be tried."""
    checks: dict[str, Outcome | str] = {"silence": "silence", "nvidia driver": "nvidia_driver"}
    if "torch" in versions:
        checks |= {"torch": "torch_cpu", "torch cuda": "torch_cuda"}
    else:
        checks["torch"] = Outcome(
            False,
            "not installed",
            "install msformer-deploy[export], or [torch] for bundles of your own, to learn in torch",
        )
    if overwrite_each_other(WHEELS):
        checks["onnxruntime"] = Outcome(False, *BOTH_WHEELS)
    elif not is_installed("onnxruntime"):
        checks["onnxruntime"] = Outcome(False, "not installed", "install msformer-deploy[cpu] or msformer-deploy[gpu]")
    else:
        named = [f"{name} {versions[name]}" for name in WHEELS if name in versions]
        checks["onnxruntime"] = Outcome(True, ", ".join(named) or "a build of its own")
        checks |= _ONNXRUNTIME
    for name, module, advice in (
        ("openvino", "openvino", "install msformer-deploy[openvino]"),
        ("tensorrt", "tensorrt", "install msformer-deploy[tensorrt]; its wheels are on NVIDIA's own package index"),
        ("tensorrt-rtx", "tensorrt_rtx", "install msformer-deploy[tensorrt-rtx]"),
    ):
        checks[name] = module if is_installed(module) else Outcome(False, "not installed", advice)
    checks["cuda kernels"] = (
        "cuda_kernels"
        if any(map(is_installed, ("cuda.core", "pycuda")))
        else Outcome(
            False,
            "neither cuda.core nor PyCUDA is installed",
            "install msformer-deploy[cuda] on a machine with NVIDIA's driver",
        )
    )
    return checks


def _settle(check: Outcome | str) -> Outcome:
    return probe(check) if isinstance(check, str) else check


def _jetson(jetson: Jetson) -> Outcome:
    return Outcome(not jetson.too_old, str(jetson), jetson.wheels)


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").strip().splitlines()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
