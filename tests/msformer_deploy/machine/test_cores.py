"""Cores that may be used."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from msformer_deploy.machine import cores
from msformer_deploy.machine.cores import cpu_quota, give_torch, threads_for_runtime, usable_cores

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture
def machine(monkeypatch):
    """A process that may run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.fixture
def system(tmp_path):
    """Make a file system: the lines of /proc/self/cgroup and mountinfo, and files of groups."""

    def make(cgroup, mountinfo, **files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup + "\n", encoding="utf-8")
        (tmp_path / "proc/self/mountinfo").write_text(
            "22 1 0:20 / / rw shared:1 master:2 - ext4 /dev/sda rw\n" + mountinfo + "\n", encoding="utf-8"
        )
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="ascii")
        return tmp_path

    return make


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_cores_a_process_is_not_bound_to_do_not_count(tmp_path):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores(tmp_path) == len(before)


@pytest.mark.parametrize(("all_cores", "expected"), [(6, 6), (None, 1)])
def test_a_system_that_binds_no_process_tells_all_of_its_cores(monkeypatch, tmp_path, all_cores, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: all_cores)
    assert usable_cores(tmp_path) == expected


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    "line", ["51 30 0:48 / /tmp rw - tmpfs  rw,size=64m", "51 30 0:48 / /tmp rw", "rubbish - ", ""]
)
def test_mounts_without_a_source_and_lines_of_another_kind_do_no_harm(system, line):
    root = system(f"rubbish\n{line}\n0::/", f"{line}\n{V2}", **{"cpu.max": "200000 100000"})
    assert cpu_quota(root) == 2


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("text", "quota", "expected"),
    [
        ("max 100000", None, 8),
        ("200000 100000", 2, 2),
        ("150000 100000", 1.5, 2),
        ("10000 100000", 0.1, 1),
        ("1600000 100000", 16, 8),
        ("50000 20000", 2.5, 3),
        ("damaged", None, 8),
        ("", None, 8),
        ("100000 0", None, 8),
    ],
)
def test_a_quota_of_version_2(system, text, quota, expected):
    root = system("0::/", V2, **{"cpu.max": text})
    assert (cpu_quota(root), usable_cores(root)) == (quota, expected)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("-1", "100000", 8), ("250000", "100000", 3), ("100000", "50000", 2), ("1000", "100000", 1), ("0", "100000", 8)],
)
def test_a_quota_of_version_1(system, quota, period, expected):
    files = {"cpu,cpuacct/pod/cpu.cfs_quota_us": quota, "cpu,cpuacct/pod/cpu.cfs_period_us": period}
    root = system("5:memory:/other\n4:cpu,cpuacct:/pod\n0::/", V1, **files)
    assert usable_cores(root) == expected


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [("max 100000", "300000 100000", 3), ("200000 100000", "max 100000", 2), ("200000 100000", "500000 100000", 2)],
)
def test_the_smallest_quota_of_nested_groups_holds(system, outer, inner, expected):
    root = system("0::/a/b/c", V2, **{"a/cpu.max": outer, "a/b/c/cpu.max": inner})
    assert usable_cores(root) == expected


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("cgroup", "top"),
    [
        ("/docker/abc", "/docker/abc"),  # the container's own group is mounted, without a name space
        ("/", "/"),  # a name space
        ("/", "/docker/abc"),
        ("/../other", "/"),  # a group beside that of the name space
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_own_group_at_the_top(system, cgroup, top, version):
    if version == 2:
        root = system(f"0::{cgroup}", V2.replace(" / /sys", f" {top} /sys"), **{"cpu.max": "200000 100000"})
    else:
        files = {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
        root = system(f"4:cpu,cpuacct:{cgroup}", V1.replace(" / /sys", f" {top} /sys"), **files)
    assert usable_cores(root) == 2


@pytest.mark.usefixtures("machine")
def test_a_hybrid_system_has_its_quota_in_version_1(system):
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    unified = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    assert usable_cores(system("4:cpu,cpuacct:/\n0::/", f"{V1}\n{unified}", **files)) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids colons in names")
@pytest.mark.usefixtures("machine")
def test_names_with_blanks_and_colons_are_read(system):
    mount = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/my\\040groups")
    assert usable_cores(system("0::/a:b", mount, **{"my groups/a:b/cpu.max": "400000 100000"})) == 4


@pytest.mark.usefixtures("machine")
def test_a_quota_never_adds_cores_to_those_bound(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores(system("0::/", V2, **{"cpu.max": "400000 100000"})) == 1


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("quota", "asked", "expected"), [(None, None, None), (1.5, None, 2), (1.5, 6, 6), (8.0, None, None), (20, 3, 3)]
)
def test_a_runtime_is_told_only_what_a_quota_leaves(monkeypatch, quota, asked, expected):
    monkeypatch.setattr(cores, "cpu_quota", lambda _: quota)
    assert threads_for_runtime(asked) == expected


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("quota", "had", "asked", "expected"),
    [(None, 3, None, 3), (2, 3, None, 2), (2, 1, None, 1), (2, 3, 4, 4), (None, 3, 1, 1)],
)
def test_torch_gets_no_more_threads_than_a_quota_leaves(monkeypatch, quota, had, asked, expected):
    given = [had]
    monkeypatch.setattr(cores, "cpu_quota", lambda _: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: given[-1])
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    give_torch(asked)
    assert given[-1] == expected


@pytest.mark.usefixtures("machine")
def test_onnxruntime_and_openvino_are_told_of_a_quota(monkeypatch, tiny_bundle):
    from msformer_deploy.backends import open_backend
    from msformer_deploy.backends.base import Device

    monkeypatch.setattr(cores, "cpu_quota", lambda _: 0.5)
    with open_backend("onnxruntime", tiny_bundle, Device("cpu")) as backend:
        assert backend._session.get_session_options().intra_op_num_threads == 1
    with open_backend("openvino", tiny_bundle, Device("cpu")) as backend:
        assert backend._compiled.get_property("INFERENCE_NUM_THREADS") == 1
