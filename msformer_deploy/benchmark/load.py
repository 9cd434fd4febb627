"""Throughput against latency: threads that share one segmenter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..measures.statistics import PERCENTILES


def run(call: Callable[[int], int], concurrency: int, seconds: float) -> dict[str, Any]:
    """Let threads call at once, again and again.

    Every thread makes one call that does not count, so that what belongs to a thread is made; then all begin together.
    No call begins after ``seconds``, but every thread makes one that counts, however late a busy machine lets it begin;
    those that have begun count, and the time lasts until the last of them ends.

    Args:
        call: segments the images of a turn and returns how many they were; turns count up, over all threads.
        concurrency: threads.
        seconds: for which calls begin.

    Returns:
        ``concurrency``, ``duration_s``, ``images``, ``images_per_second`` and, per call, ``p50_ms``, ``p90_ms``,
        ``p95_ms``, ``p99_ms`` and ``max_ms``.

    Raises:
        Exception: the first that a thread met; the others end after the call they are in.
    """
    users = _Users(call, concurrency, seconds)
    threads = [threading.Thread(target=users.use, daemon=True) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return users.told()


class _Users:
    def __init__(self, call: Callable[[int], int], concurrency: int, seconds: float) -> None:
        self._call, self._concurrency, self._seconds = call, concurrency, seconds
        self._start = 0.0
        self._ready = threading.Barrier(concurrency, action=self._begin)
        self._lock = threading.Lock()
        self._turn = 0
        self._calls: list[tuple[float, float, int]] = []  # begin, end, images
        self._error: BaseException | None = None

    def _begin(self) -> None:
        self._start = time.perf_counter()

    def use(self) -> None:
        """What one thread does."""
        try:
            self._call(self._next())
            self._ready.wait()
            while self._error is None:
                begin = time.perf_counter()
                images = self._call(self._next())
                end = time.perf_counter()
                with self._lock:
                    self._calls.append((begin, end, images))
                if end >= self._start + self._seconds:
                    break
        except threading.BrokenBarrierError:  # another thread failed before all were ready
            pass
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._ready.abort()

    def _next(self) -> int:
        with self._lock:
            self._turn += 1
            return self._turn - 1

    def told(self) -> dict[str, Any]:
        """The outcome, once all threads have ended."""
        if self._error is not None:
            raise self._error
        milliseconds = [1e3 * (end - begin) for begin, end, _ in self._calls]
        duration = max(end for _, end, _ in self._calls) - self._start
        images = sum(images for *_, images in self._calls)
        return {
            "concurrency": self._concurrency,
            "duration_s": duration,
            "images": images,
            "images_per_second": images / duration,
            **{f"p{each}_ms": float(np.percentile(milliseconds, each)) for each in PERCENTILES},
            "max_ms": max(milliseconds),
        }
