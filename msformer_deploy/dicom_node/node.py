"""The node at work: one thread segments what is complete, one sends what is segmented, those of the server receive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .answer import Unanswerable
from .destinations import Destination, Refused, Unavailable
from .pauses import Pauses
from .spool import Spool, lack_of, results_of

TICK = 0.2  # seconds between looks at the spool


@dataclass(frozen=True)
class Completion:
    """When a series is complete, and how long it is kept.

    Attributes:
        quiet_seconds: without an instance of it.
        on_release: whether it is complete too when its sender releases the association.
        keep_seconds: for which a series that is done is kept, so that late images can join it.
    """

    quiet_seconds: float
    on_release: bool
    keep_seconds: float


class Node:
    """What becomes of the series of a spool.

    Args:
        spool: what the receiver fills.
        answer: segments a series and returns the files of its answer.
        destination: of the answers.
        completion: when a series is complete.
        log: is called with lines for people, which name nobody.
    """

    def __init__(
        self,
        spool: Spool,
        answer: Callable[[Path], list[Path]],
        destination: Destination,
        completion: Completion,
        log: Callable[[str], None],
    ) -> None:
        self._spool, self._answer, self._destination = spool, answer, destination
        self._completion, self._log = completion, log
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(work, Pauses()), name=name, daemon=True)
            for name, work in (("segment", self.segment_next), ("send", self.send_next))
        ]

    def start(self) -> None:
        """Begin, in threads of its own."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the series that is being segmented and the one that is being sent, and end."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def segment_next(self) -> bool:
        """Complete what is due, and segment one series; whether there was one.

        Raises:
            OSError: the spool cannot be written.
        """
        self._complete()
        self._spool.expire(self._completion.keep_seconds)
        waiting = self._spool.waiting("complete")
        if waiting:
            self._segment(waiting[0])
        return bool(waiting)

    def send_next(self) -> bool:
        """Send the answer of one series; whether there was one.

        Raises:
            Unavailable: the destination takes nothing now.
            OSError: the spool cannot be written.
        """
        waiting = self._spool.waiting("sending")
        if waiting:
            try:
                self._send(waiting[0])
            except Unavailable as error:
                raise Unavailable(f"{self._destination}: {error}; series that wait for it: {len(waiting)}") from error
        return bool(waiting)

    def _complete(self) -> None:
        for series in self._spool.due(self._completion.quiet_seconds, self._completion.on_release):
            found = self._spool.complete(series)
            said = {
                "new": f"complete, {found.images} images",
                "revision": f"complete with late images, {found.images} images in all",
                "repeat": "came again as it was; it is not segmented again",
                "lacking": "failed: it lacks images that were refused; send the series again",
            }
            self._log(f"series {found.name}: {said[found.kind]}")

    def _segment(self, series: Path) -> None:
        lack = lack_of(series)
        if lack is not None:  # a person has moved it here from those that failed
            self._fail(series, lack)
            return
        try:
            files = self._answer(series)
        except Unanswerable as error:
            self._fail(series, str(error))
            return
        except OSError:
            raise
        except Exception as error:  # a fault of ours, or of a library, ends one series and not the node
            self._fail(series, f"internal error, {type(error).__name__}")
            return
        self._spool.move(series, "sending")
        self._log(f"series {series.name}: segmented, {len(files)} objects to send")

    def _send(self, series: Path) -> None:
        try:
            self._destination.send(results_of(series))
        except Refused as error:
            self._fail(series, f"{self._destination}: {error}")
            return
        self._spool.move(series, "done")
        self._log(f"series {series.name}: sent to {self._destination}")

    def _fail(self, series: Path, reason: str) -> None:
        self._spool.fail(series, reason)
        self._log(f"series {series.name}: failed: {reason}")

    def _loop(self, work: Callable[[], bool], pauses: Pauses) -> None:
        """Work until the node ends; after a failure, try again after a pause."""
        while not self._ending.is_set():
            try:
                busy = pauses.over and work()
            except Exception as error:  # a thread that ended would leave series where they are
                self._log(f"{_reason(error)}; trying again in {pauses.failed():g} s")
                busy = False
            else:
                if busy:
                    pauses.succeeded()
            if not busy:
                self._ending.wait(TICK)


def _reason(error: Exception) -> str:
    """What to say of a failure of the work as a whole; messages of libraries may quote headers, and are left out."""
    match error:
        case Unavailable():
            return str(error)
        case OSError():
            return f"the spool cannot be written ({error.strerror})"
    return f"internal error, {type(error).__name__}"
