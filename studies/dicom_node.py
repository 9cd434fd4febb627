"""``msformer-deploy listen`` is killed again and again while series come in: is each answered by exactly one SEG?

    python studies/dicom_node.py [--series 200] [--kills 20] [--slices 3] [--send-by store|web] [--json FILE]

A sender stores small CT series, each in a study of its own, and repeats a series until all its images are acknowledged,
as an archive does. Meanwhile the node is killed with SIGKILL at random moments, between the start of its process and
four seconds after it listens, and started again. The results go to a real archive (Debian's ``orthanc``, with
``orthanc-dicomweb``). At the end the node gets SIGTERM. For each series the script counts the SEGs in the archive, and
the images that the SEG refers to. Everything is on the loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from script import exit_code, tell

from msformer_deploy.errors import DeployError, UsageError

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SIDE = 48
QUIET = 5.0  # seconds after which a series is complete: longer than a sender needs to come back
LIFE = 4.0  # seconds for which a node listens at most before it is killed
PATIENCE = 600.0  # seconds without a change in the spool, after which the script gives up


class Node:
    """The command as a process that is killed and started again, on one port and with one spool."""

    def __init__(self, spool: Path, port: int, destination: str, bundle: Path | None) -> None:
        given = ["--bundle", str(bundle)] if bundle is not None else ["--preset", "fast"]
        options = ["--spool", str(spool), "--send-to", destination, "--port", str(port), "--min-free", "0"]
        self._command = [sys.executable, "-m", "msformer_deploy", "listen", *options, *given]
        self._command += ["--quiet-seconds", str(QUIET), "--complete-on-release", "--threads", "1"]
        self._port, self._log = port, spool.with_name("node.log")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def listens(self) -> bool:
        """Whether it takes connections."""
        if self._process.poll() is not None:
            raise DeployError(f"the node ended with exit code {self._process.returncode}: {self.lines()[-1:]}")
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        return True

    def end(self, with_signal: int) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(with_signal)
        return self._process.wait()

    def lines(self) -> list[str]:
        """What it has logged, over all its lives."""
        return self._log.read_text(encoding="utf-8").splitlines()


class Sender(threading.Thread):
    """Stores series one after the other, each again and again until all its images are acknowledged."""

    def __init__(self, port: int, series: list[list[Dataset]]) -> None:
        super().__init__(daemon=True)
        self._port, self._series = port, series
        self.allowed = 0  # series that may be sent by now
        self.acknowledged, self.tries = 0, 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            for number, images in enumerate(self._series):
                while self.allowed <= number:
                    time.sleep(0.01)
                while not self._stored(images):
                    time.sleep(0.2)
                self.acknowledged += 1
        except Exception as error:
            self.failure = error

    def _stored(self, images: list[Dataset]) -> bool:
        self.tries += 1
        entity = AE("SENDER")
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 5
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", self._port)
        if not association.is_established:
            return False
        try:
            return all(association.send_c_store(image).get("Status") == 0 for image in images)
        except (RuntimeError, ValueError):  # the association ended in between
            return False
        finally:
            if association.is_established:
                association.release()


def ct_series(number: int, slices: int) -> list[Dataset]:
    """The slices of a series: noise with a bright block, in a study of its own."""
    voxels = np.random.default_rng(number).normal(-100, 10, (slices, SIDE, SIDE))
    voxels[:, 8:30, 6:26] += 400
    return [_slice(number, index, (pixels + 1024).astype("<i2")) for index, pixels in enumerate(voxels, 1)]


def study_uid(number: int) -> str:
    """Of a series' study."""
    return f"2.25.900{number}"


def _slice(number: int, index: int, pixels: np.ndarray) -> Dataset:
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = CTImageStorage
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = UID(f"{study_uid(number)}.1.{index}")
    found.StudyInstanceUID, found.SeriesInstanceUID = UID(study_uid(number)), UID(f"{study_uid(number)}.1")
    found.FrameOfReferenceUID = UID(f"{study_uid(number)}.2")
    found.Modality, found.PatientName, found.PatientID = "CT", f"Test^{number}", f"T{number}"
    found.PatientBirthDate = found.PatientSex = found.StudyDate = found.StudyTime = found.AccessionNumber = ""
    found.StudyID = found.ReferringPhysicianName = found.Manufacturer = found.PositionReferenceIndicator = ""
    found.InstanceNumber, found.ImageType = index, ["ORIGINAL", "PRIMARY", "AXIAL"]
    found.ImagePositionPatient, found.ImageOrientationPatient = [0, 0, 3 * index], [1, 0, 0, 0, 1, 0]
    found.PixelSpacing, found.SliceThickness = [0.9, 0.7], 3
    found.RescaleSlope, found.RescaleIntercept = 1, -1024
    found.Rows, found.Columns, found.SamplesPerPixel = SIDE, SIDE, 1
    found.PhotometricInterpretation, found.PixelRepresentation = "MONOCHROME2", 1
    found.BitsAllocated, found.BitsStored, found.HighBit = 16, 16, 15
    found.PixelData = pixels.tobytes()
    return found


class Archive:
    """A running Orthanc."""

    def __init__(self, http: int, dicom: int) -> None:
        self.http, self.dicom = http, dicom

    def json(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=20) as answer:
            return json.load(answer)

    def segmentations(self) -> dict[str, list[int]]:
        """For each study, the number of source images of each of its SEGs."""
        found: dict[str, list[int]] = {}
        for instance in self.json("/instances"):
            tags = self.json(f"/instances/{instance}/simplified-tags")
            (source,) = tags["ReferencedSeriesSequence"]
            found.setdefault(tags["StudyInstanceUID"], []).append(len(source["ReferencedInstanceSequence"]))
        return found


