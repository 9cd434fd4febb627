"""``msformer-deploy serve`` in a process of its own, on the loopback, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 60  # after which a server that gives no answer has failed


@dataclass(frozen=True)
class Answer:
    """What a request got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> str:
        """The line of a failure, after checking that it is one."""
        found = self.json()
        assert list(found) == ["error"]
        line: str = found["error"]
        assert line and "\n" not in line and "Traceback" not in line
        return line


class Served:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str], log: Path, address: str) -> None:
        self.process, self._log = process, log
        self.host, _, port = address.removeprefix("http://").rpartition(":")
        self.port = int(port)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, dict(headers or {}))
            got = connection.getresponse()
            return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def connect(self) -> socket.socket:
        """A connection on which nothing was sent."""
        return socket.create_connection((self.host, self.port), timeout=SECONDS)

    def log(self) -> list[dict[str, Any]]:
        """What the server has written on stderr."""
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]

    def memory(self, kind: str = "VmHWM") -> int:
        """Kibibytes of memory, by default the most that it ever had."""
        (line,) = (
            line
            for line in Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
            if line.startswith(f"{kind}:")
        )
        return int(line.split()[1])

    def metric(self, name: str) -> float:
        """The value of a metric, labels as they are written."""
        lines = self.get("/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])

    def end(self) -> int:
        """Send SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def serving(*options: object, ready: bool = True, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Run the command on a free port until the ``with`` ends.

    Args:
        options: of the command.
        ready: wait until images are segmented.
        environment: more variables.
    """
    command = [sys.executable, "-m", "msformer_deploy", "serve", "--port", "0", *map(str, options)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with (
            log.open("w") as err,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=err, text=True, env={**os.environ, **(environment or {})}
            ) as process,
        ):
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert " is served at http://" in line, log.read_text()
                served = Served(process, log, line.split(" at ")[1].split(";")[0])
                until = time.monotonic() + SECONDS
                while ready and served.get("/v2/health/ready").status != 200:
                    assert time.monotonic() < until and process.poll() is None, log.read_text()
                    time.sleep(0.02)
                yield served
            finally:
                process.kill()


def png(pixels: Any) -> bytes:
    """An image file."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
