"""From an archive and back to it, with a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import dicom_files
import orthanc
import programs
import pydicom

from msformer_deploy.images.seg import read_segmentation_labels
from msformer_deploy.images.sources import DicomSource
from msformer_deploy.results.dicom.capture import write_capture
from msformer_deploy.results.dicom.identity import MadeBy
from msformer_deploy.results.dicom.measurement_report import Quantity, write_measurements
from msformer_deploy.results.dicom.segmentation import write_segmentation

MADE_BY = MadeBy("msformer", "0123456789abcdef" * 4)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_debian("dcmtk"),
    pytest.mark.needs_debian("orthanc"),
    pytest.mark.needs_debian("orthanc-dicomweb"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[orthanc.Orthanc]:
    with orthanc.running(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def test_a_series_comes_from_the_archive_and_its_results_go_back_into_the_study(
    archive: orthanc.Orthanc, tmp_path: Path
) -> None:
    scanner = dicom_files.series(tmp_path / "scanner", 4)
    programs.run("storescu", "127.0.0.1", str(archive.dicom), *scanner.files)

    (tmp_path / "fetched").mkdir()
    programs.run(
        *("getscu", "--study", "--call", "ORTHANC", "--output-directory", tmp_path / "fetched"),
        *("--key", "QueryRetrieveLevel=STUDY", "--key", f"StudyInstanceUID={dicom_files.STUDY}"),
        *("127.0.0.1", str(archive.dicom)),
    )
    images = {path: pydicom.dcmread(path) for path in (tmp_path / "fetched").iterdir()}
    files = tuple(sorted(images, key=lambda path: float(images[path].ImagePositionPatient[2])))
    fetched = [images[path] for path in files]
    source = DicomSource(files, (None,) * len(files))
    labels = np.stack([image.pixel_array > 200 for image in fetched]).astype(np.uint8)
    assert 0 < labels.mean() < 1

    results = [tmp_path / "v.seg.dcm", tmp_path / "v.sc.dcm", tmp_path / "v.sr.dcm"]
    segmentation = write_segmentation(results[0], labels, source, ["lung"], made_by=MADE_BY)
    write_capture(results[1], np.zeros((*labels.shape, 3), np.uint8), source, made_by=MADE_BY)
    write_measurements(results[2], [Quantity(1, "volume", 7.5, "ml")], segmentation, source, made_by=MADE_BY)
    answer = archive.store_by_dicomweb(results)
    assert len(answer["00081199"]["Value"]) == 3
    assert not answer.get("00081198", {}).get("Value")  # what could not be stored

    series = archive.json(f"/dicom-web/studies/{dicom_files.STUDY}/series")
    assert sorted(each["00080060"]["Value"][0] for each in series) == ["CT", "OT", "SEG", "SR"]
    assert len(archive.json("/patients")) == len(archive.json("/studies")) == 1

    (stored,) = archive.instances(segmentation.SeriesInstanceUID)
    (tmp_path / "stored.dcm").write_bytes(stored)
    read = read_segmentation_labels(tmp_path / "stored.dcm")
    np.testing.assert_array_equal(read.labels, labels)
    assert [each and each.instance for each in read.references] == [image.SOPInstanceUID for image in fetched]


def test_running_again_adds_a_series_and_replaces_none(archive: orthanc.Orthanc, tmp_path: Path) -> None:
    source = dicom_files.series(
        tmp_path / "scanner",
        2,
        lambda *numbers, **more: dicom_files.ct(
            *numbers, **{**more, "StudyInstanceUID": "2.25.77", "SeriesInstanceUID": "2.25.78"}
        ),
    )
    labels = np.ones((2, dicom_files.ROWS, dicom_files.COLUMNS), np.uint8)
    for _ in range(2):
        write_segmentation(tmp_path / "seg.dcm", labels, source, ["lung"], made_by=MADE_BY)
        archive.store_by_dicomweb([tmp_path / "seg.dcm"])
    assert len(archive.json("/dicom-web/studies/2.25.77/series")) == 2


@pytest.mark.parametrize("kind", ["US", "CR", "enhanced"])
def test_storescu_stores_results_of_other_kinds(kind: str, archive: orthanc.Orthanc, tmp_path: Path) -> None:
    make = {"US": dicom_files.us_frames, "CR": dicom_files.cr, "enhanced": dicom_files.enhanced_ct}[kind]
    study = f"2.25.{100 + len(kind)}"
    source = dicom_files.one(tmp_path, make(StudyInstanceUID=study))
    labels = np.ones((len(source.files), dicom_files.ROWS, dicom_files.COLUMNS), np.uint8)
    results = [tmp_path / "seg.dcm", tmp_path / "sc.dcm"]
    write_segmentation(results[0], labels, source, ["lesion"], made_by=MADE_BY)
    write_capture(results[1], np.zeros((*labels.shape, 3), np.uint8), source, made_by=MADE_BY)
    programs.run("storescu", "-R", "127.0.0.1", str(archive.dicom), *results)  # -R: propose the classes of the files
    found = archive.json(f"/dicom-web/studies/{study}/series")
    assert {each["00080060"]["Value"][0] for each in found} >= {"SEG", "OT"}
