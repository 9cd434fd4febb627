"""Where the time of one call goes, stage by stage, without making the call wait more than it does anyway."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any


class Stopwatch(ABC):
    """Runs from when it is made. A stage lasts from the lap before it to its own."""

    @abstractmethod
    def lap(self, stage: str) -> None:
        """End a stage; one that ends several times is added up."""

    @abstractmethod
    def seconds(self) -> dict[str, float]:
        """Seconds per stage so far, in the order in which stages first ended."""


class WallStopwatch(Stopwatch):
    """For work that is done when its call returns, as on a CPU: the system's monotonic clock."""

    def __init__(self) -> None:
        self._nanoseconds: dict[str, int] = {}
        self._last = time.perf_counter_ns()

    def lap(self, stage: str) -> None:
        now = time.perf_counter_ns()
        self._nanoseconds[stage] = self._nanoseconds.get(stage, 0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        return {stage: 1e-9 * value for stage, value in self._nanoseconds.items()}


class CudaStopwatch(Stopwatch):
    """For work that is queued on torch's current stream: an event a lap, all of them read at the end.

    An event is recorded when the stream gets to it, so a stage is told as long as the GPU takes, not as long as
    it takes to queue it; and where the stream has nothing to do, as while the host decodes, as long as the host takes.

    Args:
        device: the GPU, as torch names it.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._events: list[tuple[str, Any]] = []
        self.lap("start")

    def lap(self, stage: str) -> None:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._events.append((stage, event))

    def seconds(self) -> dict[str, float]:
        """Seconds per stage so far; waits until the GPU has done the last one."""
        self._events[-1][1].synchronize()
        found: dict[str, float] = {}
        for (_, before), (stage, event) in zip(self._events, self._events[1:], strict=False):
            found[stage] = found.get(stage, 0.0) + 1e-3 * before.elapsed_time(event)
        return found