@contextmanager
def archive(folder: Path) -> Iterator[Archive]:
    """Start an Orthanc that keeps everything in a folder, and stop it at the end.

    Raises:
        DeployError: it is not installed, or does not start.
    """
    program = shutil.which("Orthanc", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if program is None or not PLUGIN.exists():
        raise DeployError("Orthanc is not installed; apt-get install orthanc orthanc-dicomweb")
    http, dicom = free_port(), free_port()
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowStore": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration), encoding="utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        found = Archive(http, dicom)
        wait_until(lambda: process.poll() is not None or _answers(found), 30, "Orthanc does not start")
        if process.poll() is not None:
            raise DeployError("Orthanc ended at its start")
        yield found
    finally:
        process.terminate()
        process.wait()


def _answers(found: Archive) -> bool:
    try:
        found.json("/system")
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def wait_until(condition: Any, seconds: float, failure: str) -> None:
    """Wait for a condition.

    Raises:
        DeployError: it does not come true in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise DeployError(failure)
        time.sleep(0.02)


def main() -> int:
    """Measure; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=200, help="default: 200")
    parser.add_argument("--kills", type=int, default=20, help="default: 20")
    parser.add_argument("--slices", type=int, default=3, help="of a series; default: 3")
    parser.add_argument("--send-by", choices=("store", "web"), default="store", help="C-STORE or STOW-RS")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    parser.add_argument("--bundle", type=Path, help="default: that of the preset fast")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> int:
    """What was asked for; 1 if a series has not exactly one whole SEG."""
    if min(arguments.series, arguments.slices) < 1 or arguments.kills < 0:
        raise UsageError("--series and --slices must be 1 or more, --kills 0 or more")
    series = [ct_series(number, arguments.slices) for number in range(1, arguments.series + 1)]
    with tempfile.TemporaryDirectory(prefix="dicom-node-") as temporary, archive(Path(temporary)) as found:
        store = arguments.send_by == "store"
        destination = f"ORTHANC@127.0.0.1:{found.dicom}" if store else f"http://127.0.0.1:{found.http}/dicom-web"
        node = Node(Path(temporary) / "spool", free_port(), destination, arguments.bundle)
        start = time.monotonic()
        facts = disturbed(node, Sender(node._port, series), Path(temporary) / "spool", arguments)
        facts["seconds"] = round(time.monotonic() - start, 1)
        segmentations = found.segmentations()
    counts = Counter(len(segmentations.get(study_uid(number), [])) for number in range(1, arguments.series + 1))
    whole = sum(sources == [arguments.slices] for sources in segmentations.values())
    facts |= {"segs_of_a_series": dict(sorted(counts.items())), "whole": whole, "send_by": arguments.send_by}
    lines = ["| what | number |", "|---|---:|"]
    lines += [f"| {name.replace('_', ' ')} | {value} |" for name, value in facts.items()]
    tell("\n".join(lines) + "\n", facts, arguments)
    perfect = whole == arguments.series == facts["acknowledged"] and len(segmentations) == arguments.series
    return 0 if perfect and facts["exit_code"] == 0 and facts["failed"] == 0 else 1


def disturbed(node: Node, sender: Sender, spool: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Send everything while the node is killed, wait until all is done, and end the node; what happened."""
    moments = random.Random(arguments.seed)
    while_starting = 0
    sender.start()
    node.start()
    try:
        for kill in range(arguments.kills):
            if moments.random() < 0.2:  # before it listens, or just then
                time.sleep(moments.uniform(0, 3))
                while_starting += not node.listens()
            else:
                wait_until(node.listens, 120, "the node does not listen")
                sender.allowed = (kill + 1) * arguments.series // (arguments.kills + 1)
                time.sleep(moments.uniform(0, LIFE))
            node.end(signal.SIGKILL)
            node.start()
        sender.allowed = arguments.series
        last, changed = state_of(spool), time.monotonic()
        while sender.is_alive() or any(last[name] for name in ("incoming", "complete", "sending")):
            now = state_of(spool)
            if now != last:
                last, changed = now, time.monotonic()
            if time.monotonic() - changed > PATIENCE:
                raise DeployError(f"nothing happens any more: {last}")
            time.sleep(0.1)
        wait_until(node.listens, 120, "the node does not listen")
    finally:
        code = node.end(signal.SIGTERM)
    if sender.failure is not None:
        raise DeployError(f"the sender failed: {sender.failure}")
    lines = node.lines()
    return {
        "series": arguments.series,
        "kills": arguments.kills,
        "kills_before_it_listened": while_starting,
        "acknowledged": sender.acknowledged,
        "tries_of_the_sender": sender.tries,
        "segmentations": sum(": segmented" in line for line in lines),
        "sent": sum(": sent to" in line for line in lines),
        "came_again": sum("came again" in line for line in lines),
        "with_late_images": sum("with late images" in line for line in lines),
        "failed": state_of(spool)["failed"],
        "exit_code": code,
    }


def state_of(spool: Path) -> Counter[str]:
    """The number of series in each folder of the spool."""
    return Counter(path.parent.name for path in spool.glob("*/*") if not path.name.startswith("."))


if __name__ == "__main__":
    sys.exit(main())
