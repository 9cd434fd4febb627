from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicoms import PIXELS, image, save, series, slice_at
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
    RawDataStorage,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)

from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.images.inputs import Item, PassedOver, discover

OTHER_SERIES = generate_uid(entropy_srcs=["other"])


def listed(folder: Path, **options: Any) -> list[tuple[str, str, int]]:
    items = discover([folder], volumes=True, **options)
    return [(item.relative.as_posix(), item.kind, len(item.files)) for item in items]


def test_a_series_is_one_volume_that_is_called_like_its_folder(tmp_path: Path) -> None:
    series(tmp_path / "study" / "ct")
    save(image(), tmp_path / "study" / "scout")
    (tmp_path / "study" / "photo.png").touch()
    assert listed(tmp_path / "study") == [("ct", "volume", 4), ("photo.png", "image", 0), ("scout", "image", 0)]
    (found,) = discover([tmp_path / "study" / "ct"], volumes=True)
    assert (found.path, found.relative) == (tmp_path / "study" / "ct", Path("ct"))


def test_two_series_in_one_folder_have_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    series(folder)
    for height in range(3):
        save(slice_at(height, SeriesInstanceUID=OTHER_SERIES), folder / f"0.{height}")
    items = discover([folder], volumes=True)
    assert [(item.path, item.relative.as_posix(), len(item.files)) for item in items] == [
        (folder / "series-1", "ct/series-1", 3),
        (folder / "series-2", "ct/series-2", 4),
    ]
    assert items[0].files[0].name == "0.0"


def test_a_series_in_several_folders_is_one_volume(tmp_path: Path) -> None:
    for index, height in enumerate((0, 5, 10)):
        save(slice_at(height), tmp_path / "a" / "disk" / f"part{index}" / "IM1")
    assert listed(tmp_path / "a") == [("disk", "volume", 3)]


