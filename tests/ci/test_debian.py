"""What ``.ci/debian`` does where Debian's packages cannot be installed. That it installs them takes a new machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from locations import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")
PACKAGES = "dcmtk dicom3tools orthanc orthanc-dicomweb chromium"


def outcome(folder: Path, **programs: str) -> tuple[int, str]:
    """Exit code and all output of the script, with stand-ins in place of programs, by a line of shell each."""
    for name, line in {"apt-get": "exit 1", "id": "echo 1000", **programs}.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    # "dpkg-query" is no name of an argument.
    (folder / "query").rename(folder / "dpkg-query")
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([ROOT / ".ci" / "debian"], env=environment, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr


def test_nothing_is_done_where_they_are_installed(tmp_path: Path) -> None:
    assert outcome(tmp_path, query="exit 0", sudo="echo called") == (0, "")


def test_a_password_is_not_asked_for(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, query="exit 1", sudo='test "$1" = --non-interactive && exit 1; cat /dev/tty')
    assert (code, text) == (0, f"not installed, because that needs a password: {PACKAGES}\n")


def test_a_failure_is_one_line(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, query="exit 1", sudo='case "$*" in *apt-get*) echo much; exit 1;; esac')
    assert (code, text) == (0, f"apt-get could not install {PACKAGES}\n")
