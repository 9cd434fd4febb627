"""The command ``listen`` as a process, on a free port of the loopback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ports import unused_port


@dataclass(frozen=True)
class Listening:
    """A node that listens.

    Attributes:
        port: of its DICOM server.
        spool: its folder.
        process: its process.
        log: file with what it writes on stderr.
    """

    port: int
    spool: Path
    process: subprocess.Popen[bytes]
    log: Path

    def lines(self) -> list[str]:
        """What it has logged, without the times."""
        return [line.partition("Z ")[2] for line in self.log.read_text(encoding="utf-8").splitlines()]

    def wait_for(self, *parts: str, count: int = 1) -> None:
        """Wait until so many lines of the log have all parts."""
        end = time.monotonic() + 60
        while sum(all(part in line for part in parts) for line in self.lines()) < count:
            assert time.monotonic() < end, self.lines()
            assert self.process.poll() is None, self.lines()
            time.sleep(0.02)

    def end(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def listening(folder: Path, *options: str | Path, port: int | None = None) -> Iterator[Listening]:
    """Start a node with its spool in a folder, and end it at the end, if it has not."""
    port = port or unused_port()
    log = folder / "listen.log"
    command = [sys.executable, "-m", "msformer_deploy", "listen", *options, "--spool", folder / "spool"]
    command += ["--port", str(port), "--min-free", "0", "--threads", "1"]
    with log.open("ab") as stream:
        process = subprocess.Popen(list(map(str, command)), stderr=stream)
    try:
        found = Listening(port, folder / "spool", process, log)
        found.wait_for("listens on 127.0.0.1")
        yield found
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