def test_files_without_positions_single_slices_and_frames(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    save(image(), folder / "x1")
    save(image(), folder / "x2")
    save(slice_at(0, SeriesInstanceUID=OTHER_SERIES), folder / "single")
    save(image(np.stack([PIXELS] * 3)), folder / "cine.dcm")
    save(slice_at(0, SeriesInstanceUID=""), folder / "y")
    assert listed(folder) == [
        ("cine.dcm", "volume", 1),
        ("single", "image", 0),
        *(("x1", "image", 0), ("x2", "image", 0), ("y", "image", 0)),
    ]


@pytest.mark.parametrize(
    "elements", [{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6"}, {"TotalPixelMatrixRows": 64}], ids=["class", "size"]
)
def test_tiles_of_a_whole_slide_are_no_volume(tmp_path: Path, elements: dict[str, Any]) -> None:
    from msformer_deploy.images.dicom.series import read_volume
    from msformer_deploy.images.read import read_image

    slide = save(image(np.stack([PIXELS] * 4), **elements), tmp_path / "a" / "slide.dcm")
    save(image(**elements), tmp_path / "a" / "thumbnail.dcm")
    assert listed(tmp_path / "a") == [("slide.dcm", "image", 0), ("thumbnail.dcm", "image", 0)]
    assert discover([slide], volumes=True) == [Item(slide, Path("slide.dcm"))]
    for read in (read_image, lambda path: read_volume([path])):
        with pytest.raises(ImageError) as caught:
            read(slide)
        assert str(caught.value) == (
            f"{slide}: is a whole slide in 4 tiles, which do not lie behind each other as slices do; export a region of"
            " it as one image"
        )
    assert read_image(tmp_path / "a" / "thumbnail.dcm").height == 16


def test_links_to_a_slice_are_that_slice(tmp_path: Path) -> None:
    paths = series(tmp_path / "a")
    (tmp_path / "a" / "again.dcm").symlink_to(paths[0])
    assert listed(tmp_path / "a") == [("a", "volume", 4)]


def test_a_file_that_is_named_is_an_image_or_has_frames(tmp_path: Path) -> None:
    single = save(slice_at(0), tmp_path / "one")
    cine = save(image(np.stack([PIXELS] * 3)), tmp_path / "cine")
    found = discover([single, cine, tmp_path / "v.nii.gz"], volumes=True)
    assert found == [
        Item(single, Path("one")),
        Item(cine, Path("cine"), "volume", (cine,)),
        Item(tmp_path / "v.nii.gz", Path("v.nii.gz"), "volume"),
    ]


def test_files_of_volumes_are_listed(tmp_path: Path) -> None:
    names = ["a.nii", "b.nii.gz", "c.nrrd", "d.nhdr", "e.mha", "f.MHD"]
    for name in names:
        (tmp_path / name).touch()
    assert listed(tmp_path) == [(name, "volume", 0) for name in names]
    with pytest.raises(UsageError, match="no images"):
        discover([tmp_path])


def test_without_volumes_each_file_is_an_image(tmp_path: Path) -> None:
    paths = series(tmp_path / "a")
    assert discover([tmp_path / "a"]) == [Item(path, Path(path.name)) for path in sorted(paths)]


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        (BasicTextSRStorage, "DICOM SR"),
        (GrayscaleSoftcopyPresentationStateStorage, "DICOM PR"),
        (KeyObjectSelectionDocumentStorage, "DICOM KO"),
        (RTStructureSetStorage, "DICOM RTSTRUCT"),
        (RTPlanStorage, "DICOM RTPLAN"),
        (RTDoseStorage, "DICOM RTDOSE"),
        (SegmentationStorage, "DICOM SEG"),
        (EncapsulatedPDFStorage, "DICOM PDF"),
        (RawDataStorage, "DICOM raw data"),
        (MediaStorageDirectoryStorage, "DICOMDIR"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "DICOM waveform"),
    ],
)
def test_what_is_no_image_is_counted_by_kind(tmp_path: Path, sop_class: str, kind: str) -> None:
    (tmp_path / "a.png").touch()
    for name in "bc":
        save(image(SOPClassUID=sop_class), tmp_path / name)
    passed_over = PassedOver()
    assert listed(tmp_path, passed_over=passed_over) == [("a.png", "image", 0)]
    assert passed_over.line() == f"passed over: 2 {kind}"


def test_a_picture_of_a_result_is_no_image(tmp_path: Path) -> None:
    from msformer_deploy.images.read import read_image
    from msformer_deploy.results.dicom.identity import MANUFACTURER

    save(image(Manufacturer="Maker"), tmp_path / "a")
    colours = np.zeros((*PIXELS.shape, 3), np.uint8)
    capture = save(
        image(colours, SOPClassUID=SecondaryCaptureImageStorage, Manufacturer=MANUFACTURER), tmp_path / "a.sc.dcm"
    )
    save(image(np.stack([colours] * 3), NumberOfFrames=3, Manufacturer=MANUFACTURER), tmp_path / "b.sc.dcm")
    passed_over = PassedOver()
    assert listed(tmp_path, passed_over=passed_over) == [("a", "image", 0)]
    assert passed_over.line() == "passed over: 2 DICOM overlay of msformer-deploy"
    with pytest.raises(ImageError, match=r"is a DICOM overlay of msformer-deploy, which is not an image to segment"):
        read_image(capture)


def test_a_damaged_file_or_one_of_another_kind_fails_by_itself(tmp_path: Path) -> None:
    series(tmp_path / "a")
    (tmp_path / "a" / "empty.dcm").touch()
    (tmp_path / "a" / "text.dcm").write_text("not DICOM")
    (tmp_path / "a" / "IM1").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    passed_over = PassedOver()
    assert listed(tmp_path / "a", passed_over=passed_over) == [
        ("a", "volume", 4),
        ("empty.dcm", "image", 0),
        ("text.dcm", "image", 0),
    ]
    assert passed_over.counts == {"DICOM without an image": 1}


def test_without_pydicom_dicom_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from msformer_deploy.images import inputs

    series(tmp_path)
    monkeypatch.setattr(inputs, "is_installed", lambda module: False)
    with pytest.raises(UsageError, match=r'passed over: 4 DICOM; pip install "msformer-deploy\[dicom\]" to read DICOM'):
        discover([tmp_path], volumes=True)
