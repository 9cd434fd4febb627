"""What becomes of series, without a network: what is retried, what fails, and what a killed node goes on with."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

from msformer_deploy.dicom_node import durable, spool
from msformer_deploy.dicom_node import node as of_node
from msformer_deploy.dicom_node.answer import Unanswerable
from msformer_deploy.dicom_node.destinations import Refused, Unavailable
from msformer_deploy.dicom_node.node import Completion, Node
from msformer_deploy.dicom_node.spool import Limits, Spool

LIMITS = Limits(100, 1 << 20, 0)


def answer(series: Path) -> list[Path]:
    """Results whose content says of which images they are, and which are there whole or not at all."""
    results = series / spool.RESULTS
    if not results.is_dir():
        work = series / ".work"
        work.mkdir(exist_ok=True)
        durable.write(work / "1.seg.dcm", [" ".join(sorted(each.stem for each in series.glob("*.dcm"))).encode()])
        durable.rename(work, results)
    return list(results.iterdir())


class Archive:
    """A destination that keeps what it gets by its content, as one keeps objects by their UIDs."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures, self.tries, self.objects = list(failures), 0, set[str]()

    def __str__(self) -> str:
        return "ARCHIVE"

    def send(self, files: Sequence[Path]) -> None:
        self.tries += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.objects.update(path.read_text() for path in files)


