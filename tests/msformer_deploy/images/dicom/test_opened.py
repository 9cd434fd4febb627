"""Bad files: one line each, and no word of a header in it."""

from __future__ import annotations

import logging
import os
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicoms import PIXELS, image, save, sequence, slice_at
from pydicom import config, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from msformer_deploy.errors import DeployError, ImageError
from msformer_deploy.images.decoders import stored
from msformer_deploy.images.dicom.opened import opened
from msformer_deploy.images.dicom.series import read_volume
from msformer_deploy.images.inputs import PassedOver, discover
from msformer_deploy.images.read import read_image

MARKER = "ZQXMARKER"
_NUMBER = "9182736455"  # a marker where only digits may stand


def cut(found: Dataset, path: Path, by: int) -> None:
    path.write_bytes(save(found, path).read_bytes()[:-by])


def stated(found: Dataset, path: Path, length: int) -> None:
    """Write a file whose pixels are stated to have another length."""
    content = save(found, path).read_bytes()
    place = content.index(b"\xe0\x7f\x10\0OW") + 8
    path.write_bytes(content[:place] + length.to_bytes(4, "little") + content[place + 4 :])


def packed(found: Dataset, path: Path, syntax: uid.UID, *streams: bytes) -> None:
    found.file_meta.TransferSyntaxUID = syntax
    found.PixelData = encapsulate(list(streams))
    found["PixelData"].VR = "OB"
    save(found, path)


def few_fragments(found: Dataset, path: Path) -> None:
    found.NumberOfFrames = 3
    packed(found, path, uid.RLELossless, b"a" * 80)


def more_frames(table: bool, syntax: uid.UID, *streams: bytes) -> Callable[[Dataset, Path], None]:
    """Write an object of one frame less than it has streams."""

    def write(found: Dataset, path: Path) -> None:
        found.NumberOfFrames = len(streams) - 1
        found.file_meta.TransferSyntaxUID = syntax
        found.PixelData = encapsulate(list(streams), has_bot=table)
        found["PixelData"].VR = "OB"
        save(found, path)

    return write


def described(frames: int, stated: int) -> Callable[[Dataset, Path], None]:
    """Write an object with functional groups of more or fewer frames than it states."""

    def write(found: Dataset, path: Path) -> None:
        found.PerFrameFunctionalGroupsSequence = [Dataset() for _ in range(frames)]
        found.NumberOfFrames, found.PixelData = stated, found.PixelData * stated
        save(found, path)

    return write


def window_of_text(found: Dataset, path: Path) -> None:
    found.WindowCenter, found.WindowWidth = 1, "1234567890"
    path.write_bytes(save(found, path).read_bytes().replace(b"1234567890", f"{MARKER} ".encode()))


def without(keyword: str) -> Callable[[Dataset, Path], None]:
    def write(found: Dataset, path: Path) -> None:
        del found[keyword]
        save(found, path)

    return write


def having(**elements: Any) -> Callable[[Dataset, Path], None]:
    def write(found: Dataset, path: Path) -> None:
        for keyword, value in elements.items():
            setattr(found, keyword, value)
        save(found, path)

    return write


