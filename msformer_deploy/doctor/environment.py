"""The environment of a benchmark: the facts on this machine that its numbers depend on."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..bundle.folder import MANIFEST, Bundle, sha256
from ..errors import BackendUnavailable
from ..machine.cores import usable_cores
from ..machine.driver import find_driver
from ..machine.versions import installed_versions

BUSY = 0.5  # load average per usable core from which the report warns of other work
_SYSTEM = Path("/")  # where /proc and /sys are


def describe(bundles: Iterable[Bundle], threads: int | None) -> dict[str, Any]:
    """Describe this machine now; a fact that is unknown is None.

    Args:
        bundles: the measured bundles.
        threads: the number asked for; None where each runtime chooses.

    Returns:
        plain data: ``date`` (ISO 8601, UTC), ``system``, ``cpu``, ``cores``, ``affinity`` (cores this process may use),
        ``quota`` (mean number of cores that its control group allows), ``governor`` and ``mhz`` (clock of the first
        core: ``now``, and ``most`` for the maximum), ``memory_mb``, ``load`` (average over one minute), ``threads``
        (``asked``, ``used``), ``gpus`` (names), ``driver``, ``cuda`` (newest version that the driver supports),
        ``versions``, ``bundles`` (SHA-256 of each manifest), ``commit`` and ``dirty`` (of the project's work tree, if
        the package runs from one).
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(terse=True),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "affinity": usable_cores(),
        "quota": _quota(),
        "governor": _text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "mhz": _megahertz(),
        "memory_mb": _memory(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads": {"asked": threads, "used": None},
        **_gpus(),
        "versions": installed_versions(),
        "bundles": {str(bundle.path): sha256(bundle.file(MANIFEST)) for bundle in bundles},
        **_commit(),
    }


def warnings(environment: dict[str, Any]) -> list[str]:
    """Return what makes times unreliable in this environment, one line each."""
    found = []
    asked, affinity, quota = environment["threads"]["asked"], environment["affinity"], environment["quota"]
    if asked is not None and asked > affinity:
        found.append(f"{asked} threads on {affinity} usable cores: they take turns, and times vary")
    threads = asked or affinity
    if quota is not None and threads > quota:
        found.append(
            f"{threads} threads, but the control group allows {quota:g} cores: the system stops them for a part of"
            " each period, and times vary"
        )
    load = environment["load"]
    if load is not None and load > BUSY * affinity:
        found.append(f"load average {load:.1f} on {affinity} usable cores at the start: other programs run too")
    return found


def _text(path: str) -> str | None:
    try:
        return (_SYSTEM / path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _cpu() -> str:
    for line in (_text("proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _megahertz() -> dict[str, float] | None:
    """Current and maximum clock of the first core, MHz, from cpufreq, else from cpuinfo."""
    found = {}
    for name, file in (("now", "scaling_cur_freq"), ("most", "cpuinfo_max_freq")):
        with contextlib.suppress(ValueError):  # absent, or not a number
            found[name] = int(_text(f"sys/devices/system/cpu/cpu0/cpufreq/{file}") or "") / 1000
    if "now" not in found:
        for line in (_text("proc/cpuinfo") or "").splitlines():
            if line.startswith("cpu MHz"):
                found["now"] = float(line.partition(":")[2])
                break
    return found or None


def _quota() -> float | None:
    """Number of cores that the control group allows (version 2, then 1); None for no limit."""
    text = _text("sys/fs/cgroup/cpu.max")
    if text is None:
        text = " ".join(_text(f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
    try:
        quota, period = (float(each) for each in text.split())
    except ValueError:  # "max", or nothing
        return None
    return quota / period if quota > 0 and period > 0 else None


def _memory() -> float | None:
    """Memory of the machine, MB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    except (AttributeError, OSError, ValueError):
        return None


def _gpus() -> dict[str, Any]:
    try:
        driver = find_driver()
    except BackendUnavailable:
        return {"gpus": [], "driver": None, "cuda": None}
    versions = query_gpus("driver_version")
    return {
        "gpus": [gpu.name for gpu in driver.devices],
        "driver": versions[0] if versions else None,
        "cuda": driver.version,
    }


def query_gpus(field: str) -> list[str]:
    """A field of ``nvidia-smi --query-gpu``, one text per GPU; empty if nvidia-smi is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    return _output([program, f"--query-gpu={field}", "--format=csv,noheader,nounits"]).splitlines()


def device_memory_mb() -> float | None:
    """Memory in use on all GPUs together, by all processes, MB; None if no GPU reports it."""
    try:
        used = [float(each) for each in query_gpus("memory.used")]
    except ValueError:  # integrated GPUs report "[N/A]"
        return None
    return sum(used) * 2**20 / 1e6 if used else None


def _commit() -> dict[str, Any]:
    """State of the work tree that tracks this file; an installation inside another work tree does not count."""
    here = Path(__file__).resolve()
    git = shutil.which("git")
    if git is None or not _output([git, "-C", str(here.parent), "ls-files", "--", here.name]):
        return {"commit": None, "dirty": None}
    return {
        "commit": _output([git, "-C", str(here.parent), "rev-parse", "HEAD"]) or None,
        "dirty": bool(_output([git, "-C", str(here.parent), "status", "--porcelain"])),
    }


def _output(command: list[str]) -> str:
    """Output of a program; empty if it fails."""
    try:
        finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return finished.stdout.decode(errors="replace").strip() if finished.returncode == 0 else ""
