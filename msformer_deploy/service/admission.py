"""Which requests are served, which wait, and which are refused."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from .refused import Refused, draining

_WEIGHT = 0.1  # of the last request in the mean time of a request


class Admission:
    """A number of places, and a queue before them that is served in order.

    All methods are called in the thread of the event loop.

    Args:
        places: requests that are in work at a time.
        queue: requests that may wait.
        idle: called when the last request in work has ended.
    """

    def __init__(self, places: int, queue: int, idle: Callable[[], None]) -> None:
        self._places, self._queue, self._idle = places, queue, idle
        self._turns: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 0.0
        self.in_work, self.ending = 0, False

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._turns)

    async def enter(self, seconds: float) -> float:
        """Wait for a place, which :meth:`leave` gives back; the time at which it was given.

        Raises:
            Refused: the queue is full (429), no place was free in this time (504), or the server ends (503).
        """
        if self.ending:
            raise draining()
        if self.in_work < self._places:
            self.in_work += 1
            return time.perf_counter()
        if len(self._turns) >= self._queue:
            raise Refused(
                429,
                "queue full",
                f"{self.in_work} requests are in work and {self.waiting} wait; try again later",
                {"Retry-After": str(self._seconds_of_queue())},
            )
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            await asyncio.wait({turn}, timeout=seconds)
            _result(turn, seconds)
        except BaseException:
            if turn in self._turns:
                self._turns.remove(turn)
            elif turn.done() and turn.exception() is None:  # the place was given as the client left
                self._give_on()
            raise
        return time.perf_counter()

    def leave(self, since: float) -> None:
        """Give a place back that was taken at this time."""
        self._mean_seconds += _WEIGHT * (time.perf_counter() - since - self._mean_seconds)
        self._give_on()

    def end(self) -> None:
        """Admit nobody any more, and refuse those that wait."""
        self.ending = True
        while self._turns:
            self._turns.popleft().set_exception(draining())
        if not self.in_work:
            self._idle()

    def _give_on(self) -> None:
        if self._turns:
            self._turns.popleft().set_result(None)
            return
        self.in_work -= 1
        if self.ending and not self.in_work:
            self._idle()

    def _seconds_of_queue(self) -> int:
        """About when the queue has been served, whole seconds."""
        return max(1, math.ceil(self._mean_seconds * len(self._turns) / self._places))


def _result(turn: asyncio.Future[None], seconds: float) -> None:
    if not turn.done():
        raise Refused(504, "timeout", f"no request before this one ended within {seconds:g} s; try again later")
    turn.result()