FAULTS: dict[str, tuple[Callable[[Dataset, Path], object], str]] = {
    "cut short": (lambda found, path: cut(found, path, 10), "its pixels are cut short, 374 of 384 bytes"),
    "cut in the header": (
        lambda found, path: cut(found, path, 420),
        "has no pixels|no number of|damaged|kind of colours",
    ),
    "wrong length": (
        lambda found, path: stated(found, path, 100),
        "stated to be 100 bytes long, and 1 x 16 x 12 of them",
    ),
    "no pixels": (without("PixelData"), "has no pixels, or its header is cut short"),
    "no rows": (without("Rows"), "its header has no number of rows"),
    "no columns": (without("Columns"), "its header has no number of columns"),
    "no rows at all": (having(Rows=0), "its header has no number of rows"),
    "no bits": (without("BitsAllocated"), "its header has no valid number of bits allocated"),
    "odd bits": (having(BitsAllocated=12), "its header has no valid number of bits allocated"),
    "too many bits stored": (having(BitsStored=20), "bits stored and of the high bit do not fit each other"),
    "no colours": (without("PhotometricInterpretation"), "its kind of colours is missing or not supported"),
    "odd colours": (having(PhotometricInterpretation=MARKER), "its kind of colours is missing or not supported"),
    "more frames than data": (having(NumberOfFrames=7), "its pixels are cut short, 384 of 2688 bytes"),
    "fewer frames than data": (
        lambda found, path: save(image(np.stack([PIXELS] * 6), NumberOfFrames=4), path),
        "its header states 4 frames, and its pixels are of 6; copy",
    ),
    "one frame of two": (
        lambda found, path: save(image(np.stack([PIXELS] * 2), NumberOfFrames=None), path),
        "its header states 1 frame, and its pixels are of 2",
    ),
    "fewer frames than in the table": (
        more_frames(True, uid.JPEGLSLossless, *[b"a" * 20] * 3),
        "its header states 2 frames, and its pixels are of 3",
    ),
    "fewer frames than end markers": (
        more_frames(False, uid.JPEG2000, *[b"a" * 20 + b"\xff\xd9"] * 2),
        "its header states 1 frame, and its pixels are of 2",
    ),
    "fewer frames than fragments": (
        more_frames(False, uid.RLELossless, *[b"a" * 80] * 3),
        "its header states 2 frames, and its pixels are of 3",
    ),
    "fewer frames than it describes": (described(6, 4), "its header states 4 frames, and describes 6; copy"),
    "more frames than it describes": (described(4, 6), "its header states 6 frames, and describes 4; copy"),
    "frames below 0": (having(NumberOfFrames=-3), "its number of frames is not valid"),
    "unknown syntax": (
        lambda found, path: packed(found, path, uid.UID(f"1.2.{_NUMBER}"), b"a" * 20),
        "its pixels have an unknown transfer syntax; convert it",
    ),
    "video": (
        lambda found, path: packed(found, path, uid.MPEG2MPML, b"a" * 20),
        "have the transfer syntax MPEG2 Main Profile .*, which is not supported; convert",
    ),
    "noise as JPEG": (
        lambda found, path: packed(found, path, uid.JPEGBaseline8Bit, MARKER.encode() * 9),
        "damaged or cut",
    ),
    "noise as JPEG 2000": (
        lambda found, path: packed(found, path, uid.JPEG2000, MARKER.encode() * 9),
        "damaged or cut",
    ),
    "noise as JPEG-LS": (
        lambda found, path: packed(found, path, uid.JPEGLSLossless, MARKER.encode() * 9),
        "damaged or",
    ),
    "noise as RLE": (lambda found, path: packed(found, path, uid.RLELossless, MARKER.encode() * 9), "damaged or cut"),
    "too few fragments": (few_fragments, "has pixels of 1 of 3 frames"),
    "slope 0": (having(RescaleSlope=0), "its rescale slope is 0"),
    "a table without data": (
        having(VOILUTSequence=sequence(LUTDescriptor=[300, 0, 12], LUTData=bytes(4), LUTExplanation=MARKER)),
        "a look-up table in its header is damaged",
    ),
    "one value": (
        lambda found, path: save(image(np.zeros((16, 12), np.int16)), path),
        "every pixel has the same value",
    ),
    "padding alone": (having(PixelPaddingValue=0, PixelPaddingRangeLimit=32000), "every pixel is padding"),
    "directory": (having(SOPClassUID=uid.MediaStorageDirectoryStorage), "is DICOMDIR, which is not an image"),
    "report": (having(SOPClassUID=uid.BasicTextSRStorage), "is a DICOM SR object, which is not an image"),
    "none": (having(), ""),
    "a window of text": (window_of_text, ""),
}


