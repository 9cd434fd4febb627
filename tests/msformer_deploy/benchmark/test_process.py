"""A worker that fails, dies, hangs or is not wanted any more: one reason each, and nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from msformer_deploy.benchmark import process
from msformer_deploy.benchmark.process import RowFailed, Worker

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and sessions")


def runs(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let workers be a process that runs ``code``."""
    monkeypatch.setattr(process, "COMMAND", [sys.executable, "-c", code])


def test_an_answer_and_an_error(tmp_path):
    with Worker() as worker:
        request = {"settings": {}, "images": [], "judged": 0, "batch": 1, "folder": ""}
        with pytest.raises(RowFailed, match="there is no bundle here; make one") as failed:
            worker.ask("open", bundle=str(tmp_path / "none"), backend="torch", **request)
        assert failed.value.exit_code == 1
        assert "\n" not in failed.value.reason
    assert worker._process.returncode == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('out of cheese')", "its process ended with exit code 1: out of cheese"),
        ("raise SystemExit(3)", "its process ended with exit code 3"),
        ("print('{\"half\": ', end='')", "its process ended with exit code 0"),
        pytest.param(
            "import os; os.kill(os.getpid(), 9)",
            "its process was killed, most likely because memory ran out; pass a smaller --batch",
            marks=posix,
        ),
        pytest.param("import os; os.abort()", "its process ended with signal SIGABRT", marks=posix),
    ],
)
def test_a_process_that_dies_is_a_reason(monkeypatch, code, reason):
    runs(monkeypatch, code)
    with Worker() as worker, pytest.raises(RowFailed) as failed:
        worker.ask("first")
    assert failed.value.reason.startswith(reason)
    assert failed.value.exit_code == 1


@posix
def test_ctrl_c_is_not_for_workers(monkeypatch):
    runs(monkeypatch, "input()")
    with Worker() as worker:
        assert os.getsid(worker._process.pid) != os.getsid(0)


def test_a_failure_ends_a_worker_at_once(monkeypatch):
    runs(monkeypatch, "import time; time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Worker() as worker:
        raise KeyboardInterrupt
    assert worker._process.returncode == -signal.SIGKILL if os.name == "posix" else worker._process.returncode
    assert time.monotonic() - start < 10
    worker.close()


def test_a_worker_that_does_not_end_is_killed(monkeypatch):
    runs(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(process, "CLOSING", 0.1)
    with Worker() as worker:
        pass
    assert worker._process.returncode
