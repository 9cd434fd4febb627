"""Threads that share what is measured: all begin together, every call counts, a failure ends all."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from msformer_deploy.benchmark import load


@pytest.mark.parametrize("concurrency", [1, 3])
def test_throughput_and_latency(concurrency):
    turns, running, most = [], 0, 0
    lock = threading.Lock()

    def call(turn: int) -> int:
        nonlocal running, most
        with lock:
            turns.append(turn)
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return 2

    told = load.run(call, concurrency, 0.2)
    calls = len(turns) - concurrency  # the first of each thread does not count
    assert sorted(turns) == list(range(len(turns)))
    assert most == concurrency
    assert told["concurrency"] == concurrency
    assert told["images"] == 2 * calls
    assert told["images_per_second"] == pytest.approx(2 * calls / told["duration_s"])
    assert 0.2 <= told["duration_s"] < 1
    assert 10 <= told["p50_ms"] <= told["p90_ms"] <= told["p95_ms"] <= told["p99_ms"] <= told["max_ms"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_threads_that_a_busy_machine_holds_up_are_measured_all_the_same(concurrency, monkeypatch):
    """Every thread gets on only when the time is over already."""
    clock = itertools.count(0, 10)
    monkeypatch.setattr(load.time, "perf_counter", lambda: float(next(clock)))
    told = load.run(lambda _: 2, concurrency, 0.2)
    assert told["images"] == 2 * concurrency
    assert told["duration_s"] > 0


@pytest.mark.parametrize("turn_that_fails", [0, 1, 7])
def test_a_failure_ends_all_threads_and_is_raised(turn_that_fails):
    def call(turn: int) -> int:
        if turn == turn_that_fails:
            raise ValueError("out of order")
        time.sleep(0.001)
        return 1

    before = threading.active_count()
    with pytest.raises(ValueError, match="out of order"):
        load.run(call, 3, 60)
    assert threading.active_count() == before
