"""Images of several requests, brought through the network together by one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from ..segmenter import Learned, Prepared, Segmenter


class Timed(NamedTuple):
    """What was learned on an image, and the seconds that it waited for its batch and that the batch took."""

    learned: Learned
    waited: float
    took: float


class _Entry(NamedTuple):
    prepared: Prepared
    since: float
    future: Future[Timed]


class Batches:
    """A thread that opens a segmenter and learns on what it is given; only this thread runs the network.

    Args:
        open_segmenter: makes the segmenter. It raises where the backend does not compute the bundle's fingerprint.
        batch: maximum number of images in one call of the network.
        delay: seconds that the first image of a batch waits for others.
        formed: called with the number of images of each batch.
    """

    def __init__(
        self, open_segmenter: Callable[[], Segmenter], batch: int, delay: float, formed: Callable[[int], None]
    ) -> None:
        self._open, self._batch, self._delay, self._formed = open_segmenter, batch, delay, formed
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="learn", daemon=True)
        self.opened: Future[Segmenter] = Future()

    def start(self) -> None:
        """Open the segmenter and serve, in the thread."""
        self._thread.start()

    def submit(self, prepared: Prepared) -> Future[Timed]:
        """Put an image in; a future that is cancelled before its turn is left out."""
        entry = _Entry(prepared, time.perf_counter(), Future())
        self._entries.put(entry)
        return entry.future

    def close(self) -> None:
        """End the thread, once what was put in before is done."""
        self._entries.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            segmenter = self._open()
        except BaseException as error:
            self.opened.set_exception(error)
            return
        self.opened.set_result(segmenter)
        ended = False
        while not ended:
            entries, ended = self._collect()
            entries = [each for each in entries if each.future.set_running_or_notify_cancel()]
            if entries:
                self._formed(len(entries))
                _learn(segmenter, entries)

    def _collect(self) -> tuple[list[_Entry], bool]:
        """The next batch, and whether it is the last."""
        entries: list[_Entry] = []
        until = None
        while len(entries) < self._batch:
            try:
                entry = self._entries.get(timeout=None if until is None else max(until - time.perf_counter(), 0))
            except queue.Empty:
                break
            if entry is None:
                return entries, True
            entries.append(entry)
            until = until or time.perf_counter() + self._delay
        return entries, False


def _learn(segmenter: Segmenter, entries: list[_Entry]) -> None:
    start = time.perf_counter()
    try:
        found = segmenter.learn([each.prepared for each in entries])
    except BaseException as error:
        if len(entries) == 1:
            entries[0].future.set_exception(error)
            return
        for each in entries:  # one that is too large must not fail the others
            _learn(segmenter, [each])
        return
    took = time.perf_counter() - start
    for each, learned in zip(entries, found, strict=True):
        each.future.set_result(Timed(learned, start - each.since, took))
