"""The number of cores that this process may use."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_ESCAPED = re.compile(r"\\(\d{3})")  # a blank in a name, as mountinfo writes it


def usable_cores(root: Path = _ROOT) -> int:
    """Number of cores that this process may use; a container or ``taskset`` may allow fewer than the machine has.

    This is the number of cores in the process's affinity, limited by the CPU quota of its control group, rounded up.
    Python (``os.process_cpu_count`` included), psutil and the runtimes ignore the quota in their counts.

    Args:
        root: root of the file system; its ``proc`` lists the control groups.
    """
    quota = cpu_quota(root)
    return _bound() if quota is None else max(min(_bound(), math.ceil(quota)), 1)


def threads_for_runtime(asked: int | None) -> int | None:
    """Number of threads for a runtime: the number asked for, or the limit of a quota; None: the runtime chooses."""
    if asked is None and (cores := usable_cores()) < _bound():
        return cores
    return asked


def give_torch(threads: int | None) -> None:
    """Set the number of torch's threads; None keeps the number, or lowers it to the limit of a quota."""
    import torch

    if threads is None:
        left = threads_for_runtime(None)
        threads = None if left is None else min(left, torch.get_num_threads())
    if threads is not None:
        torch.set_num_threads(threads)


def _bound() -> int:
    """Number of cores in the affinity of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The CPU quota of this process's control groups, in cores, such as 1.5; None if there is no quota.

    Groups are nested; the smallest quota of a group and its parents applies. Both versions of Linux control groups are
    read, see the kernel documents cgroup-v1/sched-bwc and cgroup-v2 (Interface Files, CPU).

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
    """The folders of this process's groups that can hold a quota, each followed by its parents."""
    paths = dict(_memberships(root))
    for kind, top, mount in _mounts(root):
        if kind not in paths:
            continue
        # A mount may show a part of the hierarchy only: a container sees its own group at the top.
        try:
            inner = PurePosixPath(paths[kind]).relative_to(top)
        except ValueError:
            inner = PurePosixPath()
        if ".." in inner.parts:  # the group is outside of this name space
            inner = PurePosixPath()
        for depth in range(len(inner.parts), -1, -1):
            yield root / mount.lstrip("/") / PurePosixPath(*inner.parts[:depth])


def _memberships(root: Path) -> Iterator[tuple[str, str]]:
    """Each version of control groups, and the path of this process's CPU group in it."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif "cpu" in controllers.split(","):
            yield "cgroup", path


def _mounts(root: Path) -> Iterator[tuple[str, str, str]]:
    """Version, root within the hierarchy and mount point of each hierarchy that can hold quotas, see proc(5)."""
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
