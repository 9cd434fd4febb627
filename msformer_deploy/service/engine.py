"""From what a request holds to its answer: read and prepared in a pool, learned on in batches, finished in the pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ..images.image import InputImage
from ..segmenter import Learned, Prepared, Segmentation, Segmenter
from .batches import Batches
from .metrics import Metrics

Value = TypeVar("Value")


class Engine:
    """A segmenter that several requests share.

    Args:
        batches: runs the network.
        threads: that read images, and finish and write results.
        metrics: seconds of each stage are observed there.
    """

    def __init__(self, batches: Batches, threads: int, metrics: Metrics) -> None:
        self._batches, self._metrics = batches, metrics
        self._pool = ThreadPoolExecutor(threads, "images")

    def start(self) -> None:
        """Open the segmenter, in a thread."""
        self._batches.start()

    @property
    def opened(self) -> Future[Segmenter]:
        """The segmenter, or why there is none."""
        return self._batches.opened

    @property
    def segmenter(self) -> Segmenter | None:
        """The segmenter, once its backend has computed what the bundle's fingerprint says."""
        opened = self.opened
        return opened.result() if opened.done() and opened.exception() is None else None

    def close(self) -> None:
        """End all threads, once they have done what they work on."""
        self._batches.close()
        self._pool.shutdown(cancel_futures=True)

    async def segment(self, read: Callable[[], InputImage], write: Callable[[Segmentation], Value]) -> Value:
        """What ``write`` makes of the segmentation of what ``read`` gives; both run in threads of the pool.

        Whatever these raise is passed on.
        """
        segmenter = self.opened.result()

        def prepare() -> Prepared:
            return segmenter.prepare(read())

        def finish(learned: Learned) -> Value:
            result = segmenter.finish(learned)
            self._metrics.mask(doubtful=result.confidence is not None and result.confidence.doubt is not None)
            return write(result)

        prepared = await self._timed("read", self._pool.submit(prepare))
        timed = await _result(self._batches.submit(prepared))
        self._metrics.stage("collect", timed.waited)
        self._metrics.stage("learn", timed.took)
        return await self._timed("finish", self._pool.submit(finish, timed.learned))

    async def _timed(self, stage: str, job: Future[Value]) -> Value:
        start = time.perf_counter()
        value = await _result(job)
        self._metrics.stage(stage, time.perf_counter() - start)
        return value


async def _result(job: Future[Value]) -> Value:
    """The result of a job. One that is not wanted any more is waited for, where it runs: threads cannot be stopped."""
    waiting = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        if not job.cancel():
            await asyncio.wait({waiting})
            waiting.exception()  # which nobody else asks for
        raise
