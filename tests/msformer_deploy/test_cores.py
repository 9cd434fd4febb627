"""Cores that may be used."""

from __future__ import annotations

import os

import pytest

from msformer_deploy.cores import usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_cores_a_process_is_not_bound_to_do_not_count():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)


@pytest.mark.parametrize(("machine", "cores"), [(6, 6), (None, 1)])
def test_a_system_that_binds_no_process_tells_all_of_its_cores(monkeypatch, machine, cores):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    assert usable_cores() == cores
