"""An archive (PACS) of this machine for tests: Debian's Orthanc with DICOMweb, reached on the loopback alone."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs
from ports import unused_port


@dataclass(frozen=True)
class Orthanc:
    """A running archive.

    Attributes:
        http: port of its REST API and of DICOMweb.
        dicom: port of its DICOM server.
    """

    http: int
    dicom: int

    def get(self, path: str, accept: str = "application/json") -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return bytes(answer.read())

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def instances(self, series: str) -> list[bytes]:
        """The DICOM files of a series, by the REST API."""
        for each in self.json("/series?expand"):
            if each["MainDicomTags"]["SeriesInstanceUID"] == series:
                return [self.get(f"/instances/{instance}/file", "*/*") for instance in each["Instances"]]
        raise AssertionError(f"Orthanc has no series {series}")

    def store_by_dicomweb(self, files: Sequence[Path]) -> Any:
        """Store files (STOW-RS), and return the answer."""
        boundary = secrets.token_hex(16)
        parts = [
            f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
            for path in files
        ]
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/dicom-web/studies",
            b"".join(parts) + f"--{boundary}--\r\n".encode(),
            {
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Accept": "application/dicom+json",
            },
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


@contextmanager
def running(folder: Path, **more: Any) -> Iterator[Orthanc]:
    """Start an archive that keeps everything in a folder, and stop it at the end; ``more`` is its configuration."""
    http, dicom = unused_port(), unused_port()
    configuration = {
        "Name": "msformer-deploy tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowGet": True,
        "DicomCheckCalledAet": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            [programs.find("Orthanc") or "Orthanc", folder / "orthanc.json"], stdout=log, stderr=log
        )
        try:
            archive = Orthanc(http, dicom)
            _wait(archive, process, folder / "orthanc.log")
            yield archive
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(archive: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            archive.json("/system")
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
        else:
            return
    raise AssertionError(log.read_text(errors="replace"))
