"""The three stages by themselves: order, bounds, and what is left when one of them fails or is interrupted."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from msformer_deploy.results.pipeline import overlap

WAIT = 20  # seconds; only a failing test waits that long


class Work:
    """Stages that note what they did; ``during`` is called as (stage, items) within each."""

    def __init__(self, during: Callable[[str, Any], None] = lambda *_: None) -> None:
        self.during = during
        self.log: list[tuple[str, Any]] = []
        self.most_in_flight = 0

    def of(self, stage: str) -> list[Any]:
        return [what for name, what in self.log if name == stage]

    def note(self, stage: str, what: Any) -> None:
        self.during(stage, what)
        self.log.append((stage, what))

    def read(self, item: int) -> str:
        self.most_in_flight = max(self.most_in_flight, 1 + len(self.of("read")) - len(self.of("write")))
        self.note("read", item)
        return f"image {item}"

    def compute(self, group: list[tuple[int, str]]) -> list[tuple[int, str]]:
        self.note("compute", [item for item, _ in group])
        return [(item, f"result of {image}") for item, image in group]

    def write(self, item: int, result: str) -> str:
        assert result == f"result of image {item}"
        self.note("write", item)
        return f"outcome {item}"

    def written(self, item: int, outcome: str) -> None:
        assert outcome == f"outcome {item}"
        self.note("written", item)

    def run(self, count: int, batch: int = 1, writers: int = 1, readers: int = 1) -> None:
        stages = (self.read, self.compute, self.write, self.written)
        try:
            overlap(range(count), batch, *stages, writers, readers=readers)
        finally:
            names = [thread.name for thread in threading.enumerate()]
            assert not [name for name in names if name.startswith(("read", "write"))], "no thread is left behind"


def fail(stage: str, when: Any, error: BaseException) -> Callable[[str, Any], None]:
    def during(name: str, what: Any) -> None:
        if (name, what) == (stage, when):
            raise error

    return during


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_item_goes_through_every_stage_in_order(count: int, batch: int) -> None:
    work = Work()
    work.run(count, batch)
    everything = list(range(count))
    assert work.of("read") == work.of("write") == work.of("written") == everything
    assert work.of("compute") == [everything[first : first + batch] for first in range(0, count, batch)]


def test_reading_and_writing_happen_while_computing() -> None:
    read_third, wrote_first = threading.Event(), threading.Event()

    def during(stage: str, what: Any) -> None:
        if (stage, what) == ("read", 2):
            read_third.set()
        if (stage, what) == ("write", 0):
            wrote_first.set()
        if (stage, what) == ("compute", [1]):
            assert read_third.wait(WAIT)
            assert wrote_first.wait(WAIT)

    Work(during).run(3)


@pytest.mark.parametrize("writers", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_several_threads_write_every_item_and_tell_in_order(batch: int, writers: int) -> None:
    """The earlier of two items takes longer."""
    work = Work(lambda stage, item: time.sleep(0.01 * (1 - item % 2)) if stage == "write" else None)
    work.run(7, batch, writers)
    assert sorted(work.of("write")) == work.of("written") == list(range(7))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_so_many_threads_read_at_once(batch: int) -> None:
    """The first items need the third, which is not among those that one thread reads ahead of a batch of one."""
    together = threading.Barrier(3)

    def during(stage: str, _: Any) -> None:
        if stage == "read":
            together.wait(WAIT)

    work = Work(during)
    work.run(6, batch, readers=3)
    assert work.of("compute") == [list(range(6))[first : first + batch] for first in range(0, 6, batch)]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_so_many_threads_write_at_once(batch: int) -> None:
    together = threading.Barrier(3)

    def during(stage: str, _: Any) -> None:
        if stage == "write":
            together.wait(WAIT)

    Work(during).run(6, batch, writers=3)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("writers", [1, 3])
@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("slow", ["read", "compute", "write", None])
def test_few_items_are_in_flight_whichever_stage_is_slow(
    batch: int, writers: int, readers: int, slow: str | None
) -> None:
    work = Work(lambda stage, _: time.sleep(0.002) if stage == slow else None)
    work.run(60, batch, writers, readers)
    assert work.most_in_flight <= 3 * batch + writers + readers - 2  # read ahead, computed, written


def test_a_stage_of_which_some_come_to_nothing() -> None:
    work = Work()
    compute = work.compute
    work.compute = lambda group: [pair for pair in compute(group) if pair[0] % 2]  # type: ignore[method-assign]
    work.run(7, 2)
    assert work.of("write") == work.of("written") == [1, 3, 5]


@pytest.mark.parametrize("error", [OSError("lost"), RuntimeError("lost"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize(("stage", "when"), [("read", 3), ("compute", [3]), ("written", 3)])
def test_what_a_stage_raises_ends_it_all(stage: str, when: Any, error: BaseException) -> None:
    work = Work(fail(stage, when, error))
    with pytest.raises(type(error)) as raised:
        work.run(20)
    assert raised.value is error
    assert [4] not in work.of("compute") or stage == "written"
    assert max(work.of("write")) <= 5


@pytest.mark.parametrize("stage", ["read", "compute"])
def test_what_was_computed_before_a_failure_is_written(stage: str) -> None:
    def during(name: str, what: Any) -> None:
        fail(stage, 3 if stage == "read" else [3], RuntimeError())(name, what)
        if name == "write":
            time.sleep(0.01)

    work = Work(during)
    with pytest.raises(RuntimeError):
        work.run(20)
    assert work.of("write") == work.of("written") == [0, 1, 2]


def test_nothing_is_written_after_a_write_that_failed() -> None:
    computed = threading.Event()

    def during(stage: str, what: Any) -> None:
        if (stage, what) == ("write", 1):
            assert computed.wait(WAIT)
            raise OSError("full")
        if (stage, what) == ("compute", [3, 4, 5]):
            computed.set()

    work = Work(during)
    with pytest.raises(OSError, match="full"):
        work.run(20, 3)
    assert work.of("write") == work.of("written") == [0]
    assert work.of("compute") == [[0, 1, 2], [3, 4, 5]]


def test_what_other_threads_write_is_finished_when_one_fails() -> None:
    failed = threading.Event()

    def during(stage: str, what: Any) -> None:
        if (stage, what) == ("write", 0):
            assert failed.wait(WAIT)
            time.sleep(0.05)
        if (stage, what) == ("write", 1):
            failed.set()
            raise OSError("full")

    work = Work(during)
    with pytest.raises(OSError, match="full"):
        work.run(20, 3, writers=2)
    assert work.of("write") == work.of("written") == [0]


def test_an_interruption_finishes_the_file_in_work_and_no_other() -> None:
    writing, interrupted = threading.Event(), threading.Event()

    def during(stage: str, what: Any) -> None:
        if (stage, what) == ("write", 0):
            writing.set()
            assert interrupted.wait(WAIT)
            time.sleep(0.1)
        if (stage, what) == ("compute", [2, 3]):
            assert writing.wait(WAIT)
            interrupted.set()
            raise KeyboardInterrupt

    work = Work(during)
    with pytest.raises(KeyboardInterrupt):
        work.run(20, 2)
    assert work.of("write") == [0]
    assert work.of("written") == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals to threads")
def test_a_second_interruption_does_not_cut_the_file_in_work_short() -> None:
    writing, first = threading.Event(), threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def during(stage: str, what: Any) -> None:
        if (stage, what) == ("write", 0):
            writing.set()
            assert first.wait(WAIT)
            for _ in range(3):  # by now the caller waits for this thread
                time.sleep(0.05)
                signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.05)
        if (stage, what) == ("compute", [1]):
            assert writing.wait(WAIT)
            first.set()
            raise KeyboardInterrupt

    work = Work(during)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work.run(20)
    finally:
        signal.signal(signal.SIGINT, before)
    assert work.of("write") == [0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals to threads")
def test_an_interruption_while_the_last_files_are_written() -> None:
    main = threading.main_thread().ident
    assert main is not None

    def during(stage: str, what: Any) -> None:
        if (stage, what) == ("write", 1):
            time.sleep(0.05)
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.05)

    work = Work(during)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work.run(3, 3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert work.of("write") == [0, 1]


def test_the_end_leaves_what_was_not_computed() -> None:
    """What was is written; what was only read is not."""
    computed, written = [], []

    def compute(group: list[tuple[int, int]]) -> list[tuple[int, int]]:
        computed.extend(item for item, _ in group)
        return group

    overlap(
        range(10),
        2,
        lambda item: item,
        compute,
        lambda item, _: item,
        lambda item, _: written.append(item),
        ended=lambda: len(computed) >= 4,
    )
    assert computed == written == [0, 1, 2, 3]
