from __future__ import annotations

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
from pydicom.sr.codedict import codes

from msformer_deploy.errors import ImageError
from msformer_deploy.images.seg import Reference, read_segmentation_labels
from msformer_deploy.images.sources import DicomSource


def labels_of(slices: int) -> np.ndarray:
    labels = np.zeros((slices, dicom_files.ROWS, dicom_files.COLUMNS), np.uint8)
    labels[1:, 2:7, 3:9] = 1
    labels[1, 2:4, 9:20] = 1
    labels[-1, 12:14, 1:4] = 2
    return labels


def by_highdicom(path: Path, source: DicomSource, pixels: np.ndarray, kind: str, **more: Any) -> pydicom.Dataset:
    """A SEG as others make it with highdicom."""
    segments = pixels.shape[3] if pixels.ndim == 4 else int(pixels.max())
    descriptions = [
        highdicom.seg.SegmentDescription(
            number, f"segment {number}", codes.SCT.Tissue, codes.SCT.Tissue, "MANUAL", None
        )
        for number in range(1, segments + 1)
    ]
    made = highdicom.seg.Segmentation(
        [pydicom.dcmread(file) for file in dict.fromkeys(source.files)],
        pixels,
        kind,
        descriptions,
        highdicom.UID(),
        1,
        highdicom.UID(),
        1,
        "Maker",
        "Model",
        "1",
        "1",
        **more,
    )
    made.save_as(path)
    return made


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_labels_of_all_types_are_read(kind: str, tmp_path: Path) -> None:
    source = dicom_files.series(tmp_path / "series", 3)
    labels = labels_of(3)
    by_highdicom(tmp_path / "seg.dcm", source, labels, kind)
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read.labels, labels[1:])
    assert read.names == {1: "segment 1", 2: "segment 2"}
    assert read.references == tuple(Reference(f"{dicom_files.SERIES}.{number}", None) for number in (2, 3))
    assert read.affine is not None
    np.testing.assert_allclose(read.affine, [[0.7, 0, 0, -10], [0, 0.5, 0, 20], [0, 0, 2.5, 32.5], [0, 0, 0, 1]])


def test_fractions_belong_to_a_segment_from_half_of_the_maximum_on(tmp_path: Path) -> None:
    source = dicom_files.one(tmp_path, dicom_files.ct())
    fractions = np.zeros((1, dicom_files.ROWS, dicom_files.COLUMNS, 1), np.float32)
    fractions[0, 0, :5, 0] = (0.1, 0.49, 0.5, 0.51, 1)
    by_highdicom(tmp_path / "seg.dcm", source, fractions, "FRACTIONAL", max_fractional_value=100)
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    assert read.labels[0, 0, :6].tolist() == [0, 0, 1, 1, 1, 0]


@pytest.mark.needs("dcmqi", "SimpleITK")
@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("orientation, step", [((1, 0, 0, 0, 1, 0), 2.5), ((0, 1, 0, 0, 0, -1), -2.5)])
def test_segmentations_of_dcmqi_are_read(
    kind: str, orientation: tuple[float, ...], step: float, tmp_path: Path
) -> None:
    import SimpleITK

    source = dicom_files.series(tmp_path / "series", 3, orientation=orientation, step=step)
    labels = labels_of(3)
    first = dicom_files.place(1, orientation=orientation, step=step)
    directions = np.array(orientation, float).reshape(2, 3)
    image = SimpleITK.GetImageFromArray(labels)
    image.SetSpacing((0.7, 0.5, 2.5))
    image.SetOrigin(first["ImagePositionPatient"])
    normal = np.cross(*directions) * np.sign(step)
    image.SetDirection(np.stack([*directions, normal], axis=1).ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / "labels.nrrd"))
    tissue = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
    segments = [
        {
            "labelID": number,
            "SegmentLabel": name,
            "SegmentDescription": name,
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": tissue,
            "SegmentedPropertyTypeCodeSequence": tissue,
        }
        for number, name in ((1, "first"), (2, "second"))
    ]
    (tmp_path / "meta.json").write_text(json.dumps({"segmentAttributes": [segments]}))
    programs.run(
        programs.dcmqi("itkimage2segimage"),
        *("--inputImageList", tmp_path / "labels.nrrd", "--inputDICOMDirectory", tmp_path / "series"),
        *("--inputMetadata", tmp_path / "meta.json", "--outputDICOM", tmp_path / "seg.dcm"),
        *("--segmentationType", kind, "--skip", "1"),
    )
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    assert {number: name for number, name in read.names.items() if number} == {1: "first", 2: "second"}
    numbers = {f"{dicom_files.SERIES}.{number + 1}": number for number in range(3)}
    assert len(read.labels) == 2
    for slice_labels, reference in zip(read.labels, read.references, strict=True):
        assert reference is not None
        np.testing.assert_array_equal(slice_labels, labels[numbers[reference.instance]])
    assert read.affine is not None
    turned = read.labels if step > 0 else read.labels[::-1]
    np.testing.assert_array_equal(turned, labels[1:])
    assert source.files


