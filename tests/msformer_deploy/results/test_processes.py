"""Reading and writing in other processes: nothing of it shows in what comes out, and one that dies takes one image."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from run_results import hidden, report_of
from stumbling import SIDE, Bystander, item, stumbling

from msformer_deploy.errors import DeployError, ImageError
from msformer_deploy.foreground.prompts import Point, Prompts
from msformer_deploy.registry import SYSTEMS
from msformer_deploy.results import processes
from msformer_deploy.results.processes import Processes, processes_for
from msformer_deploy.segmenter import Learned, Prepared


@pytest.fixture(scope="module")
def one() -> Iterator[Processes]:
    with Processes(stumbling(), 1) as found:
        yield found


def learned(prepared: Any, refinement: Any = "found") -> Learned:
    assert isinstance(prepared, Prepared)
    return Learned(prepared, refinement, {}, {})


@pytest.mark.slow
class TestOneProcess:
    def test_an_image_stays_in_the_process_that_read_it(self, one: Processes) -> None:
        prepared, seconds = one.read(item("a"))
        assert isinstance(prepared, Prepared)
        assert (seconds, prepared.seconds, prepared.image.name) == (0.5, 0.25, "a")
        assert prepared.pixels.shape == (3, SIDE, SIDE)
        assert prepared.image.pixels.size == prepared.view.square.size == 0, "no more than the network takes travels"
        entry = one.write(item("a"), learned(prepared), np.ones((2, 2), bool))
        assert isinstance(entry, dict)
        assert entry["process"] != os.getpid()
        assert entry["shapes"] == [(40, 40, 3), (3, 20, 20)]
        assert (entry["refinement"], entry["corrected"]) == ("found", 4)

    def test_what_writing_raises_is_raised_here(self, one: Processes) -> None:
        found = learned(one.read(item("fills the disk"))[0])
        with pytest.raises(DeployError, match=r"^full$"):
            one.write(item("fills the disk"), found)

    def test_an_error_that_cannot_travel_says_the_same(self, one: Processes) -> None:
        error, _ = one.read(item("is unportable"))
        assert repr(error) == repr(RuntimeError("Unportable: lost at 3"))

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals to processes")
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_is_for_the_caller(self, one: Processes, number: signal.Signals) -> None:
        entry = one.write(item("a"), learned(one.read(item("a"))[0]))
        assert isinstance(entry, dict)
        os.kill(entry["process"], number)
        again = one.write(item("b"), learned(one.read(item("b"))[0]))
        assert isinstance(again, dict)
        assert again["process"] == entry["process"]

    @pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="the system does not say which signals are blocked"
    )
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_does_not_reach_a_process_that_still_starts(self, one: Processes, number: signal.Signals) -> None:
        status = Path(f"/proc/{one._workers[0]._process.pid}/status").read_text()
        (blocked,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:"))
        assert blocked >> (number - 1) & 1
        assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "here it is not"

    def test_what_is_dropped_is_not_kept(self, one: Processes) -> None:
        for name in ("a", "is unportable"):
            one.read(item(name))
            one.drop(item(name))
        found = learned(one.read(item("b"))[0])
        one.drop(item("b"))
        one._holders[item("b")] = one._workers[0]
        with pytest.raises(KeyError):  # the process has not got it any more
            one.write(item("b"), found)
        assert one._holders == {}


@pytest.mark.slow
def test_a_process_that_dies_takes_the_image_it_worked_on_and_no_other() -> None:
    with Processes(stumbling(), 1) as found:
        before = learned(found.read(item("before"))[0])
        error, _ = found.read(item("kills its reader"))
        assert isinstance(error, ImageError)
        assert str(error).startswith("kills its reader: the process that had the image ended (exit code 7); ")
        entry = found.write(item("before"), before)
        assert isinstance(entry, dict)
        assert entry["shapes"] == [(40, 40, 3), (3, 20, 20)], "another process has read it again"
        failure = found.write(item("kills its writer"), learned(found.read(item("kills its writer"))[0]))
        assert type(failure) is DeployError
        (worker,) = found._workers
    assert found._holders == {}
    assert worker.held == 0


@pytest.mark.parametrize("answers", [0, 1])
def test_a_process_ends_without_a_word_when_the_main_process_was_killed(monkeypatch: Any, answers: int) -> None:
    """Between two images, or with answers that nobody took."""
    monkeypatch.setattr(processes, "_SIGNALS", [])
    here, there = Pipe()
    serving = threading.Thread(target=processes._serve, args=(there, stumbling()))
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    serving.start()
    for _ in range(answers):
        here.send(("read", (item("a"),)))
        assert here.poll(20)
    here.close()
    serving.join(20)
    assert not serving.is_alive()
    assert failed == []


@pytest.mark.slow
def test_images_go_to_the_process_that_has_the_fewest_and_all_end() -> None:
    with Processes(stumbling(), 2) as found:
        prepared = {name: learned(found.read(item(name))[0]) for name in "abcd"}
        entries = [found.write(item(name), each) for name, each in prepared.items()]
        workers = found._workers
    one, other, *rest = [entry["process"] for entry in entries if isinstance(entry, dict)]
    assert one != other
    assert rest == [one, other]
    assert [worker._process.exitcode for worker in workers] == [0, 0]


@pytest.mark.slow
def test_files_and_messages_are_those_of_threads(
    segment: Any, seven: Path, tmp_path: Path, out: Path, monkeypatch: Any
) -> None:
    (seven / "c.png").write_bytes(b"no image")
    threads = segment(seven, "--batch", 2, "--output", tmp_path / "threads")
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)
    monkeypatch.setattr(processes, "MIN_CORES", 1)
    monkeypatch.setattr(processes, "IMAGES_FOR_EACH", 1)
    started = []
    real = processes._Worker.__init__
    monkeypatch.setattr(processes._Worker, "__init__", lambda *these: (started.append(1), real(*these))[1])
    ours = segment(seven, "--batch", 2)
    assert len(started) == 2
    assert ours.code == threads.code == 5
    assert ours.err.splitlines()[0] == threads.err.splitlines()[0]
    pictures = sorted(path.name for path in (tmp_path / "threads").glob("*.png"))
    assert pictures == sorted(path.name for path in out.glob("*.png"))
    for name in pictures:
        assert (out / name).read_bytes() == (tmp_path / "threads" / name).read_bytes()
    records, others = (
        [{**entry, "seconds": sorted(entry["seconds"])} for entry in report_of(folder)["images"]]
        for folder in (out, tmp_path / "threads")
    )
    assert records == others
    assert hidden(out) == []


@pytest.mark.parametrize(
    ("images", "cores", "expected"),
    [(10_000, 3, 0), (64, 4, 4), (127, 8, 0), (128, 8, 8), (10_000, 12, 12), (10_000, 64, 16)],
)
def test_processes_start_where_they_pay(monkeypatch: Any, images: int, cores: int, expected: int) -> None:
    monkeypatch.delenv("MSFORMER_DEPLOY_DEBUG", raising=False)
    monkeypatch.setattr(processes, "usable_cores", lambda: cores)
    assert processes_for(images, stumbling()) == expected


@pytest.mark.parametrize("why", ["debug", "prompts", "trained", "daemon"])
def test_threads_do_what_processes_cannot(monkeypatch: Any, why: str) -> None:
    monkeypatch.delenv("MSFORMER_DEPLOY_DEBUG", raising=False)
    monkeypatch.setattr(processes, "usable_cores", lambda: 8)
    stages = stumbling()
    assert processes_for(10_000, stages) == 8
    if why == "debug":
        monkeypatch.setenv("MSFORMER_DEPLOY_DEBUG", "1")
    elif why == "prompts":
        stages = stumbling(prompts={Path("a"): Prompts([Point(1, 1)])})
    elif why == "trained":
        trained = next(name for name, system in SYSTEMS.items() if system.trained)
        stages = stumbling(segmenter=Bystander(bundle=SimpleNamespace(system=trained)))
    else:
        monkeypatch.setattr(processes, "current_process", lambda: SimpleNamespace(daemon=True))
    assert processes_for(10_000, stages) == 0
