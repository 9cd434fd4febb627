"""Laps add up to the whole; on a GPU they are read from events, and nothing waits before the end."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from msformer_deploy.refinement.stopwatch import CudaStopwatch, WallStopwatch


def test_stages_are_wall_clock_and_add_up():
    start = time.perf_counter()
    stopwatch = WallStopwatch()
    time.sleep(0.02)
    stopwatch.lap("first")
    stopwatch.lap("second")
    time.sleep(0.01)
    stopwatch.lap("first")
    whole = time.perf_counter() - start
    seconds = stopwatch.seconds()
    assert list(seconds) == ["first", "second"]
    assert seconds["first"] >= 0.03 > seconds["second"]
    assert sum(seconds.values()) == pytest.approx(whole, abs=0.005)


class Stream:
    """A GPU in time with a clock that tests move: what is queued gets done as its work is."""

    def __init__(self) -> None:
        self.free_at = self.now = 0.0  # milliseconds
        self.waits: list[float] = []

    def queue(self, milliseconds: float) -> None:
        self.free_at = max(self.free_at, self.now) + milliseconds


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Stands in for torch's current stream; its events are those of CUDA as far as the stopwatch needs them."""
    stream = Stream()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, on: Stream) -> None:
            assert on is stream
            self.at = max(stream.now, stream.free_at)

        def synchronize(self) -> None:
            stream.waits.append(self.at)
            stream.now = max(stream.now, self.at)

        def elapsed_time(self, later: Any) -> float:
            assert stream.now >= later.at, "read before it was waited for"
            return float(later.at - self.at)

    def current_stream(device: str) -> Stream:
        assert device == "cuda:1"
        return stream

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    return stream


def test_on_a_gpu_stages_last_as_long_as_the_gpu_takes(stream):
    stopwatch = CudaStopwatch("cuda:1")
    stream.now += 4  # the host prepares, the stream has nothing to do
    stopwatch.lap("preprocess")
    for stage, milliseconds in (("encoder", 10.0), ("step 1", 2.0), ("step 2", 3.0)):
        stream.queue(milliseconds)
        stopwatch.lap(stage)
    stream.now += 1  # queued long before the GPU is done
    assert stream.waits == []
    told = {"preprocess": 0.004, "encoder": 0.010, "step 1": 0.002, "step 2": 0.003}
    assert stopwatch.seconds() == pytest.approx(told)
    assert stream.waits == [19.0]
    stream.now += 6
    stopwatch.lap("foreground")
    stream.queue(1)
    stopwatch.lap("step 1")
    assert stopwatch.seconds() == pytest.approx(told | {"foreground": 0.006, "step 1": 0.003})
