"""What is told of a machine, and what makes times on it unreliable."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.bundle.folder import MANIFEST, sha256
from msformer_deploy.doctor import environment
from msformer_deploy.machine.driver import Driver, Gpu


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Files of another machine's /proc and /sys."""
    monkeypatch.setattr(environment, "_SYSTEM", tmp_path)

    def put(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / PLACES[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return put


CPU0 = "sys/devices/system/cpu/cpu0/cpufreq"
PLACES = {
    "cpuinfo": "proc/cpuinfo",
    "governor": f"{CPU0}/scaling_governor",
    "now": f"{CPU0}/scaling_cur_freq",
    "most": f"{CPU0}/cpuinfo_max_freq",
    "quota": "sys/fs/cgroup/cpu.max",
    "quota1": "sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "period1": "sys/fs/cgroup/cpu/cpu.cfs_period_us",
}


def test_this_machine_is_described(tiny_bundle):
    told = environment.describe([tiny_bundle], threads=3)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["threads"] == {"asked": 3, "used": None}
    assert told["cores"] == os.cpu_count()
    assert told["cpu"]
    assert told["versions"]["torch"]
    assert told["bundles"] == {str(tiny_bundle.path): sha256(tiny_bundle.path / MANIFEST)}
    assert told["memory_mb"] > 100
    assert environment.warnings(told | {"load": 0.0, "affinity": 1024, "quota": None}) == []


def test_what_a_machine_tells_is_read(machine, tiny_bundle):
    machine(
        cpuinfo="processor : 0\nmodel name\t: Some CPU @ 2 GHz\ncpu MHz\t\t: 1999.5\n",
        governor="powersave\n",
        now="800000\n",
        most="3600000\n",
        quota="150000 100000\n",
    )
    told = environment.describe([], None)
    assert (told["cpu"], told["governor"], told["quota"]) == ("Some CPU @ 2 GHz", "powersave", 1.5)
    assert told["mhz"] == {"now": 800.0, "most": 3600.0}


def test_what_a_machine_does_not_tell_is_none(machine):
    told = environment.describe([], None)
    assert told["mhz"] is told["governor"] is told["quota"] is None
    machine(cpuinfo="cpu MHz : 1999.5\n", quota="max 100000\n")
    told = environment.describe([], None)
    assert told["mhz"] == {"now": 1999.5}
    assert told["quota"] is None


@pytest.mark.parametrize(("quota", "cores"), [("50000", 0.5), ("-1", None)])
def test_the_quota_of_older_control_groups(machine, quota, cores):
    machine(quota1=quota, period1="100000")
    assert environment.describe([], None)["quota"] == cores


QUIET = {"threads": {"asked": None}, "affinity": 4, "quota": None, "load": 1.9}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"threads": {"asked": 4}}, None),
        ({"threads": {"asked": 5}}, "5 threads on 4 usable cores"),
        ({"quota": 4.0}, None),
        ({"quota": 2.5}, "4 threads, but the control group allows 2.5 cores"),
        ({"quota": 2.5, "threads": {"asked": 2}}, None),
        ({"load": 2.1}, "load average 2.1 on 4 usable cores"),
        ({"load": None}, None),
    ],
)
def test_what_makes_times_unreliable(changes, said):
    found = environment.warnings(QUIET | changes)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


SMI = """#!/bin/sh
case "$1" in
  *driver_version) echo 580.65.06; echo 580.65.06;;
  *memory.used) echo "{0}"; echo "{1}";;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put an nvidia-smi on the path that tells how much memory two GPUs use."""

    def put(*used: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(SMI.format(*used))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


@pytest.mark.skipif(os.name != "posix", reason="the program is a shell script")
def test_gpus_are_told(smi, monkeypatch):
    smi("100", "20")
    gpus = (Gpu("NVIDIA A10", "8.6"), Gpu("NVIDIA A10", "8.6"))
    monkeypatch.setattr(environment, "find_driver", lambda: Driver((13, 0), gpus))
    told = environment.describe([], None)
    assert (told["gpus"], told["driver"], told["cuda"]) == (["NVIDIA A10"] * 2, "580.65.06", "13.0")
    assert environment.device_memory_mb() == pytest.approx(120 * 1.048576)


@pytest.mark.skipif(os.name != "posix", reason="the program is a shell script")
def test_gpus_that_do_not_tell_their_memory(smi):
    smi("[N/A]", "20")
    assert environment.device_memory_mb() is None


def test_without_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.device_memory_mb() is None
    assert environment.query_gpus("memory.used") == []


def test_the_commit_is_that_of_the_project_only(tmp_path, monkeypatch):
    """An installation in someone's work tree, not tracked by it, is no commit of theirs."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    code = tmp_path / "module.py"
    code.write_text("")
    monkeypatch.setattr(environment, "__file__", str(code))
    assert environment._commit() == {"commit": None, "dirty": None}
    subprocess.run([*git, "add", "module.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "m"], check=True)
    told = environment._commit()
    assert len(told["commit"]) == 40
    assert told["dirty"] is False
    code.write_text("changed")
    assert environment._commit() == told | {"dirty": True}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._commit() == {"commit": None, "dirty": None}