class Bench:
    """A node in a folder, with what it needs."""

    def __init__(
        self, folder: Path, kept: Spool, archive: Archive, answers: Callable[[Path], list[Path]], keep: float = 3600
    ) -> None:
        self.folder, self.spool, self.archive, self.log = folder, kept, archive, list[str]()
        self.node = Node(kept, answers, archive, Completion(0, False, keep), self.log.append)

    def arrive(self, *images: str, series: str = "ab") -> None:
        for image in images:
            self.spool.keep(self.spool.write_part([image.encode()]), series, image, None)

    def where(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob("*/*.*"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with spool.opened(tmp_path, LIMITS) as kept:
        yield lambda *failures, answers=answer, keep=3600: Bench(tmp_path, kept, Archive(*failures), answers, keep)


def test_a_series_is_segmented_and_sent(bench: Callable[..., Bench]) -> None:
    found = bench()
    found.arrive("1", "2")
    assert (found.node.segment_next(), found.node.send_next()) == (True, True)
    assert found.archive.objects == {"1 2"}
    assert found.where() == ["done/ab.1"]
    assert found.log == [
        "series ab.1: complete, 2 images",
        "series ab.1: segmented, 1 objects to send",
        "series ab.1: sent to ARCHIVE",
    ]
    assert (found.node.segment_next(), found.node.send_next()) == (False, False)


def test_late_images_are_segmented_with_those_before(bench: Callable[..., Bench]) -> None:
    found = bench()
    for images in (("1", "2"), ("3",)):
        found.arrive(*images)
        found.node.segment_next()
        found.node.send_next()
    assert found.archive.objects == {"1 2", "1 2 3"}
    assert "series ab.2: complete with late images, 3 images in all" in found.log


def test_what_is_done_is_kept_for_a_time(bench: Callable[..., Bench]) -> None:
    found = bench(keep=3600)
    found.arrive("1")
    for _ in range(2):
        found.node.segment_next()
        found.node.send_next()
    assert found.where() == ["done/ab.1"]
    bench(keep=0).node.segment_next()
    assert found.where() == []


def test_a_repeat_is_sent_again_and_segmented_once(bench: Callable[..., Bench]) -> None:
    segmented: list[str] = []
    found = bench(answers=lambda series: segmented.append(series.name) or answer(series))
    for _ in range(2):
        found.arrive("1", "2")
        found.node.segment_next()
        found.node.send_next()
    assert (segmented, found.archive.tries, found.archive.objects) == (["ab.1"], 2, {"1 2"})
    assert "series ab.1: came again as it was; it is not segmented again" in found.log


def test_what_cannot_be_segmented_is_put_aside_and_the_next_goes_on(bench: Callable[..., Bench]) -> None:
    def fails(series: Path) -> list[Path]:
        if series.name.startswith("ab"):
            raise Unanswerable("its slices have a gap")
        return answer(series)

    found = bench(answers=fails)
    found.arrive("1")
    found.arrive("2", series="cd")
    for _ in range(2):
        found.node.segment_next()
    assert found.where() == ["failed/ab.1", "sending/cd.1"]
    assert (found.folder / "failed/ab.1/reason.txt").read_text() == "its slices have a gap\n"
    assert "series ab.1: failed: its slices have a gap" in found.log


def test_a_fault_in_the_segmentation_ends_one_series_and_names_nobody(bench: Callable[..., Bench]) -> None:
    def fails(_: Path) -> list[Path]:
        raise ValueError("QQMARK")

    found = bench(answers=fails)
    found.arrive("1")
    found.node.segment_next()
    assert found.where() == ["failed/ab.1"]
    assert found.log[-1] == "series ab.1: failed: internal error, ValueError"


def test_images_that_were_refused_are_not_left_out(bench: Callable[..., Bench]) -> None:
    found = bench()
    found.arrive("1")
    found.spool.refuse("ab", "2")
    assert not found.node.segment_next()
    assert found.log == ["series ab.1: failed: it lacks images that were refused; send the series again"]
    found.arrive("1", "2")
    assert found.node.segment_next()
    assert found.where() == ["sending/ab.2"]


def test_a_series_that_lacks_images_is_not_segmented_where_a_person_moves_it(bench: Callable[..., Bench]) -> None:
    found = bench()
    found.arrive("1")
    found.spool.refuse("ab", "2")
    found.node.segment_next()
    (found.folder / "failed/ab.1").rename(found.folder / "complete/ab.1")
    found.node.segment_next()
    assert found.where() == ["failed/ab.1"]
    reason = "1 of its images were refused; send the series again"
    assert (found.folder / "failed/ab.1/reason.txt").read_text() == f"{reason}\n"
    assert found.log[-1] == f"series ab.1: failed: {reason}"


def test_a_file_of_a_file_manager_is_not_sent(bench: Callable[..., Bench]) -> None:
    found = bench()
    found.arrive("1")
    found.node.segment_next()
    (found.folder / "sending/ab.1/results/.DS_Store").write_text("QQMARK")
    found.node.send_next()
    assert found.archive.objects == {"1"}


def test_a_destination_that_refuses(bench: Callable[..., Bench]) -> None:
    found = bench(Refused("it answers with status A900"))
    found.arrive("1")
    found.node.segment_next()
    assert found.node.send_next()
    assert found.where() == ["failed/ab.1"]
    assert found.log[-1] == "series ab.1: failed: ARCHIVE: it answers with status A900"
    found.arrive("1")
    found.node.segment_next()
    found.node.send_next()
    assert found.archive.objects == {"1"}, "sent again, a series that failed is tried again"


def test_a_destination_that_is_down_is_tried_again(bench: Callable[..., Bench]) -> None:
    found = bench(Unavailable("it cannot be reached"))
    for series in ("ab", "cd"):
        found.arrive("1", series=series)
        found.node.segment_next()
    with pytest.raises(Unavailable, match=r"^ARCHIVE: it cannot be reached; series that wait for it: 2$"):
        found.node.send_next()
    assert found.where() == ["sending/ab.1", "sending/cd.1"]
    assert found.node.send_next()
    assert found.where() == ["done/ab.1", "sending/cd.1"]


def test_an_hour_without_a_destination_and_a_full_disk_lose_nothing(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that goes 20 s a tick: both threads, their pauses, and what they log."""
    down = 3600.0
    begin, lock, now = time.monotonic(), threading.Lock(), [0.0]

    def tick(seconds: float) -> None:
        with lock:
            now[0] += 20
        time.sleep(0.001)

    failures = {"left": 3}

    def full_at_first(series: Path) -> list[Path]:
        if failures["left"]:
            failures["left"] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return answer(series)

    found = bench(answers=full_at_first)
    monkeypatch.setattr("msformer_deploy.dicom_node.pauses.time.monotonic", lambda: begin + now[0])
    monkeypatch.setattr(found.node._ending, "wait", tick)
    real = found.archive.send

    def send(files: Sequence[Path]) -> None:
        if now[0] < down:
            raise Unavailable("it cannot be reached")
        real(files)

    monkeypatch.setattr(found.archive, "send", send)
    found.arrive("1")
    found.node.start()
    end = time.perf_counter() + 20
    while found.where() != ["done/ab.1"] and time.perf_counter() < end:
        time.sleep(0.01)
    found.node.stop()
    assert found.archive.objects == {"1"}
    unreached = [line for line in found.log if "cannot be reached" in line]
    assert 12 < len(unreached) < 30
    assert unreached[0] == "ARCHIVE: it cannot be reached; series that wait for it: 1; trying again in 1 s"
    assert unreached[-1].endswith("trying again in 300 s")
    full = [line for line in found.log if "cannot be written" in line]
    assert [line.rpartition("in ")[2] for line in full] == ["1 s", "2 s", "4 s"]


def test_a_fault_in_the_work_ends_no_thread(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_node, "TICK", 0.01)
    monkeypatch.setattr("msformer_deploy.dicom_node.pauses.FIRST", 0.01)
    found = bench(ValueError("QQMARK"), None, ValueError("QQMARK"), None)
    for series in ("ab", "cd"):
        found.arrive("1", series=series)
    found.node.start()
    end = time.perf_counter() + 20
    while found.where() != ["done/ab.1", "done/cd.1"] and time.perf_counter() < end:
        time.sleep(0.01)
    found.node.stop()
    assert found.where() == ["done/ab.1", "done/cd.1"]
    faults = [line for line in found.log if "error" in line]
    assert faults == ["internal error, ValueError; trying again in 0.01 s"] * 2, "a success begins anew"


def test_stopping_waits_for_the_series_in_hand(bench: Callable[..., Bench]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(series: Path) -> list[Path]:
        begun.set()
        go_on.wait(20)
        return answer(series)

    found = bench(answers=slow)
    found.arrive("1")
    found.arrive("2", series="cd")
    found.node.start()
    assert begun.wait(20)
    stopping = threading.Thread(target=found.node.stop)
    stopping.start()
    time.sleep(0.05)
    assert stopping.is_alive()
    go_on.set()
    stopping.join(20)
    assert not stopping.is_alive()
    assert {"sending/ab.1", "complete/cd.1"} >= set(found.where()) - {"done/ab.1"}
    assert "complete/cd.1" in found.where()


class Killed(BaseException):
    """SIGKILL: nothing that would clean up runs after it."""


CALLS = ("rename", "link", "utime", "mkdir", "unlink", "rmdir")


def scenario(folder: Path, archive: Archive, acknowledged: set[str]) -> None:
    """A series arrives, a part of it twice; then a late image; then all again."""
    with spool.opened(folder, LIMITS) as kept:
        found = Bench(folder, kept, archive, answer)
        for images in ("12", "3", "123"):
            for image in images:
                found.arrive(image)
                acknowledged.add(image)
            found.node.segment_next()
            found.node.send_next()


@pytest.mark.slow
def test_killed_at_every_step_nothing_is_lost_and_nothing_is_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes the disk is the last one once; then the sender begins anew."""
    step = 0
    while True:
        folder, archive, acknowledged = tmp_path / str(step), Archive(), set[str]()
        left = [step]

        def counted(real: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
            def call(*given: object, **more: object) -> object:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real(*given, **more)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", counted(lambda _: None))  # a process that dies loses nothing of the system's
            for name in CALLS:
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                scenario(folder, archive, acknowledged)
            except Killed:
                killed = True
            else:
                killed = False
            if not killed:
                break
            patch.undo()
            patch.setattr(os, "fsync", lambda _: None)
            assert_whole(folder, archive, acknowledged, step)
        step += 1
    assert step > 50


def assert_whole(folder: Path, archive: Archive, acknowledged: set[str], step: int) -> None:
    """What was acknowledged is there, and when all was sent again, it is answered."""
    there = {path.stem for path in folder.glob("*/*/*.dcm")}
    assert acknowledged <= there, f"lost at step {step}"
    scenario(folder, archive, acknowledged)
    with spool.opened(folder, LIMITS) as kept:
        rest = Bench(folder, kept, archive, answer)
        while rest.node.segment_next() or rest.node.send_next():
            pass
    assert "1 2 3" in archive.objects, f"not answered, killed at step {step}"
    assert archive.objects <= {"1", "2", "3", "1 2", "1 2 3"}, f"killed at step {step}"
    assert {path.parent.name for path in folder.glob("*/*")} == {"done"}, f"killed at step {step}"