def test_slices_that_are_not_equally_far_apart_have_no_affine(tmp_path: Path) -> None:
    source = dicom_files.series(tmp_path / "series", 4)
    labels = np.zeros((4, dicom_files.ROWS, dicom_files.COLUMNS), np.uint8)
    labels[[0, 1, 3], 2:4, 2:4] = 1
    by_highdicom(tmp_path / "seg.dcm", source, labels, "BINARY")
    read = read_segmentation_labels(tmp_path / "seg.dcm")
    assert len(read.labels) == 3
    assert read.affine is None


def test_segments_that_overlap_are_refused(tmp_path: Path) -> None:
    source = dicom_files.one(tmp_path, dicom_files.ct())
    pixels = np.zeros((1, dicom_files.ROWS, dicom_files.COLUMNS, 2), np.uint8)
    pixels[0, 2:4, 2:4] = 1
    by_highdicom(tmp_path / "seg.dcm", source, pixels, "BINARY")
    with pytest.raises(ImageError, match="overlap"):
        read_segmentation_labels(tmp_path / "seg.dcm")


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_that_do_not_say_where_they_are_do_not_become_one(kind: str, tmp_path: Path) -> None:
    source = dicom_files.series(tmp_path / "series", 2)
    labels = np.zeros((2, dicom_files.ROWS, dicom_files.COLUMNS), np.uint8)
    labels[0, 2:4, 2:4] = labels[1, 8:9, 8:9] = 1  # apart, so that nothing overlaps
    made = by_highdicom(tmp_path / "seg.dcm", source, labels, kind)
    for group in made.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
        group.DerivationImageSequence = []
    made.save_as(tmp_path / "seg.dcm")
    with pytest.raises(ImageError, match="in one place"):
        read_segmentation_labels(tmp_path / "seg.dcm")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _headless(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(path)


def _of_tiles(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.TotalPixelMatrixRows = 100
    dataset.save_as(path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (_cut, "cannot be read as a DICOM segmentation; export it again"),
        (_headless, "cannot be read as a DICOM segmentation; export it again"),
        (_of_tiles, "tiles"),
        (lambda path: path.write_bytes(b""), "the file is empty; copy or export it again"),
        (lambda path: path.write_text("hello"), "not a DICOM file"),
        (lambda path: dicom_files.write(path, dicom_files.ct()), "not a DICOM segmentation"),
        (lambda path: path.unlink(), "no such file; check the path"),
    ],
)
def test_other_files_are_one_line_without_values(
    damage: Any, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = dicom_files.one(tmp_path, dicom_files.ct())
    labels = np.ones((1, dicom_files.ROWS, dicom_files.COLUMNS), np.uint8)
    by_highdicom(tmp_path / "seg.dcm", source, labels, "BINARY")
    damage(tmp_path / "seg.dcm")
    capfd.readouterr()
    with pytest.raises(ImageError, match=message) as caught:
        read_segmentation_labels(tmp_path / "seg.dcm")
    assert "\n" not in str(caught.value)
    assert not any(value in str(caught.value) for value in ("4711", "ller", "Doe"))
    assert capfd.readouterr() == ("", "")
