from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import dicom_files
import highdicom
import programs
import pydicom

from msformer_deploy.errors import UsageError
from msformer_deploy.images.sources import DicomSource
from msformer_deploy.images.space import Spacing
from msformer_deploy.images.volume import Volume
from msformer_deploy.results.dicom.capture import write_capture
from msformer_deploy.results.dicom.identity import MadeBy
from msformer_deploy.results.dicom.measurement_report import Quantity, sizes_of, write_measurements
from msformer_deploy.results.dicom.segmentation import write_segmentation

MADE_BY = MadeBy("msformer", "0123456789abcdef" * 4)
KINDS = ["ct", "mr", "cr", "dx", "us", "us_frames", "endoscopy", "photograph", "enhanced_ct"]
MEASURED = [
    Quantity(1, "area", 123.4567890123456789, "mm2"),
    Quantity(1, "longest diameter", 1 / 3, "mm"),
    Quantity(1, "perpendicular diameter", 1e-5, "mm"),
    Quantity(2, "area", 18, "{pixels}"),
    Quantity(2, "volume", 1.25, "ml"),
]


def written(kind: str, folder: Path, form: Any = "binary") -> tuple[pydicom.Dataset, pydicom.Dataset, DicomSource]:
    source = dicom_files.one(folder, getattr(dicom_files, kind)())
    labels = np.zeros((len(source.files), 16, 24), np.uint8)
    labels[:, 2:6, 2:6], labels[:, 8:12, 8:12] = 1, 2
    segmentation = write_segmentation(
        folder / "seg.dcm", labels, source, ["lesion", "lung"], made_by=MADE_BY, kind=form
    )
    write_measurements(folder / "sr.dcm", MEASURED, segmentation, source, made_by=MADE_BY)
    return pydicom.dcmread(folder / "sr.dcm"), segmentation, source