def with_markers(found: Dataset) -> Dataset:
    """Plant the marker in text elements of every representation, private ones and nested ones."""
    for keyword in (
        "PatientName",
        "PatientID",
        "InstitutionName",
        "StudyDescription",
        "SeriesDescription",
        "StationName",
    ):
        setattr(found, keyword, f"{MARKER}^{keyword}")
    for keyword in ("AccessionNumber", "PatientComments", "ImageComments", "OperatorsName", "ProtocolName", "StudyID"):
        setattr(found, keyword, MARKER)
    found.PatientSex = found.BodyPartExamined = found.PatientAge = MARKER
    found.ImageType = [MARKER, MARKER]
    found.PatientBirthDate = found.StudyDate = found.SeriesDate = MARKER
    found.StudyTime = found.AcquisitionDateTime = MARKER
    found.InstitutionAddress = found.AdditionalPatientHistory = found.InstanceCreatorUID = MARKER
    found.WindowCenterWidthExplanation = found.RescaleType = found.DerivationDescription = MARKER
    found.StudyInstanceUID = f"1.2.{_NUMBER}.1"
    found.FrameOfReferenceUID = f"1.2.{_NUMBER}.2"
    found.SOPInstanceUID = f"1.2.{_NUMBER}.3"
    found.InstanceNumber = found.SliceThickness = _NUMBER
    block = found.private_block(0x0011, MARKER, create=True)
    for place, representation in enumerate(
        ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT", "UR", "DA", "TM", "DT")
    ):
        block.add_new(place, representation, MARKER)
    found.RequestAttributesSequence = sequence(RequestedProcedureID=MARKER, ScheduledProcedureStepDescription=MARKER)
    return found


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests write what is not valid."""
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.RAISE)


def told(path: Path) -> str:
    """What reading says in messages and notes, as an image and as a volume."""
    said = []
    for read in (lambda: read_image(path), lambda: read_volume([path])):
        try:
            found: Any = read()
        except DeployError as error:
            said.append(str(error))
        else:
            said.extend((found.name, *found.notes))
    passed_over = PassedOver()
    try:
        said.extend(str(item) for item in discover([path.parent], None, passed_over, volumes=True))
    except DeployError as error:
        said.append(str(error))
    return "\n".join([*said, str(passed_over.line()), repr(passed_over.counts)])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_quotes_no_header(
    tmp_path: Path, fault: str, capfd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write, message = FAULTS[fault]
    path = tmp_path / "a"
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
        write(with_markers(slice_at(0)), path)
    capfd.readouterr()
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        if message:
            with pytest.raises(ImageError, match=message) as caught:
                read_image(path)
            assert len(str(caught.value).splitlines()) == 1
            assert str(caught.value).startswith(f"{path}: ")
            assert caught.value.__cause__ is None
        else:
            assert read_image(path).notes == ()
        said = told(path)
    streams = capfd.readouterr()
    everything = "\n".join([said, *streams, caplog.text, *(str(each.message) for each in warned)])
    assert MARKER not in everything
    assert _NUMBER not in everything
    assert (streams.out, streams.err, caplog.text) == ("", "", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"no DICOM at all, but a text", "not a PNG, JPEG"), (bytes(128) + b"DICM", "DICOM")],
    ids=["empty", "text", "nothing after the preamble"],
)
def test_a_file_that_is_called_dicom_and_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image(path)


def test_the_limit_holds_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="12 x 16 pixels is over the limit"):
        read_image(save(image(), tmp_path / "a"))


def test_excess_bytes_are_not_pixels(tmp_path: Path) -> None:
    found = image()
    found.PixelData += bytes(380)  # a frame has 384
    np.testing.assert_array_equal(
        read_image(save(found, tmp_path / "a")).pixels, read_image(save(image(), tmp_path / "b")).pixels
    )


def test_settings_of_pydicom_are_as_they_were(tmp_path: Path) -> None:
    logger = logging.getLogger("pydicom")
    before = logger.level, config.settings.reading_validation_mode
    read_image(save(image(PIXELS), tmp_path / "a"))
    with pytest.raises(ImageError):
        cut(image(), tmp_path / "b", 10)
        read_image(tmp_path / "b")
    assert (logger.level, config.settings.reading_validation_mode) == before


def large(found: Dataset, path: Path, element: bytes, length: int, missing: int = 0) -> Path:
    """An object of over 2 GB that takes a few blocks of the disk: the last bytes of one element are a hole."""
    content = save(found, path).read_bytes()
    place = content.index(element) + len(element) + 2
    held = int.from_bytes(content[place : place + 4], "little")
    with path.open("wb") as file:
        file.write(content[:place] + length.to_bytes(4, "little"))
        file.seek(length, os.SEEK_CUR)
        file.write(content[place + 4 + held :])
        file.truncate(file.tell() - missing)
    assert path.stat().st_size > 2 * 2**30
    return path


def large_pixels(path: Path, frames: int, rows: int, columns: int, missing: int = 0) -> Path:
    found = image(np.zeros((1, 16, 12), np.int16), NumberOfFrames=frames, Rows=rows, Columns=columns)
    return large(found, path, b"\xe0\x7f\x10\0OW", frames * rows * columns * 2, missing)


@pytest.fixture
def few_megabytes() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("few_megabytes")
def test_of_frames_of_2_gb_one_is_in_memory(tmp_path: Path) -> None:
    path = large_pixels(tmp_path / "v", 4200, 512, 512)
    assert [item.kind for item in discover([path], volumes=True)] == ["volume"]
    with opened(path) as found:
        assert found.layout.frames == 4200
        assert next(found.frames()).shape == (512, 512)


@pytest.mark.usefixtures("few_megabytes")
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((12, 9600, 9600, 1), "its pixels are cut short, 2211839999 of 2211840000 bytes; copy or export it again"),
        ((1, 33600, 32768), "32768 x 33600 pixels is over the limit of 100 megapixels; resize it first"),
    ],
    ids=["cut", "one-frame"],
)
def test_2_gb_are_refused_before_memory_is_taken(tmp_path: Path, sizes: tuple[int, ...], message: str) -> None:
    path = large_pixels(tmp_path / "v", *sizes)
    for read in (read_image, lambda path: read_volume([path])):
        with pytest.raises(ImageError, match=message):
            read(path)


@pytest.mark.usefixtures("few_megabytes")
def test_an_element_of_2_gb_that_nobody_asks_for_is_passed_over(tmp_path: Path) -> None:
    found = image()
    found.add_new(0x00090010, "LO", "MAKER")
    found.add_new(0x00091010, "OB", b"ab")
    path = large(found, tmp_path / "v", b"\x09\0\x10\x10OB", 2**31)
    assert [item.kind for item in discover([path], volumes=True)] == ["image"]
    assert read_image(path).height == 16
