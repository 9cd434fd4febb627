"""A worker, as the process that started it sees it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tempfile
from typing import Any

from ..errors import DeployError
from ..machine.interpreter import command_of

COMMAND = command_of("msformer_deploy.benchmark.worker")
CLOSING = 30  # seconds a worker may take to end


class RowFailed(Exception):
    """What kept a row from being measured."""

    def __init__(self, reason: str, exit_code: int = DeployError.exit_code) -> None:
        super().__init__(reason)
        self.reason, self.exit_code = reason, exit_code


class Worker:
    """A process of :mod:`.worker`, to be closed. It is not reached by Ctrl-C: whoever started it ends it."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            encoding="utf-8",
            start_new_session=True,
        )

    def ask(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Have a method of :class:`.worker.Sampler` called.

        Raises:
            RowFailed: it failed, or the process died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(json.dumps({"do": action, **arguments}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise RowFailed(self._death())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RowFailed(answer["error"], answer["exit_code"])
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        last = self._said.read().decode(errors="replace").strip().splitlines()[-1:]
        if code == -signal.SIGKILL:
            return "its process was killed, most likely because memory ran out; pass a smaller --batch"
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return ": ".join([f"its process ended with {ending}", *last])

    def close(self, at_once: bool = False) -> None:
        """End the process: when it is done with what it does, or at once."""
        if self._said.closed:
            return
        if at_once:
            self._process.kill()
        try:
            self._process.communicate(timeout=CLOSING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._said.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(at_once=kind is not None)