@pytest.mark.needs_debian("dicom3tools")
@pytest.mark.parametrize("form", ["binary", "labelmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_valid(kind: str, form: str, tmp_path: Path) -> None:
    written(kind, tmp_path, form)
    found = programs.errors(tmp_path / "sr.dcm")
    if form == "labelmap":  # Debian's dciodvfy is of 2022 and does not know this class of 2024
        unknown = "ReferencedSegmentNumber(0062,000b)> - Shall not be present for Referenced SOP Class that is not"
        found = [line for line in found if unknown not in line]
    assert found == []


@pytest.mark.parametrize("kind", ["ct", "enhanced_ct", "us_frames"])
def test_highdicom_reads_what_was_measured(kind: str, tmp_path: Path) -> None:
    _, segmentation, source = written(kind, tmp_path)
    content = highdicom.sr.srread(tmp_path / "sr.dcm").content
    planar = len(source.files) == 1
    groups = content.get_planar_roi_measurement_groups() if planar else content.get_volumetric_roi_measurement_groups()
    read = [
        (number, each.name.meaning, each.value, each.unit.value)
        for number, group in enumerate(groups, 1)
        for each in group.get_measurements()
    ]
    assert [each[:2] + each[3:] for each in read] == [
        (1, "Area", "mm2"),
        (1, "Long axis", "mm"),
        (1, "Perpendicular Axis", "mm"),
        (2, "Area", "{pixels}"),
        (2, "Volume", "ml"),
    ]
    np.testing.assert_allclose([each[2] for each in read], [each.value for each in MEASURED], rtol=1e-9)
    assert [group.tracking_uid for group in groups] == [each.TrackingUID for each in segmentation.SegmentSequence]
    assert groups[0].finding_type.meaning == "Lesion"
    if planar:  # the second frame is the one of the second segment
        named = [group.reference_type.meaning for group in groups]
        assert named == ["Referenced Segmentation Frame"] * 2
        items = [group.referenced_segmentation_frame[0].ReferencedSOPSequence[0] for group in groups]
        assert [item.ReferencedFrameNumber for item in items] == [1, 2]


@pytest.mark.needs("dcmqi")
def test_dcmqi_reads_what_was_measured(tmp_path: Path) -> None:
    written("enhanced_ct", tmp_path)
    programs.run(
        programs.dcmqi("tid1500reader"), "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json"
    )
    read = json.loads((tmp_path / "sr.json").read_text())
    assert [
        (item["quantity"]["CodeMeaning"], float(item["value"]), item["units"]["CodeValue"])
        for group in read["Measurements"]
        for item in group["measurementItems"]
    ] == [
        ("Area", pytest.approx(123.456789012), "mm2"),
        ("Long axis", pytest.approx(1 / 3), "mm"),
        ("Perpendicular Axis", pytest.approx(1e-5), "mm"),
        ("Area", 18, "{pixels}"),
        ("Volume", 1.25, "ml"),
    ]


def test_a_report_refers_to_the_segmentation_and_the_images(tmp_path: Path) -> None:
    report, segmentation, source = written("ct", tmp_path)
    image = pydicom.dcmread(source.files[0])
    evidence = {
        item.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert evidence == {image.SOPInstanceUID, segmentation.SOPInstanceUID}
    assert report.StudyInstanceUID == image.StudyInstanceUID
    assert report.PatientName == image.PatientName
    assert report.SeriesDescription == "msformer-deploy measurements, research use only"
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "bundle 0123456789abcdef" in str(report)


@pytest.mark.parametrize("form", ["binary", "labelmap"])
@pytest.mark.parametrize("kind", ["ct", "us_frames"])
def test_all_uids_are_the_sources_the_standards_or_ours(kind: str, form: Any, tmp_path: Path) -> None:
    report, segmentation, source = written(kind, tmp_path, form)
    pictures = np.zeros((len(source.files), 16, 24, 3), np.uint8)
    capture = write_capture(tmp_path / "sc.dcm", pictures, source, made_by=MADE_BY)
    image = pydicom.dcmread(source.files[0])
    known = {str(each.value) for each in image.iterall() if each.VR == "UI"}
    identities = []
    for made in (segmentation, report, capture):
        found = [each for each in made.iterall() if each.VR == "UI"]
        new = {str(each.value) for each in found} - known
        assert not {each for each in new if not each.startswith(("2.25.", "1.2.840.10008."))}, made.Modality
        identities += [made.SOPInstanceUID, made.SeriesInstanceUID]
        assert made.StudyInstanceUID == image.StudyInstanceUID
        assert (made.Manufacturer, made.SoftwareVersions) == ("msformer-deploy", MADE_BY.version)
        assert made.DeviceSerialNumber == "bundle 0123456789abcdef"
        assert made.SeriesDescription.endswith(", research use only") and len(made.SeriesDescription) <= 64
    assert len(set(identities)) == 6
    assert len({each.SeriesNumber for each in (segmentation, report, capture)}) == 3
    (acquisition, _) = segmentation.ContributingEquipmentSequence
    assert acquisition.Manufacturer == image.Manufacturer


def test_one_software_and_bundle_is_one_device() -> None:
    other = dataclasses.replace(MADE_BY, bundle_sha256="ab" * 32)
    assert MADE_BY.device_uid == MadeBy("msformer", "0123456789abcdef" * 4).device_uid != other.device_uid
    assert MADE_BY.device_uid.startswith("2.25.") and MADE_BY.device_uid.is_valid


@pytest.mark.parametrize(
    "measured, message",
    [
        ([], "no measurement"),
        ([Quantity(3, "area", 1, "mm2")], "segment 3"),
        ([Quantity(1, "weight", 1, "mm2")], "weight"),
        ([Quantity(1, "area", 1, "acre")], "acre"),
        ([Quantity(1, "area", float("nan"), "mm2")], "nan"),
    ],
)
def test_measurements_must_be_ones_that_a_report_can_say(
    measured: list[Quantity], message: str, tmp_path: Path
) -> None:
    _, segmentation, source = written("ct", tmp_path)
    with pytest.raises(UsageError, match=message):
        write_measurements(tmp_path / "other.dcm", measured, segmentation, source, made_by=MADE_BY)
    assert not (tmp_path / "other.dcm").exists()


def disc(radius: int, row: int, column: int) -> np.ndarray:
    rows, columns = np.mgrid[:40, :60]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def in_groups(measured: list[Quantity]) -> dict[tuple[int, str, int | None], dict[str, tuple[float, str]]]:
    found: dict[tuple[int, str, int | None], dict[str, tuple[float, str]]] = {}
    for each in measured:
        found.setdefault((each.segment, each.part, each.slice), {})[each.name] = (each.value, each.unit)
    return found


def volume_of(mask: np.ndarray, spacing: Spacing | None, thickness: float | None) -> Volume:
    source = DicomSource((Path("a.dcm"),) * len(mask), tuple(range(1, len(mask) + 1)))
    in_space = len(mask) == 1 or thickness is not None
    voxels = np.zeros(mask.shape, np.uint8)
    return Volume(voxels, "a", np.eye(4), spacing, thickness, (0, 1), source, in_space=in_space)


SPACING = Spacing(0.5, 0.5, "test")


@pytest.mark.parametrize(
    ("slices", "spacing", "thickness"),
    [(1, None, None), (1, SPACING, None), (3, SPACING, 2.0)],
    ids=["px", "mm", "volume"],
)
def test_one_object_has_all_its_sizes_together(slices: int, spacing: Any, thickness: Any) -> None:
    mask = np.stack([disc(9, 15, 15)] * slices)
    (found,) = in_groups(sizes_of(mask, volume_of(mask, spacing, thickness), 1)).items()
    step, unit = (1.0, "{pixels}") if spacing is None else (0.5, "mm")
    assert found[0] == (1, "all", None)
    sizes = dict(found[1])
    if slices == 1:
        assert sizes.pop("area") == (mask.sum() * step**2, "mm2" if spacing else "{pixels}")
    else:
        assert sizes.pop("volume") == (mask.sum() * step**2 * thickness, "mm3")
    assert {name: (pytest.approx(value, abs=0.6), its) for name, (value, its) in sizes.items()} == {
        "longest diameter": (19 * step, unit),
        "perpendicular diameter": (19 * step, unit),
    }


def test_of_several_objects_the_diameters_are_of_the_one_whose_area_is_beside_them() -> None:
    """The largest object is not the longest one here, and there are specks."""
    line = np.zeros((40, 60), bool)
    line[38, 5:55] = True
    specks = np.zeros((40, 60), bool)
    specks[0, ::7] = True
    mask = (disc(9, 15, 15) | line | specks)[None]
    found = in_groups(sizes_of(mask, volume_of(mask, None, None), 1))
    assert found[1, "all", None] == {"area": (mask.sum(), "{pixels}")}
    largest = found[1, "largest", None]
    assert largest["area"] == (disc(9, 15, 15).sum(), "{pixels}")
    assert largest["longest diameter"][0] == pytest.approx(19, abs=1)
    assert len(found) == 2
    volume = np.repeat(mask, 4, axis=0)
    found = in_groups(sizes_of(volume, volume_of(volume, SPACING, 3.0), 1))
    assert found[1, "all", None] == {"volume": (volume.sum() * 0.75, "mm3")}
    assert found[1, "largest", None]["volume"] == (4 * disc(9, 15, 15).sum() * 0.75, "mm3")
    assert found[1, "largest", None]["longest diameter"][0] == pytest.approx(9.5, abs=0.5)


@pytest.mark.parametrize("spacing", [None, SPACING], ids=["px", "mm"])
def test_frames_in_time_have_no_volume_and_sizes_of_one_frame(spacing: Any) -> None:
    mask = np.stack([disc(4, 15, 15), disc(9, 15, 15), disc(6, 15, 15), np.zeros((40, 60), bool)])
    labels = np.where(mask, 1, 0).astype(np.uint8)
    labels[2, 30:34, 50:55] = 2
    found = in_groups(sizes_of(labels, volume_of(mask, spacing, None), 2))
    share = 1.0 if spacing is None else 0.25
    assert set(found) == {(1, "all", 1), (2, "all", 2)}
    assert [set(each) for each in found.values()] == [{"area", "longest diameter", "perpendicular diameter"}] * 2
    assert found[1, "all", 1]["area"][0] == mask[1].sum() * share
    assert found[2, "all", 2]["area"][0] == 20 * share


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_a_report_of_frames_in_time_refers_to_the_frame(form: Any, tmp_path: Path) -> None:
    source = dicom_files.one(tmp_path, dicom_files.us_frames(3))
    labels = np.zeros((3, 16, 24), np.uint8)
    labels[0, 2:4, 2:6], labels[2, 2:6, 2:8], labels[2, 10:13, 10:20] = 1, 1, 1
    labels[1, 8:12, 8:12] = 2
    segmentation = write_segmentation(
        tmp_path / "seg.dcm", labels, source, ["lesion", "lung"], made_by=MADE_BY, kind=form
    )
    measured = sizes_of(labels, dataclasses.replace(volume_of(labels, None, None), source=source), 2)
    write_measurements(tmp_path / "sr.dcm", measured, segmentation, source, made_by=MADE_BY)
    groups = highdicom.sr.srread(tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    told = [[each.value for each in group.get_measurements()] for group in groups]
    assert [each[0] for each in told] == [54, 30, 16]
    assert [len(each) for each in told] == [1, 3, 3]
    assert len({group.tracking_uid for group in groups}) == 3
    assert [group.tracking_identifier for group in groups] == ["lesion 1", "lesion 1, largest object", "lung 2"]
    frames = pydicom.dcmread(tmp_path / "seg.dcm").pixel_array
    for group, slice_, number in zip(groups, (2, 2, 1), (1, 1, 2), strict=True):
        region = group.referenced_segmentation_frame
        of = region[0].ReferencedSOPSequence[0]
        if form == "binary":
            shown = frames[of.ReferencedFrameNumber - 1]
            np.testing.assert_array_equal(shown, labels[slice_] == number)
        else:
            assert of.ReferencedSegmentNumber == number
        assert region[1].ReferencedSOPSequence[0].ReferencedFrameNumber == slice_ + 1


@pytest.mark.needs_debian("dicom3tools")
@pytest.mark.parametrize("kind", ["us_frames", "ct", "enhanced_ct"])
def test_a_report_of_several_objects_is_valid(kind: str, tmp_path: Path) -> None:
    source = dicom_files.one(tmp_path, getattr(dicom_files, kind)())
    labels = np.zeros((len(source.files), 16, 24), np.uint8)
    labels[:, 2:6, 2:8], labels[:, 10:13, 10:20] = 1, 1
    segmentation = write_segmentation(tmp_path / "seg.dcm", labels, source, ["lesion"], made_by=MADE_BY)
    thickness = 2.5 if kind == "enhanced_ct" else None
    volume = dataclasses.replace(volume_of(labels, SPACING, thickness), source=source)
    measured = sizes_of(labels, volume, 1)
    assert {each.part for each in measured} == {"all", "largest"}
    write_measurements(tmp_path / "sr.dcm", measured, segmentation, source, made_by=MADE_BY)
    assert programs.errors(tmp_path / "sr.dcm") == []


def test_a_segment_without_a_pixel_can_be_measured(tmp_path: Path) -> None:
    source = dicom_files.one(tmp_path, dicom_files.cr())
    labels = np.zeros((1, 16, 24), np.uint8)
    labels[:, 2:6, 2:6] = 1
    segmentation = write_segmentation(tmp_path / "seg.dcm", labels, source, ["lesion", "lung"], made_by=MADE_BY)
    report = write_measurements(
        tmp_path / "sr.dcm", [Quantity(2, "area", 0, "mm2")], segmentation, source, made_by=MADE_BY
    )
    (group,) = highdicom.sr.srread(tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    assert group.finding_type.meaning == "Lung"
    assert report.SOPInstanceUID != segmentation.SOPInstanceUID
