"""No value of a header leaves it through ``run``, whatever the format: markers are planted and searched for."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="nibabel is not installed")
pytest.importorskip("nrrd", reason="pynrrd is not installed")
pytest.importorskip("pydicom", reason="pydicom is not installed")
import dicom_files
import markers
import pydicom


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a marked file of every format that is read."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(-100, 10, (3, 36, 28))
    voxels[:, 5:20, 4:16] += 400
    found = tmp_path_factory.mktemp("marked") / "in"
    markers.write_series(found / "ct", voxels.astype(np.int16))
    for name, write in (
        ("v.nii.gz", markers.write_nifti),
        ("v.nrrd", markers.write_nrrd),
        ("v.mha", markers.write_mha),
    ):
        write(found / name, voxels.astype(np.int16))
    markers.write_pictures(found, rng.integers(0, 256, (40, 50, 3), np.uint8))
    return found


def test_no_value_of_a_header_gets_out(segment: Any, folder: Path, out: Path) -> None:
    given = markers.contents(folder)
    assert all(markers.found_in(content) for content in given.values() if content), "else nothing could be found"
    assert markers.found_in(given["ct/1.dcm"]) == set(markers.MARKERS)
    assert given["ct/1.dcm"].count(markers.TEXT.encode()) > 1300, "in all text elements"

    whole = segment(folder, "--format", "png,nifti,nrrd,mha")
    pictures = ("a.png", "b.tif", "c.jpg", "ct/2.dcm", "v.nrrd")  # a volume cannot be COCO, and a message says so
    others = segment(*(folder / name for name in pictures), "--output", out / "2", "--format", "coco,labelme,nifti")
    assert (whole.code, others.code) == (0, 5), whole.err + others.err
    assert others.out.startswith("4 of 5 images segmented, 1 failed")

    made = markers.contents(out)
    said = "\n".join([whole.out, whole.err, others.out, others.err, *made]).encode()
    leaks = {name: found for name, content in {**made, "": said}.items() if (found := markers.found_in(content))}
    assert leaks == {}
    suffixes = {"".join(Path(name).suffixes[-2:]) for name in made}
    assert suffixes >= {".nii.gz", ".seg.nrrd", ".mask.png", ".labelme.json", ".coco.json", ".html", ".csv"}


def test_identifiers_that_are_asked_for_get_out(segment: Any, folder: Path, out: Path) -> None:
    assert segment(folder / "ct" / "1.dcm", "--with-identifiers", "--format", "png,nifti").code == 0
    identifiers = json.loads((out / "1.dcm.json").read_text())["identifiers"]
    with (out / "measurements.csv").open(newline="") as file:
        (row, *_) = csv.DictReader(file)
    assert {key: row[key] for key in identifiers} == identifiers
    leaks = {name for name, content in markers.contents(out).items() if markers.found_in(content)}
    assert leaks == {"1.dcm.json", "report.json", "measurements.csv"}


@pytest.mark.needs("highdicom")
def test_no_warning_quotes_a_header_that_is_copied_to_results(segment: Any, tmp_path: Path, out: Path) -> None:
    """Libraries of DICOM warn of such names and identifiers while images are read and others are written."""
    odd = {"PatientName": f"{markers.TEXT}=A=B=C=D", "PatientID": markers.TEXT * 20}
    with warnings.catch_warnings(record=True) as caught, pydicom.config.disable_value_validation():
        images = [dicom_files.write(tmp_path / f"{number}.dcm", dicom_files.ct(number, **odd)) for number in (1, 2)]
        warnings.simplefilter("always")
        caught.clear()
        made = segment(*images, "--format", "seg,sr,sc")
    assert made.code == 0, made.err
    assert len(list(out.glob("*.s?.dcm"))) == 2 * len(images)
    assert markers.found_in("\n".join([made.out, made.err, *(str(each.message) for each in caught)]).encode()) == set()
