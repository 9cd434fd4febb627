from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest


def test_a_folder_that_is_not_empty_is_refused(invoke: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = invoke("web", "--output", tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"error: {tmp_path}: is not a new or an empty folder; name one with --output\n"
    assert invoke("web", "--output", tmp_path / "file").code == 2


def test_a_folder_that_cannot_be_made_is_one_line(invoke: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = invoke("web", "--output", tmp_path / "file" / "page")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {tmp_path / 'file' / 'page'}: cannot be written (")


@pytest.mark.parametrize("arguments", [["--output", "page"], ["--port", "0"]])
def test_a_full_disk_leaves_nothing(
    arguments: list[str], invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        (folder / "index.html").touch()
        raise shutil.Error([("a", "b", "No space left on device")])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("msformer_deploy.web.site.write_site", full)
    outcome = invoke("web", *arguments)
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.endswith(": cannot be written (the disk is full or fails); make room, or name another folder\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("made", [False, True])
def test_the_page_is_written(made: bool, invoke: Any, tmp_path: Path) -> None:
    if made:
        (tmp_path / "page").mkdir()
    outcome = invoke("web", "--output", tmp_path / "page")
    assert (outcome.code, outcome.err) == (0, "")
    assert {"index.html", "page.json", "runtime.wasm.gz"} <= {path.name for path in (tmp_path / "page").iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Ctrl+C cannot be sent to one process on Windows")
def test_the_page_is_served_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "msformer_deploy", "web", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell starts behind itself ignores it
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split()[1]
        with urllib.request.urlopen(address) as answer:
            assert b"msformer-deploy" in answer.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert not list(tmp_path.iterdir())
