"""SEG by its readers and by dciodvfy.

dicom-validator is not among them: neither its wheel nor its source archive (0.9.0) holds the tables of DICOM's parts 3,
4 and 6. It downloads them from the standard's publisher, and tests use no network.
"""

from __future__ import annotations

import itertools
import os
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import dicom_files
import highdicom
import programs
import pydicom
import pydicom.data

from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.images.dicom.identifiers import identifiers_of
from msformer_deploy.images.dicom.series import read_volume
from msformer_deploy.images.read import read_image
from msformer_deploy.images.seg import Reference, read_segmentation_labels
from msformer_deploy.images.sources import DicomSource
from msformer_deploy.results.dicom.capture import write_capture
from msformer_deploy.results.dicom.identity import MadeBy
from msformer_deploy.results.dicom.measurement_report import Quantity, sizes_of, write_measurements
from msformer_deploy.results.dicom.segmentation import check, write_segmentation

MADE_BY = MadeBy("msformer", "0123456789abcdef" * 4)
KINDS = ["ct", "mr", "cr", "dx", "us", "us_frames", "endoscopy", "photograph", "enhanced_ct"]
COPIED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "AccessionNumber"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "FrameOfReferenceUID"),
)
AXES = np.eye(3)
ORIENTATIONS = [
    (tuple(row_sign * AXES[row]) + tuple(column_sign * AXES[column]), step)
    for row, column in itertools.permutations(range(3), 2)
    for row_sign, column_sign, step in itertools.product((1, -1), (1, -1), (2.5, -2.5))
]


def stack(slices: int, segments: int = 1) -> np.ndarray:
    """Labels that no turn and no mirror maps to themselves, with an empty first slice where there are several."""
    labels = np.zeros((slices, dicom_files.ROWS, dicom_files.COLUMNS), np.uint8)
    first = min(1, slices - 1)
    labels[first:, 2:7, 3:9] = 1
    labels[first, 2:4, 9:20] = 1
    if segments > 1:
        labels[-1, 12:14, 1:4] = 2
    return labels


def source_of(kind: str, folder: Path) -> DicomSource:
    return dicom_files.one(folder, getattr(dicom_files, kind)())


