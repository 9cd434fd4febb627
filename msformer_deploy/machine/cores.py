"""How many cores there are to share out."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_ESCAPED = re.compile(r"\\(\d{3})")  # how mountinfo writes blanks in names


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process may use, which in a container or under ``taskset`` may not be all of the machine's.

    That is the number of cores that it may run on, but not more than the CPU quota of its control group, rounded up.
    The counts of Python (``os.process_cpu_count`` included), of psutil and of the runtimes do not know that quota.

    Args:
        root: of the file system whose ``proc`` says what the control groups are.
    """
    quota = cpu_quota(root)
    return _bound() if quota is None else max(min(_bound(), math.ceil(quota)), 1)


def threads_for_runtime(asked: int | None) -> int | None:
    """Threads to give a runtime: the number asked for, or what a quota leaves; None lets the runtime decide."""
    if asked is None and (cores := usable_cores()) < _bound():
        return cores
    return asked


def give_torch(threads: int | None) -> None:
    """Set the number of torch's threads; None keeps what it has, but not more than a quota leaves."""
    import torch

    if threads is None:
        left = threads_for_runtime(None)
        threads = None if left is None else min(left, torch.get_num_threads())
    if threads is not None:
        torch.set_num_threads(threads)


def _bound() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The CPU quota of this process's control groups, in cores, such as 1.5; None if there is no quota.

    Groups are nested, and the smallest quota of a group and those around it holds. Both versions of Linux' control
    groups are read, as Linux' documents cgroup-v1/sched-bwc and cgroup-v2 (Interface Files, CPU) have it.

    Args:
        root: as in :func:`usable_cores`.
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _quota(folder: Path) -> float | None:
    """The quota of one group; None where it has none."""
    try:
        if (whole := folder / "cpu.max").is_file():  # version 2: "max 100000", "150000 100000"
            quota, period = whole.read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")  # version 1: -1 is none
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        cores = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, "max"
        return None
    return cores if cores > 0 else None


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's groups that can hold a quota, each followed by those around it."""
    paths = dict(_memberships(root))
    for kind, top, mount in _mounts(root):
        if kind not in paths:
            continue
        # What is mounted may be a part of the hierarchy: a container sees its own group at the top.
        try:
            inner = PurePosixPath(paths[kind]).relative_to(top)
        except ValueError:
            inner = PurePosixPath()
        if ".." in inner.parts:  # of a group outside of this name space
            inner = PurePosixPath()
        for depth in range(len(inner.parts), -1, -1):
            yield root / mount.lstrip("/") / PurePosixPath(*inner.parts[:depth])


def _memberships(root: Path) -> Iterator[tuple[str, str]]:
    """The version of control groups, and the path of this process's group of the CPU in it."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif "cpu" in controllers.split(","):
            yield "cgroup", path


def _mounts(root: Path) -> Iterator[tuple[str, str, str]]:
    """Version, root within the hierarchy and mount point of the hierarchies that can hold quotas, as in proc(5)."""
    for line in _lines(root / "proc/self/mountinfo"):
        # Split at each space: a mount may have an empty source.
        fields, _, rest = (part.split(" ") for part in line.partition(" - "))
        if len(fields) < 5 or len(rest) < 3:
            continue
        kind, _, options = rest[:3]
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            yield kind, _unescaped(fields[3]), _unescaped(fields[4])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return []


def _unescaped(name: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), name)
