"""Reading, computing and writing at once: some threads read ahead, some write behind, the caller computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Result = TypeVar("Result")
Outcome = TypeVar("Outcome")


def overlap(
    items: Sequence[Item],
    batch: int,
    read: Callable[[Item], Read],
    compute: Callable[[list[tuple[Item, Read]]], Iterable[tuple[Item, Result]]],
    write: Callable[[Item, Result], Outcome],
    written: Callable[[Item, Outcome], None],
    writers: int = 1,
    ended: Callable[[], bool] = lambda: False,
    readers: int = 1,
) -> None:
    """Bring every item through ``read``, ``compute`` and ``write``, in order, each stage busy with items of its own.

    ``batch`` items are computed at a time; as many are read ahead of them, and as many wait behind them to be written,
    with one more for each thread but the first of either kind: memory does not depend on the number of items.

    What a stage raises ends it all and is passed on, once every thread has ended. Items that were computed are still
    written then; but after KeyboardInterrupt, or a failure to write, only those in work are.

    Args:
        items: what there is to do.
        batch: items for one call of ``compute``; the last call may get fewer.
        read: called in a reading thread, in order where there is one.
        compute: called in the caller's thread with items and what was read of them; gives what is to be written.
        write: called in a writing thread, in order where there is one.
        written: called in the caller's thread with what ``write`` returned, in order, but not after an interruption.
        writers: writing threads.
        ended: asked before each call of ``compute``; when it says yes, the items that were not computed are left.
        readers: reading threads.
    """
    reader, writer = ThreadPoolExecutor(readers, "read"), ThreadPoolExecutor(writers, "write")
    reads: deque[Future[Read]] = deque()
    writes: deque[tuple[Item, Future[Outcome]]] = deque()
    broken, ahead, behind = Event(), batch + readers - 1, batch + writers - 1

    def write_unless_broken(item: Item, result: Result) -> Outcome:
        if broken.is_set():
            raise CancelledError
        try:
            return write(item, result)
        except BaseException:
            broken.set()
            raise

    def settle(most: int) -> None:
        """Take what is written, and wait until at most so many are not."""
        while writes and (len(writes) > most or writes[0][1].done()):
            item, future = writes[0]
            outcome = future.result()
            writes.popleft()
            written(item, outcome)

    try:
        reads.extend(reader.submit(read, item) for item in items[:ahead])
        for first in range(0, len(items), batch):
            if ended():
                break
            group = []
            for index, item in enumerate(items[first : first + batch], first):
                group.append((item, reads[0].result()))
                reads.popleft()
                if index + ahead < len(items):
                    reads.append(reader.submit(read, items[index + ahead]))
            settle(behind)
            results = compute(group)
            settle(behind - batch)
            writes.extend((item, writer.submit(write_unless_broken, item, result)) for item, result in results)
        settle(0)
    except Exception:
        if not broken.is_set():
            settle(0)
        raise
    finally:
        _close((reader, writer), [*reads, *(future for _, future in writes)])


def _close(pools: Sequence[ThreadPoolExecutor], futures: Sequence[Future[Any]]) -> None:
    """End the threads: what they work on is finished, also when Ctrl-C comes again, and what waits is dropped."""
    again: KeyboardInterrupt | None = None
    while True:
        try:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)
            # Before the threads are joined: an interrupted join would take a thread that still works for ended.
            wait([future for future in futures if not future.cancelled()])
            for pool in pools:
                pool.shutdown()
        except KeyboardInterrupt as error:
            again = error
        else:
            break
    if again is not None:
        raise again
