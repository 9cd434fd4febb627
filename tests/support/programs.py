"""Programs of others that judge our DICOM files or take them, from Debian's packages and from dcmqi's wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# By package: the program that it is here for.
_PROGRAMS = {"dcmtk": "storescu", "dicom3tools": "dciodvfy", "orthanc": "Orthanc"}
# Debian's dciodvfy is of 2022 and does not know label maps, which came in 2024.
UNKNOWN_TO_DCIODVFY = {
    "Error - Information Object Not found",
    "Error - </SegmentSequence(0062,0002)[1]/SegmentNumber(0062,0004)> - SegmentNumber not monotonically increasing"
    " from one by one - have SegmentSequence item number 1 (from one) with SegmentNumber of 0",
}


def is_installed(package: str) -> bool:
    """Whether a Debian package is here."""
    return _PLUGIN.exists() if package == "orthanc-dicomweb" else find(_PROGRAMS[package]) is not None


def find(program: str) -> str | None:
    """The path of a program; of services too, which are not on everybody's PATH.

    Debian's come first: Python packages bring programs of the same names with other options.
    """
    return shutil.which(program, path=os.pathsep.join(("/usr/bin", "/usr/sbin", os.environ.get("PATH", ""))))


def run(*command: str | Path) -> str:
    """Run a program and return what it writes; a failure is one of the test."""
    name, *arguments = command
    done = subprocess.run([find(str(name)) or name, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def errors(path: Path) -> list[str]:
    """The errors that dciodvfy finds in a DICOM file; its exit code says little."""
    command = [find("dciodvfy") or "dciodvfy", "-new", path]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy names at least the kind of object"
    return [line for line in lines if line.startswith("Error")]


def dcmqi(program: str) -> Path:
    """A program of dcmqi's wheel."""
    spec = find_spec("dcmqi")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "bin" / program
