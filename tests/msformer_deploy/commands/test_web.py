from __future__ import annotations

import os
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
    assert outcome.err == f"error: {tmp_path}: the folder is not empty; name a new one with --output\n"


def test_a_folder_that_cannot_be_made_is_one_line(invoke: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = invoke("web", "--output", tmp_path / "file" / "page")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {tmp_path / 'file' / 'page'}: cannot be written (")


@pytest.mark.slow
def test_the_page_is_written(invoke: Any, tmp_path: Path) -> None:
    outcome = invoke("web", "--output", tmp_path / "page")
    assert (outcome.code, outcome.err) == (0, "")
    assert {"index.html", "page.json", "runtime.wasm.gz"} <= {path.name for path in (tmp_path / "page").iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Ctrl+C cannot be sent to one process on Windows")
def test_the_page_is_served_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "msformer_deploy", "web", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
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
