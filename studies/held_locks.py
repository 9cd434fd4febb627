"""How long locks are held in the main process of ``run``, while processes read and write a folder.

    python studies/held_locks.py INPUT... --bundle BUNDLE [--processes 2]

- The lock that all threads of the main process share beside Python's own: each time it is held is measured.
- Python's own lock (GIL): a thread of the main process sleeps 2 ms, again and again, and measures how late it is.
  It waits for the lock and for a free core. A second process does the same at the same time and waits for a core only,
  so what the first has more is the lock.

The network takes no time, as in ``throughput.py --ways around``, so the main process is as busy as it can be.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from script import exit_code
from throughput import with_answers

from msformer_deploy import Segmenter
from msformer_deploy.commands.output import complain
from msformer_deploy.images.inputs import discover
from msformer_deploy.results import processes
from msformer_deploy.results.batch import BatchRun
from msformer_deploy.results.formats import Wanted

SLEEP = 2e-3  # seconds
BESIDE = "--beside"  # how this script starts itself as the second process


class TimedLock:
    """A lock that remembers how long it was held each time."""

    def __init__(self) -> None:
        self._lock, self.held, self._since = threading.Lock(), list[float](), 0.0
        self.used = threading.Event()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.held.append(time.perf_counter() - self._since)
        self._lock.release()
        self.used.set()


def lateness(ended: threading.Event) -> list[float]:
    """Seconds that each sleep took more than it should have, until the event is set."""
    late = []
    while not ended.is_set():
        start = time.perf_counter()
        time.sleep(SLEEP)
        late.append(time.perf_counter() - start - SLEEP)
    return late


def beside() -> None:
    """In a process of its own: sleep until the standard input ends, and print how late that was each time."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print(json.dumps(lateness(ended)))


def said(name: str, seconds: list[float]) -> str:
    """A row of the table: milliseconds, and the share of more than 1 ms."""
    values = 1e3 * np.array(seconds)
    middle, high, highest = np.percentile(values, [50, 99, 100])
    return f"{name:34} {len(values):7} {middle:8.3f} {high:8.3f} {highest:8.3f} {np.mean(values > 1):9.2%}"


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    items = discover(arguments.inputs)
    segmenter = with_answers(Segmenter(arguments.bundle), items)
    shared, ended, own = TimedLock(), threading.Event(), list[float]()
    outside: list[float] = []

    def watch() -> None:
        while not (shared.used.wait(0.1) or ended.is_set()):  # until the processes have been started
            pass
        command = [sys.executable, __file__, BESIDE]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            own.extend(lateness(ended))
            outside.extend(json.loads(other.communicate()[0]))

    with tempfile.TemporaryDirectory() as scratch:
        given = (Path(scratch), 1, False, True, 1, complain, Wanted())
        batch_run = BatchRun(segmenter, items, *given, processes=arguments.processes)
        construct = processes.Processes.__init__

        def with_timed_lock(self: processes.Processes, *parts: Any) -> None:
            construct(self, *parts)
            self._lock = shared  # type: ignore[assignment]

        processes.Processes.__init__ = with_timed_lock  # type: ignore[method-assign]
        watching = threading.Thread(target=watch)
        watching.start()
        try:
            batch_run.run()
        finally:
            ended.set()
            watching.join()
            processes.Processes.__init__ = construct  # type: ignore[method-assign]
    print(f"{len(items)} images, {arguments.processes} processes")
    print(f"{'':34} {'times':>7} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'over 1 ms':>9}")
    print(said("shared lock held", shared.held))
    print(said("sleep too long, main process", own))
    print(said("sleep too long, another process", outside))


def main() -> int:
    """Print the table; the exit code is that of the failure, if there is one."""
    if sys.argv[1:] == [BESIDE]:
        beside()
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, help="images, or folders of them")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    return exit_code(run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
