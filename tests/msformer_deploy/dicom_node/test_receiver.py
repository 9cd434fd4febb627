"""What senders are answered, over the loopback."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")
pytest.importorskip("pynetdicom", reason="pynetdicom is not installed")
from ct_series import NAME, ct_slices
from dicom_files import CT, common, cr, write
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless
from pynetdicom import AE

from msformer_deploy.dicom_node import durable, spool
from msformer_deploy.dicom_node.callers import parse_caller
from msformer_deploy.dicom_node.receiver import Receiver
from msformer_deploy.dicom_node.spool import Limits, Spool
from msformer_deploy.errors import DeployError

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33"
LIMITS = Limits(100, 1 << 20, 0)
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass
class Listening:
    """A receiver that listens."""

    folder: Path
    spool: Spool
    port: int = 0
    log: list[str] = field(default_factory=list)

    def images(self) -> list[Path]:
        return sorted(self.folder.glob("incoming/*/*.dcm"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    opened: list[Any] = []

    def begin(*callers: str, limits: Limits = LIMITS) -> Listening:
        kept = spool.opened(tmp_path / "spool", limits)
        found = Listening(tmp_path / "spool", kept.__enter__())
        receiver = Receiver("NODE", [parse_caller(each) for each in callers], found.spool, found.log.append)
        opened.extend((receiver.stop, lambda: kept.__exit__(None, None, None)))
        found.port = receiver.start("127.0.0.1", 0)
        return found

    yield begin
    for close in opened:
        close()


def associate(port: int, title: str = "CT1", syntax: str = ExplicitVRLittleEndian) -> Any:
    entity = AE(title)
    for sop_class in (CT, SEG, SR, CAPTURE, "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.1"):
        entity.add_requested_context(sop_class, syntax)
    return entity.associate("127.0.0.1", port)


def send(port: int, *instances: Dataset | Path) -> list[Dataset]:
    """Store instances in one association, and return the answers."""
    association = associate(port)
    assert association.is_established
    try:
        return [association.send_c_store(_with_meta(each)) for each in instances]
    finally:
        association.release()


def _with_meta(instance: Dataset | Path) -> Dataset | Path:
    if isinstance(instance, Dataset):
        instance.ensure_file_meta()
        instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return instance


def test_echo(start: Any) -> None:
    association = associate(start().port)
    assert association.send_c_echo().Status == 0
    association.release()


def test_an_instance_that_is_acknowledged_is_on_the_disk_as_it_was_sent(start: Any, tmp_path: Path) -> None:
    node = start()
    (instance,) = ct_slices(slices=1)
    assert [each.Status for each in send(node.port, instance)] == [0]
    (path,) = node.images()
    kept = dcmread(path)
    assert kept == instance
    assert kept.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert path.parent.name == spool.series_name(instance.StudyInstanceUID, instance.SeriesInstanceUID)
    assert path.stem == spool.instance_name(instance.SOPInstanceUID)
    assert node.log == []


def test_the_answer_waits_for_the_disk(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node, order = start(), list[str]()
    for name in ("write", "rename"):
        real = getattr(durable, name)
        monkeypatch.setattr(durable, name, lambda *given, _n=name, _r=real: (_r(*given), order.append(_n))[0])
    send(node.port, *ct_slices(slices=1))
    assert order == ["write", "rename"]


def _without(*keywords: str, **more: Any) -> Dataset:
    (instance,) = ct_slices(slices=1, **more)
    for keyword in keywords:
        del instance[keyword]
    return instance


def _overlay() -> Dataset:
    return common(CAPTURE, "OT", Manufacturer="msformer-deploy")


BAD: dict[str, tuple[Callable[[], Dataset], int, str]] = {
    "no pixels": (lambda: _without("PixelData"), 0xA900, "has no pixels"),
    "no rows": (lambda: _without("Rows"), 0xA900, "has no number of rows"),
    "pixels cut short": (lambda: _without(PixelData=bytes(100)), 0xA900, "cut short"),
    "no series": (lambda: _without("SeriesInstanceUID"), 0xA900, "has no SeriesInstanceUID"),
    "a SEG": (lambda: common(SEG, "SEG"), 0x0122, "DICOM SEG"),
    "a report": (lambda: common(SR, "SR"), 0x0122, "DICOM SR"),
    "an overlay of ours": (_overlay, 0x0122, "overlay of msformer-deploy"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_instance_is_refused_and_the_next_one_is_taken(name: str, start: Any) -> None:
    make, status, reason = BAD[name]
    node = start()
    answers = send(node.port, make(), *ct_slices(slices=1))
    assert [each.Status for each in answers] == [status, 0]
    assert len(node.images()) == 1
    (line,) = node.log
    assert line.startswith("refused an instance of CT1 at 127.0.0.1: ")
    assert line.endswith(f" (status {status:04X})")
    assert reason in line
    assert answers[0].ErrorComment == line.split(": ", 1)[1].rpartition(" (status")[0][:64]
    assert not [part for part in (NAME, "P-4711", "Müller", str(node.folder)) if part in line]
    assert list(node.folder.glob("incoming/.*")) == []


def test_what_cannot_be_read_is_refused(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pynetdicom import association as of_pynetdicom

    node = start()
    monkeypatch.setattr(of_pynetdicom, "encode", lambda *_: b"\x08\x00\x05\x00SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\xff")
    (answer,) = send(node.port, *ct_slices(slices=1))
    assert answer.Status == 0xC000
    assert node.log == ["refused an instance of CT1 at 127.0.0.1: cannot be read as DICOM (status C000)"]


class TestLimits:
    def test_a_disk_that_is_full(self, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        node = start()
        with monkeypatch.context() as patch:
            patch.setattr(durable, "write", full)
            answers = send(node.port, *ct_slices(slices=2))
        assert [each.Status for each in answers] == [0xA700, 0xA700]
        assert node.images() == []
        assert "No space left on device" in node.log[0]
        (series,) = node.spool.due(0, on_release=False)
        assert node.spool.complete(series).kind == "lacking", "the node knows what it did not take"

    def test_space_that_is_left_free(self, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        node = start(limits=Limits(100, 1 << 20, 5000))
        for free, status in ((9000, 0), (6000, 0xA700)):
            monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(9000, 0, free))
            (answer,) = send(node.port, *ct_slices(status + 1, slices=1))
            assert answer.Status == status

    @pytest.mark.parametrize("limits", [Limits(1, 1 << 20, 0), Limits(100, 4000, 0)], ids=["instances", "size"])
    def test_a_series_that_is_too_large(self, start: Any, limits: Limits) -> None:
        node = start(limits=limits)
        answers = send(node.port, *ct_slices(slices=3), *ct_slices(2, slices=1))
        assert [each.Status for each in answers] == [0, 0xA700, 0xA700, 0]
        assert len(node.images()) == 2
        assert "its series has more than" in node.log[0]


class TestCallers:
    @pytest.mark.parametrize("caller", ["CT1@127.0.0.1", "*@127.0.0.0/8", "CT1@*", "*@*"])
    def test_one_that_may(self, start: Any, caller: str) -> None:
        assert send(start("X@10.0.0.1", caller).port, *ct_slices(slices=1))[0].Status == 0

    @pytest.mark.parametrize("caller", ["CT2@127.0.0.1", "CT1@10.0.0.1"])
    def test_one_that_may_not(self, start: Any, caller: str) -> None:
        node = start(caller)
        association = associate(node.port)
        assert association.is_rejected
        assert association.acceptor.primitive.diagnostic == 3, "calling AE title not recognized"
        assert node.log == ["rejected an association of CT1 at 127.0.0.1: not among the callers of --allow"]


def test_an_image_that_is_compressed_is_taken_as_it_is(start: Any, tmp_path: Path) -> None:
    image = cr()
    pixels = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
    image.PixelData = encapsulate([imagecodecs.jpegls_encode(pixels)])
    image["PixelData"].VR = "OB"
    path = write(tmp_path / "image.dcm", image)
    compressed = dcmread(path)
    compressed.file_meta.TransferSyntaxUID = JPEGLSLossless
    node = start()
    association = associate(node.port, syntax=JPEGLSLossless)
    assert association.send_c_store(compressed).Status == 0
    association.release()
    (kept,) = node.images()
    assert dcmread(kept).file_meta.TransferSyntaxUID == JPEGLSLossless


def test_a_sender_may_end_what_it_sends_when_the_node_stops(tmp_path: Path) -> None:
    with spool.opened(tmp_path, LIMITS) as kept:
        receiver = Receiver("NODE", [], kept, lambda _: None)
        port = receiver.start("127.0.0.1", 0)
        association = associate(port)
        first, second = ct_slices(slices=2)
        assert association.send_c_store(_with_meta(first)).Status == 0
        stopping = threading.Thread(target=receiver.stop)
        stopping.start()
        while not associate(port).is_aborted:
            pass
        assert association.send_c_store(_with_meta(second)).Status == 0
        association.release()
        stopping.join(10)
        assert not stopping.is_alive()
    assert len(list(tmp_path.glob("incoming/*/*.dcm"))) == 2


def test_a_port_that_is_taken(start: Any) -> None:
    node = start()
    with pytest.raises(DeployError, match=rf"^address 127.0.0.1 with port {node.port} cannot be used \("):
        Receiver("NODE", [], node.spool, node.log.append).start("127.0.0.1", node.port)
