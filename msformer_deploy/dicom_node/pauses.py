"""Pauses between tries of something that fails: each twice as long as the one before, up to five minutes."""

from __future__ import annotations

import time

FIRST, LONGEST = 1.0, 300.0  # seconds


class Pauses:
    """When the next try is due; a success begins anew."""

    def __init__(self) -> None:
        self._seconds, self._until = 0.0, 0.0

    @property
    def over(self) -> bool:
        """Whether it is time to try."""
        return time.monotonic() >= self._until

    def failed(self) -> float:
        """Take note of a failure, and return the seconds until the next try."""
        self._seconds = min(max(2 * self._seconds, FIRST), LONGEST)
        self._until = time.monotonic() + self._seconds
        return self._seconds

    def succeeded(self) -> None:
        """Take note of a success."""
        self._seconds = self._until = 0.0
