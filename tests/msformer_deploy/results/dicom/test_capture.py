from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import dicom_files
import programs
import pydicom

from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.images.sources import DicomSource
from msformer_deploy.results.dicom.capture import write_capture
from msformer_deploy.results.dicom.identity import MadeBy

MADE_BY = MadeBy("s3net", "fedcba9876543210" * 4)
KINDS = ["ct", "mr", "cr", "dx", "us", "us_frames", "endoscopy", "photograph", "enhanced_ct"]


def pictures(slices: int) -> np.ndarray:
    """Of odd sides, so that the bytes need padding."""
    return np.random.default_rng(0).integers(0, 256, (slices, 15, 25, 3), np.uint8)


def source_of(kind: str, folder: Path) -> DicomSource:
    return dicom_files.one(folder, getattr(dicom_files, kind)())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.needs_debian("dicom3tools")
def test_a_capture_is_valid(kind: str, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    write_capture(tmp_path / "sc.dcm", pictures(len(source.files)), source, made_by=MADE_BY)
    assert programs.errors(tmp_path / "sc.dcm") == []


@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_as_what_was_written(kind: str, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    image = pydicom.dcmread(source.files[0])
    drawn = pictures(len(source.files))
    write_capture(tmp_path / "sc.dcm", drawn, source, made_by=MADE_BY)
    made = pydicom.dcmread(tmp_path / "sc.dcm")
    np.testing.assert_array_equal(made.pixel_array.reshape(drawn.shape), drawn)
    assert made.SOPClassUID.name.startswith("Multi-frame" if len(drawn) > 1 else "Secondary Capture")
    assert [each.ReferencedSOPInstanceUID for each in made.SourceImageSequence] == [image.SOPInstanceUID] * len(drawn)
    assert [each.get("ReferencedFrameNumber") for each in made.SourceImageSequence] == list(source.frames)
    assert (made.PatientName, made.PatientID) == (image.PatientName, image.PatientID)
    assert made.StudyInstanceUID == image.StudyInstanceUID
    assert made.SeriesInstanceUID != image.SeriesInstanceUID
    assert made.SeriesDescription == "msformer-deploy overlay, research use only"
    assert made.DeviceSerialNumber == "bundle fedcba9876543210"


@pytest.mark.parametrize(
    "kind, stated, burned",
    [
        ("ct", None, "NO"),
        ("ct", "YES", "YES"),
        ("dx", "NO", "NO"),
        ("us", None, "YES"),
        ("us", "NO", "NO"),
        ("us_frames", None, "YES"),
    ],
)
def test_text_in_the_pixels_is_declared(kind: str, stated: str | None, burned: str, tmp_path: Path) -> None:
    more = {} if stated is None else {"BurnedInAnnotation": stated}
    source = dicom_files.one(tmp_path, getattr(dicom_files, kind)(**more))
    made = write_capture(tmp_path / "sc.dcm", pictures(len(source.files)), source, made_by=MADE_BY)
    assert made.BurnedInAnnotation == burned


@pytest.mark.parametrize(
    "orientation, letters",
    [((1, 0, 0, 0, 1, 0), ["L", "P"]), ((0, 1, 0, 0, 0, -1), ["P", "F"]), ((-1, 0, 0, 0, -1, 0), ["R", "A"])],
)
def test_the_sides_of_the_patient_follow_from_the_position(
    orientation: tuple[float, ...], letters: list[str], tmp_path: Path
) -> None:
    source = dicom_files.series(tmp_path, 2, orientation=orientation)
    made = write_capture(tmp_path / "sc.dcm", pictures(2), source, made_by=MADE_BY)
    assert list(made.PatientOrientation) == letters


def test_the_sides_of_the_patient_are_the_sources_where_it_has_no_position(tmp_path: Path) -> None:
    made = write_capture(tmp_path / "sc.dcm", pictures(1), source_of("cr", tmp_path), made_by=MADE_BY)
    assert list(made.PatientOrientation) == ["L", "F"]


@pytest.mark.parametrize(
    "drawn",
    [
        *(pictures(1), pictures(3), pictures(2)[..., 0], pictures(2).astype(np.float32)),
        [pictures(1)[0], pictures(1)[0, 1:]],
    ],
    ids=["one", "three", "grey", "floats", "sizes"],
)
def test_pictures_must_fit(drawn: np.ndarray, tmp_path: Path) -> None:
    source = dicom_files.series(tmp_path, 2)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match="not fit"):
        write_capture(tmp_path / "sc.dcm", drawn, source, made_by=MADE_BY)
    assert sorted(tmp_path.iterdir()) == before


def test_pictures_are_written_one_at_a_time(tmp_path: Path) -> None:
    """In memory are the frames of the pictures that are being written, and not those of all."""
    import tracemalloc

    source = dicom_files.one(tmp_path, dicom_files.us_frames(40))
    frame = np.zeros((256, 256, 3), np.uint8)
    tracemalloc.start()
    write_capture(tmp_path / "sc.dcm", (frame + number for number in range(40)), source, made_by=MADE_BY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * frame.nbytes
    made = pydicom.dcmread(tmp_path / "sc.dcm").pixel_array
    assert made.shape == (40, 256, 256, 3)
    assert made[:, 7, 7, 1].tolist() == list(range(40))


def test_no_file_is_left_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of("ct", tmp_path)
    before = sorted(tmp_path.iterdir())

    def fail(*_: object, **__: object) -> None:
        raise ValueError("Müller^Änne")

    monkeypatch.setattr(pydicom.Dataset, "save_as", fail)
    with pytest.raises(ImageError) as caught:
        write_capture(tmp_path / "sc.dcm", pictures(1), source, made_by=MADE_BY)
    assert "Müller" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