def millimetres(voxels: np.ndarray, affine: np.ndarray) -> set[tuple[float, ...]]:
    """Where voxels are, given their indices (count, 3) of slice, row and column."""
    places = voxels[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
    return {tuple(place) for place in np.round(places, 2) + 0.0}


def expected(labels: np.ndarray, geometry: dict[str, Any]) -> set[tuple[float, ...]]:
    """The same from the headers of the source."""
    found = set()
    for index, row, column in np.argwhere(labels == 1):
        place = dicom_files.place(int(index) + 1, **geometry)
        directions = np.array(place["ImageOrientationPatient"]).reshape(2, 3)
        offset = column * place["PixelSpacing"][1] * directions[0] + row * place["PixelSpacing"][0] * directions[1]
        found.add(tuple(np.round(np.array(place["ImagePositionPatient"]) + offset, 2) + 0.0))
    return found


@pytest.mark.needs_debian("dicom3tools")
@pytest.mark.parametrize("kind", KINDS)
def test_the_sources_of_these_tests_are_valid(kind: str, tmp_path: Path) -> None:
    assert programs.errors(source_of(kind, tmp_path).files[0]) == []


@pytest.mark.needs_debian("dicom3tools")
@pytest.mark.parametrize("segments", [["lung"], ["lesion", "object"]], ids=["one", "two"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_segmentation_is_valid(kind: str, segments: list[str], tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    labels = stack(len(source.files), len(segments))
    write_segmentation(tmp_path / "a.seg.dcm", labels, source, segments, made_by=MADE_BY)
    assert programs.errors(tmp_path / "a.seg.dcm") == []
    write_segmentation(tmp_path / "b.seg.dcm", labels, source, segments, made_by=MADE_BY, kind="labelmap")
    assert set(programs.errors(tmp_path / "b.seg.dcm")) <= programs.UNKNOWN_TO_DCIODVFY


@pytest.mark.parametrize("form", ["binary", "labelmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_as_what_was_written(kind: str, form: Any, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    labels = stack(len(source.files), 2)
    write_segmentation(tmp_path / "seg.dcm", labels, source, ["lesion", "thing"], made_by=MADE_BY, kind=form)
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    kept = [index for index in range(len(labels)) if labels[index].any()]
    np.testing.assert_array_equal(read.labels, labels[kept])
    assert read.names == {1: "lesion", 2: "thing"}
    instance = pydicom.dcmread(source.files[0], stop_before_pixels=True).SOPInstanceUID
    assert read.references == tuple(Reference(instance, source.frames[index]) for index in kept)
    placed = kind in ("ct", "mr", "enhanced_ct")
    assert (read.affine is not None) == placed
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    shared = made.SharedFunctionalGroupsSequence[0]
    for keyword, holder in (
        ("FrameOfReferenceUID", made),
        ("PlaneOrientationSequence", shared),
        ("PixelMeasuresSequence", shared),
    ):
        assert (keyword in holder) == placed, keyword


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.needs("dcmqi", "SimpleITK")
@pytest.mark.parametrize("form", ["binary", "labelmap"])
@pytest.mark.parametrize("orientation, step", ORIENTATIONS)
def test_all_readers_find_the_object_where_it_is(
    orientation: tuple[float, ...], step: float, form: Any, tmp_path: Path
) -> None:
    import SimpleITK

    geometry = {"orientation": orientation, "step": step}
    source = dicom_files.series(tmp_path / "series", 4, **geometry)
    labels = stack(4)
    path = tmp_path / "seg.dcm"
    write_segmentation(path, labels, source, ["lung"], made_by=MADE_BY, kind=form)
    places = expected(labels, geometry)

    ours = read_segmentation_labels(path)
    assert ours.affine is not None
    assert millimetres(np.argwhere(ours.labels == 1), ours.affine) == places

    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    turned = volume.affine[:, [2, 1, 0, 3]]  # highdicom counts slices, rows and columns
    assert millimetres(np.argwhere(volume.array == 1), turned) == places

    programs.run(
        programs.dcmqi("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nrrd"
    )
    assert _by_itk(SimpleITK.ReadImage(str(next(tmp_path.glob("*.nrrd"))))) == places
    if form == "binary":  # SimpleITK 2.5 reads no label maps
        assert _by_itk(SimpleITK.ReadImage(str(path))) == places


def _by_itk(image: Any) -> set[tuple[float, ...]]:
    import SimpleITK

    voxels = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0)
    return {
        tuple(np.round(image.TransformIndexToPhysicalPoint([int(each) for each in voxel[::-1]]), 2) + 0.0)
        for voxel in voxels
    }


@pytest.mark.parametrize("backwards", [False, True])
def test_frames_of_one_object_may_come_in_any_order(backwards: bool, tmp_path: Path) -> None:
    whole = dicom_files.one(tmp_path, dicom_files.enhanced_ct(4, backwards=backwards))
    source = DicomSource(whole.files[:3], (4, 2, 3))  # and not all of them
    labels = stack(3, 2)
    labels[:2, 14, 20] = 1, 2
    labels[:2, 15, 20] = 2
    write_segmentation(tmp_path / "seg.dcm", labels, source, ["lung", "lesion"], made_by=MADE_BY)
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    instance = read.references[0].instance if read.references[0] else ""
    assert set(read.references) == {Reference(instance, frame) for frame in (2, 3, 4)}
    for slice_labels, reference in zip(read.labels, read.references, strict=True):
        assert reference is not None
        np.testing.assert_array_equal(slice_labels, labels[source.frames.index(reference.frame)])
    heights = {reference.frame: index for index, reference in enumerate(read.references) if reference}
    assert (heights[2] < heights[3]) != backwards


def test_frames_without_positions_follow_each_other_in_time(tmp_path: Path) -> None:
    source = source_of("us_frames", tmp_path)
    labels = np.ones_like(stack(3))
    write_segmentation(tmp_path / "seg.dcm", labels, source, ["lung"], made_by=MADE_BY)
    groups = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    assert [group.FrameContentSequence[0].TemporalPositionIndex for group in groups] == [1, 2, 3]
    images = [group.DerivationImageSequence[0].SourceImageSequence[0] for group in groups]
    assert [image.ReferencedFrameNumber for image in images] == [1, 2, 3]


@pytest.mark.parametrize("kind", ["us_frames", "enhanced_ct"])
def test_one_frame_of_an_object_is_an_image(kind: str, tmp_path: Path) -> None:
    source = DicomSource(source_of(kind, tmp_path).files[:1], (2,))
    write_segmentation(tmp_path / "seg.dcm", stack(1), source, ["lung"], made_by=MADE_BY)
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    assert [each and each.frame for each in read.references] == [2]
    np.testing.assert_array_equal(read.labels, stack(1))


def test_groups_of_each_frame_serve_where_none_are_shared(tmp_path: Path) -> None:
    image = dicom_files.enhanced_ct(2)
    shared = image.SharedFunctionalGroupsSequence[0]
    for group in image.PerFrameFunctionalGroupsSequence:
        group.PixelMeasuresSequence = shared.PixelMeasuresSequence
        group.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del shared.PixelMeasuresSequence
    del shared.PlaneOrientationSequence
    source = dicom_files.one(tmp_path, image)
    write_segmentation(tmp_path / "seg.dcm", stack(2), source, ["lung"], made_by=MADE_BY)
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    assert read.affine is not None
    np.testing.assert_allclose(np.diag(read.affine)[:3], [0.7, 0.5, 2.5])


@pytest.mark.parametrize("kind", ["ct", "us", "us_frames", "enhanced_ct"])
def test_nothing_found_is_a_segmentation_with_all_frames(kind: str, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    labels = np.zeros_like(stack(len(source.files)))
    write_segmentation(tmp_path / "seg.dcm", labels, source, ["lesion"], made_by=MADE_BY)
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read.labels, labels)
    assert read.names == {1: "lesion"}


def test_patient_and_study_are_the_sources_and_the_rest_is_ours(tmp_path: Path) -> None:
    source = source_of("ct", tmp_path)
    image = pydicom.dcmread(source.files[0])
    write_segmentation(tmp_path / "seg.dcm", stack(1), source, ["lesion"], made_by=MADE_BY)
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    for keyword in COPIED:
        assert made[keyword].value == image[keyword].value, keyword
    assert made.PatientName.family_name == "Müller"
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        assert made[keyword].value.startswith("2.25.") and made[keyword].value.is_valid
        assert made[keyword].value != image[keyword].value
    assert made.SeriesDescription == "msformer-deploy segmentation, research use only"
    assert made.SeriesNumber > 9000
    assert (made.Manufacturer, made.ManufacturerModelName) == ("msformer-deploy", "MS-Former")
    assert made.DeviceSerialNumber == "bundle 0123456789abcdef"
    assert made.SoftwareVersions == MADE_BY.version != "unknown"
    assert not made.ContentCreatorName
    segment = made.SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Cluster Analysis"
    assert segment.SegmentedPropertyTypeCodeSequence[0].EquivalentCodeSequence[0].CodeValue == "RID38780"
    colour = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
    np.testing.assert_allclose(colour, (255, 120, 60), atol=1)


def test_a_trained_system_is_artificial_intelligence(tmp_path: Path) -> None:
    source = source_of("mr", tmp_path)
    by = MadeBy("mcsc", "ab" * 32)
    made = write_segmentation(tmp_path / "seg.dcm", stack(1), source, ["myocardium"], made_by=by)
    algorithm = made.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"


def test_writing_again_makes_another_object(tmp_path: Path) -> None:
    source = source_of("ct", tmp_path)
    made = [write_segmentation(tmp_path / "seg.dcm", stack(1), source, ["lung"], made_by=MADE_BY) for _ in range(2)]
    assert made[0].SOPInstanceUID != made[1].SOPInstanceUID
    assert made[0].SeriesInstanceUID != made[1].SeriesInstanceUID


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.zeros((2, 16, 24), np.uint8), "do not fit"),
        (np.zeros((1, 24, 16), np.uint8), "do not fit"),
        (np.full((1, 16, 24), 2, np.uint8), "0..1"),
        (np.full((1, 16, 24), -1), "0..1"),
    ],
)
def test_labels_must_fit(labels: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        write_segmentation(tmp_path / "seg.dcm", labels, source_of("ct", tmp_path), ["lung"], made_by=MADE_BY)


WRONG = {
    "no study": {"StudyInstanceUID": None},
    "no frame of reference": {"FrameOfReferenceUID": None},
    "no spacing": {"PixelSpacing": None},
    "a class that nobody knows": {"SOPClassUID": "1.2.3.4.5"},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_source_that_gives_no_segmentation_is_one_line_without_its_values(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = dicom_files.ct()
    for keyword, value in WRONG[case].items():
        setattr(image, keyword, value)
    if case == "no study":
        del image.StudyInstanceUID
    source = dicom_files.one(tmp_path, image)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ImageError) as caught:
        write_segmentation(tmp_path / "seg.dcm", stack(1), source, ["lung"], made_by=MADE_BY)
    assert sorted(tmp_path.iterdir()) == before
    _is_one_line_without_values(str(caught.value), capfd)
    with pytest.raises(ImageError) as early:
        check(source)
    assert str(early.value) == str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_gives_a_segmentation_passes_the_check(kind: str, tmp_path: Path) -> None:
    check(source_of(kind, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["image.dcm"]


def test_an_object_of_one_frame_has_its_place_in_its_groups(tmp_path: Path) -> None:
    path = dicom_files.write(tmp_path / "a.dcm", dicom_files.enhanced_ct(1))
    source = read_image(path, (-800, 400)).source
    assert source is not None
    check(source)
    write_segmentation(tmp_path / "seg.dcm", stack(1), source, ["lung"], made_by=MADE_BY)
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    assert read.planes is not None
    np.testing.assert_allclose(read.planes[0][:3, 3], (-10, 20, 30))
    assert [each and each.frame for each in read.references] == [None]


@pytest.mark.needs_debian("dicom3tools")
def test_frames_of_one_place_are_frames_in_time(tmp_path: Path) -> None:
    image = dicom_files.enhanced_ct(3)
    for group in image.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient = [1, 2, 3]
    volume = read_volume([dicom_files.write(tmp_path / "a.dcm", image)])
    assert isinstance(volume.source, DicomSource) and not volume.in_space
    check(volume.source)
    labels = np.ones_like(stack(3))
    made = write_segmentation(tmp_path / "seg.dcm", labels, volume.source, ["lung"], made_by=MADE_BY)
    assert programs.errors(tmp_path / "seg.dcm") == []
    assert read_segmentation_labels(tmp_path / "seg.dcm").affine is None
    write_measurements(tmp_path / "sr.dcm", sizes_of(labels, volume, 1), made, volume.source, made_by=MADE_BY)
    assert programs.errors(tmp_path / "sr.dcm") == []


def segments() -> pydicom.Dataset:
    found = pydicom.Dataset()
    found.SegmentSequence = []
    return found


WRITERS: dict[str, Callable[[Path, DicomSource], Any]] = {
    "seg": lambda path, source: write_segmentation(path, stack(2), source, ["lung"], made_by=MADE_BY),
    "sc": lambda path, source: write_capture(path, np.zeros((2, 8, 8, 3), np.uint8), source, made_by=MADE_BY),
    "sr": lambda path, source: write_measurements(path, [], segments(), source, made_by=MADE_BY),
    "check": lambda _, source: check(source),
    "identifiers": lambda _, source: identifiers_of(source),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("change", ["another object", "pixels"])
def test_no_result_is_written_of_a_file_that_has_changed(change: str, writer: str, tmp_path: Path) -> None:
    files = dicom_files.series(tmp_path / "ct", 2).files
    source = read_volume(files).source
    assert isinstance(source, DicomSource)
    image = pydicom.dcmread(files[0])
    if change == "another object":
        image.SOPInstanceUID = "2.25.6666"
        image.ImagePositionPatient[2] = 500
    else:
        image.PixelData = bytes(len(image.PixelData))
    before = files[0].stat()
    image.save_as(files[0])
    os.utime(files[0], ns=(0, before.st_mtime_ns + (change == "pixels")))  # whatever the file system's clock
    with pytest.raises(ImageError, match=r"ct/001\.dcm: has changed since it was read; run again when it is complete$"):
        WRITERS[writer](tmp_path / "made.dcm", source)
    assert not (tmp_path / "made.dcm").exists()


def test_frames_without_a_frame_of_reference_are_frames_in_time(tmp_path: Path) -> None:
    image = dicom_files.enhanced_ct(3)
    del image.FrameOfReferenceUID
    source = dicom_files.one(tmp_path, image)
    check(source)
    write_segmentation(tmp_path / "seg.dcm", stack(3), source, ["lung"], made_by=MADE_BY)
    assert read_segmentation_labels(tmp_path / "seg.dcm").affine is None


PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


@pytest.mark.parametrize("keyword", PLACE)
@pytest.mark.parametrize("slices", [1, 3])
def test_what_the_place_lacks_is_named(slices: int, keyword: str, tmp_path: Path) -> None:
    source = dicom_files.series(tmp_path / "ct", slices)
    for path in source.files[:2]:
        image = pydicom.dcmread(path)
        delattr(image, keyword)
        image.save_as(path)
    message = (
        rf"001\.dcm: has no {keyword}, which a SEG of this kind of image needs; choose other formats than seg and sr"
        if slices == 1
        else rf"ct: 2 of its 3 images have no {keyword}, which one SEG of them all needs; choose other formats"
    )
    with pytest.raises(ImageError, match=message):
        check(source)
    with pytest.raises(ImageError, match=message):
        write_segmentation(tmp_path / "seg.dcm", stack(slices), source, ["lung"], made_by=MADE_BY)


# Patients' data as they come: some break the standard, some are left out by tools that remove names.
ODD: dict[str, dict[str, Any]] = {
    "nothing of the patient": dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "AccessionNumber")
    ),
    "a date in words": {"StudyDate": "SECRET-DATE", "PatientBirthDate": "SECRET", "StudyTime": "SECRET"},
    "a sex of its own": {"PatientSex": "SECRET"},
    "a long identifier": {"PatientID": "SECRET" * 20},
    "a name of one part": {"PatientName": "SECRET"},
    "a name with too many parts": {"PatientName": "SECRET=A=B=C=D"},
    "a long name of the study": {"StudyDescription": "SECRET" * 20},
    "no character set": {"SpecificCharacterSet": None},
    "Japanese": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
    "dates of the old form": {"StudyDate": "2026.01.02", "StudyTime": "10:11:12.5", "PatientBirthTime": "07:08:09"},
    "Greek in UTF-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Δοκιμή^Άλφα"},
}


@pytest.mark.parametrize("case", ODD)
def test_odd_headers_give_a_segmentation_in_silence(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    image = dicom_files.ct()
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in ODD[case].items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        source = dicom_files.one(tmp_path, image)
    capfd.readouterr()
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_segmentation(tmp_path / "seg.dcm", stack(1), source, ["lung"], made_by=MADE_BY)
    assert [str(each.message) for each in caught] == caplog.messages == []
    assert capfd.readouterr() == ("", "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = pydicom.dcmread(tmp_path / "seg.dcm")
        copied = {keyword: made[keyword].value for keyword in ("PatientID", "PatientName")}
    if programs.is_installed("dicom3tools"):
        # What is too long is kept: a part of an identifier is another.
        assert [each for each in programs.errors(tmp_path / "seg.dcm") if "Length invalid" not in each] == []
    for keyword, value in copied.items():
        assert str(value or "") == str(image.get(keyword) or ""), keyword


@pytest.mark.needs_debian("dicom3tools")
@pytest.mark.parametrize("thickness", [None, ""], ids=["absent", "empty"])
@pytest.mark.parametrize("kind", ["series", "frames", "one slice"])
def test_where_slices_have_no_thickness_their_distance_is_written(
    kind: str, thickness: str | None, tmp_path: Path
) -> None:
    def make(*number: int, **more: Any) -> pydicom.Dataset:
        image = dicom_files.ct(*number, **more) if kind != "frames" else dicom_files.enhanced_ct(3)
        groups = image if kind != "frames" else image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        groups.SliceThickness = thickness
        if thickness is None:
            del groups.SliceThickness
        if kind == "one slice":
            image.SpacingBetweenSlices = 2.5
        return image

    source = dicom_files.series(tmp_path / "ct", 3, make) if kind == "series" else dicom_files.one(tmp_path, make())
    made = write_segmentation(tmp_path / "seg.dcm", stack(len(source.files)), source, ["lung"], made_by=MADE_BY)
    assert made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2.5
    assert programs.errors(tmp_path / "seg.dcm") == []


def test_dates_of_the_old_form_are_written_in_that_of_today(tmp_path: Path) -> None:
    with pydicom.config.disable_value_validation():
        source = dicom_files.one(tmp_path, dicom_files.ct(**ODD["dates of the old form"]))
    made = write_segmentation(tmp_path / "seg.dcm", stack(1), source, ["lung"], made_by=MADE_BY)
    found = {keyword: str(made[keyword].value) for keyword in ODD["dates of the old form"]}
    assert found == {"StudyDate": "20260102", "StudyTime": "101112.5", "PatientBirthTime": "070809"}


@pytest.mark.slow
@pytest.mark.needs_debian("dicom3tools")
@pytest.mark.parametrize("name", ["ExplVR_BigEnd.dcm", "JPEG2000.dcm", "MR_small.dcm", "examples_ybr_color.dcm"])
def test_results_of_files_that_come_with_pydicom_are_valid(name: str, tmp_path: Path) -> None:
    path = Path(pydicom.data.get_testdata_file(name, download=False))
    header = pydicom.dcmread(path, stop_before_pixels=True)
    read = read_volume([path]) if "NumberOfFrames" in header else read_image(path)
    assert isinstance(read.source, DicomSource)
    labels = np.zeros((len(read.source.files), header.Rows, header.Columns), np.uint8)
    labels[:, 2:9, 3:9] = 1
    made = write_segmentation(tmp_path / "seg.dcm", labels, read.source, ["lung"], made_by=MADE_BY)
    pictures = np.zeros((len(labels), 8, 8, 3), np.uint8)
    write_capture(tmp_path / "sc.dcm", pictures, read.source, made_by=MADE_BY)
    size = Quantity(1, "area", 42.0, "mm2", slice=0)
    write_measurements(tmp_path / "sr.dcm", [size], made, read.source, made_by=MADE_BY)
    assert {result: programs.errors(tmp_path / f"{result}.dcm") for result in ("seg", "sc", "sr")} == {
        "seg": [],
        "sc": [],
        "sr": [],
    }


def _is_one_line_without_values(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "\n" not in text
    for secret in ("ller", "4711", "1958", "A-1", "Doe", "SECRET"):
        assert secret not in text
    assert capfd.readouterr() == ("", "")


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    source = source_of("ct", tmp_path)
    source.files[0].unlink()
    with pytest.raises(ImageError, match=r"image\.dcm: cannot be read again"):
        write_segmentation(tmp_path / "seg.dcm", stack(1), source, ["lung"], made_by=MADE_BY)


def test_images_without_positions_each_need_their_own(tmp_path: Path) -> None:
    files = tuple(dicom_files.write(tmp_path / f"{number}.dcm", dicom_files.cr(number)) for number in (1, 2))
    with pytest.raises(ImageError, match="2 of its 2 images have no FrameOfReferenceUID"):
        write_segmentation(tmp_path / "seg.dcm", stack(2), DicomSource(files, (None, None)), ["lung"], made_by=MADE_BY)


def test_files_of_two_series_are_refused(tmp_path: Path) -> None:
    files = (
        dicom_files.write(tmp_path / "1.dcm", dicom_files.ct(1)),
        dicom_files.write(tmp_path / "2.dcm", dicom_files.ct(2, SeriesInstanceUID="2.25.999")),
    )
    with pytest.raises(ImageError, match="several series"):
        write_segmentation(tmp_path / "seg.dcm", stack(2), DicomSource(files, (None, None)), ["lung"], made_by=MADE_BY)


@pytest.mark.slow
def test_pixels_of_the_source_are_not_read(tmp_path: Path) -> None:
    """What is allocated stays far below the pixels of the source, 32 MB."""
    side, slices = 512, 60
    pixels = {"Rows": side, "Columns": side, "PixelData": bytes(side * side * 2)}
    source = DicomSource(
        tuple(
            dicom_files.write(tmp_path / f"{number}.dcm", dicom_files.ct(number, **pixels))
            for number in range(1, slices + 1)
        ),
        (None,) * slices,
    )
    labels = np.zeros((slices, side, side), np.uint8)
    labels[:, 100:300, 100:300] = 1
    tracemalloc.start()
    write_segmentation(tmp_path / "seg.dcm", labels, source, ["lung"], made_by=MADE_BY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


@pytest.mark.parametrize(
    ("part", "algorithm", "origin"),
    [
        ({}, "AUTOMATIC", "Found without a person; look at it before you use it"),
        ({"prompted": True}, "SEMIAUTOMATIC", "Found with clicks or boxes of a person"),
        ({"corrected": True}, "SEMIAUTOMATIC", "Corrected by a person"),
        ({"corrected": True, "prompted": True}, "SEMIAUTOMATIC", "Corrected by a person"),
    ],
)
def test_the_part_that_a_person_had_is_said(tmp_path: Path, part: dict[str, bool], algorithm: str, origin: str) -> None:
    made_by = MadeBy(MADE_BY.system, MADE_BY.bundle_sha256, **part)
    write_segmentation(tmp_path / "seg.dcm", stack(1), source_of("ct", tmp_path), ["lesion"], made_by=made_by)
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (made.SegmentSequence[0].SegmentAlgorithmType, made.ContentDescription) == (algorithm, origin)
    assert len(origin) <= 64, "DICOM's LO has no more"
