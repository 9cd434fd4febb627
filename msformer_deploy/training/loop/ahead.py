"""Read the next batches while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_AHEAD = 4  # batches that are prepared at a time; each is some tens of megabytes


def ahead(make: Callable[[int], T], count: int) -> Iterator[T]:
    """Yield ``make(0)`` to ``make(count - 1)`` in this order, made in threads; an error is raised in its turn."""
    pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="batch")
    try:
        waiting: deque[Future[T]] = deque(pool.submit(make, index) for index in range(min(_AHEAD, count)))
        for index in range(_AHEAD, count + _AHEAD):
            if not waiting:
                return
            made = waiting.popleft().result()
            if index < count:
                waiting.append(pool.submit(make, index))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
