"""``run`` on volumes and in the formats of hospitals and annotation tools, from files to files."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nibabel", reason="nibabel is not installed")
pytest.importorskip("nrrd", reason="pynrrd is not installed")
pytest.importorskip("highdicom", reason="highdicom is not installed")
import nibabel
import orthanc
import programs
from dicom_files import STUDY, ct, place, us, us_frames, write

from msformer_deploy import Segmenter, VolumeSegmenter, read_volume
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.images.annotations import painting
from msformer_deploy.images.dicom import series
from msformer_deploy.images.seg import read_segmentation_labels
from msformer_deploy.images.truth import read_volume_truths
from msformer_deploy.images.volumes.labels import read_labels
from msformer_deploy.images.volumes.slicer import read_slicer_segmentation

SHAPE = (9, 36, 28)  # slices, rows, columns
MARK = "QQMARK"  # in every text of a header


@pytest.fixture
def voxels() -> np.ndarray:
    """A bright block off the centre, int16: its place tells every mirroring."""
    rng = np.random.default_rng(0)
    found = rng.normal(-100, 10, SHAPE)
    found[2:7, 5:20, 4:16] += 400
    return found.astype(np.int16)


@pytest.fixture
def nifti(voxels: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "in" / "v.nii.gz"
    path.parent.mkdir()
    affine = np.array([[-0.7, 0, 0, 30], [0, -0.9, 0, 20], [0, 0, 3, -5], [0, 0, 0, 1]], float)
    image = nibabel.Nifti1Image(voxels.T, affine)
    image.header["descrip"] = MARK
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


@pytest.fixture
def study(voxels: np.ndarray, tmp_path: Path) -> Path:
    """A folder with a CT series, its files in another order than its slices, and an ultrasound image."""
    folder = tmp_path / "study"
    (folder / "ct").mkdir(parents=True)
    texts = {"PatientName": f"{MARK}^A", "PatientID": MARK, "AccessionNumber": MARK, "StudyID": MARK}
    texts |= {
        "InstitutionName": MARK,
        "StudyDescription": MARK,
        "SeriesDescription": MARK,
        "ReferringPhysicianName": MARK,
    }
    texts |= {"PatientBirthDate": "19700101", "PatientComments": MARK, "ImageComments": MARK, "ProtocolName": MARK}
    for number, pixels in enumerate(voxels, 1):
        size = {"Rows": SHAPE[1], "Columns": SHAPE[2], "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
        stored = {**size, "PixelRepresentation": 1, "PixelData": (pixels + 1024).astype(np.int16).tobytes()}
        where = place(number, spacing=(0.9, 0.7), step=3.0)
        write(folder / "ct" / f"{(number * 3) % 10}.dcm", ct(number, **where, **stored, **texts))
    write(folder / "us.dcm", us(1, **texts))
    return folder


def record_of(out: Path, name: str) -> Any:
    return json.loads((out / f"{name}.json").read_text())


def table_of(out: Path) -> list[dict[str, str]]:
    with (out / "measurements.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class TestVolumes:
    def test_results_have_the_fixed_names_and_lie_on_the_voxels(
        self, segment: Any, nifti: Path, voxels: np.ndarray, out: Path
    ) -> None:
        outcome = segment(nifti)
        assert outcome.code == 0, outcome.err
        source = nibabel.load(nifti)
        for name in ("mask", "labels", "probability"):
            found = nibabel.load(out / f"v.nii.gz.{name}.nii.gz")
            np.testing.assert_array_equal(found.affine, source.affine)
            assert found.shape == source.shape
        mask = np.asarray(nibabel.load(out / "v.nii.gz.mask.nii.gz").dataobj).T > 0
        record = record_of(out, "v.nii.gz")
        assert record["foreground"]["area_fraction"] == pytest.approx(mask.mean())
        assert (record["slices"], record["height"], record["width"]) == SHAPE
        assert [each["slice"] for each in record["per_slice"]] == list(range(1, 10))
        for each, own in zip(record["per_slice"], mask, strict=True):
            assert each["area_fraction"] == pytest.approx(own.mean())
            assert (each["confidence"] is None) == (not own.any())
        assert np.asarray(Image.open(out / "v.nii.gz.overlay.png")).ndim == 3
        assert "per_slice" not in json.loads((out / "report.json").read_text())["images"][0]

    def test_sizes_are_in_millimetres(self, segment: Any, nifti: Path, out: Path) -> None:
        assert segment(nifti).code == 0
        mask = np.asarray(nibabel.load(out / "v.nii.gz.mask.nii.gz").dataobj) > 0
        (whole, *_) = table_of(out)
        assert (whole["input"], whole["unit"], whole["object"]) == (str(nifti), "mm", "all")
        assert float(whole["volume"]) == pytest.approx(mask.sum() * 0.7 * 0.9 * 3, rel=1e-6)
        steps = [float(whole[f"spacing_{each}"]) for each in ("row", "column")] + [float(whole["slice_spacing"])]
        assert steps == pytest.approx([0.9, 0.7, 3], rel=1e-6)

    def test_another_plane_gives_results_on_the_same_voxels(
        self, segment: Any, nifti: Path, voxels: np.ndarray, out: Path, tiny_bundle: Bundle
    ) -> None:
        outcome = segment(nifti, "--axis", "coronal", "--foreground", "largest")
        assert outcome.code == 0, outcome.err
        mask = nibabel.load(out / "v.nii.gz.mask.nii.gz")
        assert mask.shape == voxels.T.shape
        # The same mask from Python, by the patient's coordinates of its voxels: nowhere mirrored or moved.
        seen = read_volume(nifti, axis="coronal")
        result = VolumeSegmenter(Segmenter(tiny_bundle, foreground_rule="largest")).segment(seen)
        indices = np.argwhere(result.mask)[:, ::-1]
        there = (seen.affine @ np.c_[indices, np.ones(len(indices))].T)[:3] * [[-1], [-1], [1]]
        stored = np.argwhere(np.asarray(mask.dataobj) > 0)
        here = (mask.affine @ np.c_[stored, np.ones(len(stored))].T)[:3]
        assert len(indices) == len(stored) > 0
        assert {tuple(each) for each in np.round(there.T, 3)} == {tuple(each) for each in np.round(here.T, 3)}
        record = record_of(out, "v.nii.gz")
        assert (record["slices"], record["height"], record["width"]) == (SHAPE[1], SHAPE[0], SHAPE[2])
        assert record["settings"]["axis"] == "coronal"

    def test_existing_results_are_kept(self, segment: Any, nifti: Path, out: Path) -> None:
        assert segment(nifti).code == 0
        segment(nifti).error(2, "exists already", "--force")
        assert "1 skipped" in segment(nifti, "--skip-existing", "--window", "0,500").out
        (entry,) = json.loads((out / "report.json").read_text())["images"]
        assert "kept from an earlier run with other settings" in entry["notes"]
        (out / "v.nii.gz.labels.nii.gz").unlink()
        assert "1 of 1" in segment(nifti, "--skip-existing").out
        assert segment(nifti, "--force", "--format", "png").code == 0
        shutil.rmtree(out / "v.nii.gz.slices")
        assert "1 of 1" in segment(nifti, "--skip-existing", "--format", "png").out

    def test_another_format_replaces_nothing_that_a_person_may_have_corrected(
        self, segment: Any, nifti: Path, out: Path
    ) -> None:
        assert segment(nifti, "--format", "nrrd").code == 0
        corrected = out / "v.nii.gz.seg.nrrd"
        corrected.write_bytes(corrected.read_bytes() + b"\n")
        content = corrected.read_bytes()
        segment(nifti, "--skip-existing", "--format", "nifti").error(5, "its results have no nifti", "--force")
        segment(nifti, "--format", "nifti").error(2, "exists already")
        assert corrected.read_bytes() == content
        assert segment(nifti, "--force", "--format", "mha").code == 0
        left = {path.name for path in out.glob("v.*") if "candidate" not in path.name}
        voxels = {f"v.nii.gz.{name}.mha" for name in ("labels", "mask", "probability")}
        assert left == voxels | {"v.nii.gz.json", "v.nii.gz.overlay.png"}

    def test_a_name_with_the_word_of_a_result(self, segment: Any, nifti: Path, out: Path) -> None:
        named = nifti.rename(nifti.with_name("a.mask.nii.gz"))
        assert segment(named).code == 0
        record = record_of(out, "a.mask.nii.gz")
        for key, name in (("label_map", "labels"), ("mask", "mask"), ("probability", "probability")):
            assert record[key] == f"a.mask.nii.gz.{name}.nii.gz"

    def test_an_axis_without_volumes(self, segment: Any, good: Path) -> None:
        segment(good, "--axis", "axial").error(2, "--axis only affects volumes, and there are none; drop it")

    def test_a_rule_for_volumes_without_volumes(self, segment: Any, good: Path) -> None:
        segment(good, "--foreground", "lung-ct").error(2, "--foreground lung-ct is for volumes, and there are none")

    def test_pictures_of_all_slices(self, segment: Any, nifti: Path, out: Path) -> None:
        assert segment(nifti, "--format", "png,nifti").code == 0
        mask = np.asarray(nibabel.load(out / "v.nii.gz.mask.nii.gz").dataobj).T > 0
        for number, own in enumerate(mask, 1):
            picture = np.asarray(Image.open(out / "v.nii.gz.slices" / f"{number:04}.mask.png")) > 0
            np.testing.assert_array_equal(picture, own)

    def test_one_that_fails_fails_alone(self, segment: Any, nifti: Path, good: Path, out: Path) -> None:
        (nifti.parent / "a.nii.gz").write_bytes(nifti.read_bytes()[:400])
        (nifti.parent / "b.nrrd").write_bytes(b"NRRD0004\n")
        good.rename(nifti.parent / "c.png")
        outcome = segment(nifti.parent)
        assert outcome.code == 5
        lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
        assert [Path(line.removeprefix("error: ").split(":")[0]).name for line in lines] == ["a.nii.gz", "b.nrrd"]
        assert outcome.out.startswith("2 of 4 images segmented, 2 failed")
        assert not list(out.glob("a.nii.gz*"))

    def test_backends_that_cannot(self, segment: Any, nifti: Path) -> None:
        segment(nifti, "--backend", "torch").error(2, "backend torch cannot segment volumes")
        segment(nifti, "--refine", "full", "--steps", "1").error(2, "volumes are learned in closed form")


class TestDicom:
    def test_a_segmentation_lies_on_the_series(self, segment: Any, study: Path, out: Path) -> None:
        outcome = segment(study / "ct", "--seg", "--format", "nifti", "--structure", "lesion")
        assert outcome.code == 0, outcome.err
        assert MARK.encode() in (out / "ct.seg.dcm").read_bytes(), "the standard needs the patient in DICOM"
        found = read_segmentation_labels(out / "ct.seg.dcm")
        mask, affine = read_labels(out / "ct.mask.nii.gz")
        assert found.names == {1: "lesion"}
        assert found.affine is not None
        marked = np.argwhere(found.labels > 0)
        there = found.affine @ np.c_[marked[:, ::-1], np.ones(len(marked))].T
        on_nifti = np.rint(np.linalg.inv(affine) @ there).astype(int)
        hit = np.zeros(mask.shape, bool)
        hit[on_nifti[2], on_nifti[1], on_nifti[0]] = True
        np.testing.assert_array_equal(hit, mask > 0)

    def test_slices_that_are_named_are_images_and_run_says_so(self, segment: Any, study: Path, out: Path) -> None:
        import pydicom

        header = pydicom.dcmread(study / "ct" / "1.dcm")
        header.SeriesInstanceUID = "2.25.77"
        header.save_as(study / "ct" / "other.dcm")
        outcome = segment(study / "ct" / "1.dcm", study / "ct" / "2.dcm", study / "ct" / "other.dcm", study / "us.dcm")
        assert outcome.code == 0, outcome.err
        (line,) = (each for each in outcome.err.splitlines() if "series" in each)
        assert line.startswith("2 of the files that you named are slices of one DICOM series; ")
        assert len(list(out.glob("*.mask.png"))) == 4
        assert "series" not in segment(study / "ct", study / "us.dcm", "--force").err

    def test_all_results_of_a_study(self, segment: Any, study: Path, out: Path) -> None:
        outcome = segment(study, "--format", "seg,sc,sr")
        assert outcome.code == 0, outcome.err
        for name in ("ct", "us.dcm"):
            assert sorted(record_of(out, name)["files"]) == ["sc", "seg", "sr"]
            assert all((out / f"{name}.{kind}.dcm").stat().st_size > 1000 for kind in ("seg", "sc", "sr"))
        assert record_of(out, "ct")["mask"] is None
        assert (out / "us.dcm.mask.png").is_file()
        assert "ct.overlay.png" in (out / "index.html").read_text()

    @pytest.mark.needs_debian("dicom3tools")
    def test_they_are_valid(self, segment: Any, study: Path, out: Path) -> None:
        assert segment(study, "--format", "sr,sc").code == 0
        written = sorted(out.glob("*.dcm"))
        assert len(written) == 6, "a report has its segmentation"
        for path in written:
            told = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False).stderr
            assert not [line for line in told.splitlines() if line.startswith("Error")], path.name

    @pytest.mark.slow
    @pytest.mark.needs_debian("dicom3tools")
    def test_a_label_map_by_choice(self, segment: Any, study: Path, out: Path) -> None:
        """Read by pydicom, highdicom and as ground truth. dciodvfy knows the report and not the class of label maps."""
        import highdicom
        import pydicom

        outcome = segment(study / "ct", "--format", "nifti,sr", "--seg-type", "labelmap", "--structure", "lung")
        assert outcome.code == 0, outcome.err
        made = pydicom.dcmread(out / "ct.seg.dcm")
        assert (made.SOPClassUID, made.SegmentationType) == ("1.2.840.10008.5.1.4.1.1.66.7", "LABELMAP")
        assert set(programs.errors(out / "ct.seg.dcm")) == programs.UNKNOWN_TO_DCIODVFY
        unknown = "ReferencedSegmentNumber(0062,000b)> - Shall not be present for Referenced SOP Class that is not"
        assert not [line for line in programs.errors(out / "ct.sr.dcm") if unknown not in line]
        assert record_of(out, "ct")["settings"]["seg_type"] == "labelmap"
        mask, affine = read_labels(out / "ct.mask.nii.gz")
        volume = highdicom.seg.segread(out / "ct.seg.dcm").get_volume(combine_segments=True)
        marked = np.argwhere(volume.array == 1)
        there = volume.affine @ np.c_[marked, np.ones(len(marked))].T
        on_nifti = np.rint(np.linalg.inv(affine) @ there).astype(int)
        hit = np.zeros(mask.shape, bool)
        hit[on_nifti[2], on_nifti[1], on_nifti[0]] = True
        np.testing.assert_array_equal(hit, mask > 0)
        volume_read = series.read_volume(sorted((study / "ct").iterdir()))
        truths = read_volume_truths(out / "ct.seg.dcm", volume_read)
        np.testing.assert_array_equal(truths.masks[None], mask > 0)

    @pytest.mark.parametrize("formats", [(), ("--format", "nifti,sc")])
    @pytest.mark.parametrize("kind", ["binary", "labelmap"])
    def test_a_type_without_a_segmentation(
        self, segment: Any, study: Path, kind: str, formats: tuple[str, ...]
    ) -> None:
        segment(study, "--seg-type", kind, *formats).error(2, "--seg-type only affects DICOM segmentations, and none")

    def test_a_segmentation_that_nobody_changed_is_no_correction(self, segment: Any, study: Path, out: Path) -> None:
        assert segment(study / "us.dcm", "--seg").code == 0
        drafts = out.rename(out.with_name("drafts"))
        segment(study / "us.dcm", "--like", drafts).error(2, "no mask was changed since run wrote it")
        mask = drafts / "us.dcm.mask.png"
        Image.fromarray(np.asarray(Image.open(mask))[::-1]).save(mask)
        outcome = segment(study / "us.dcm", "--like", drafts)
        assert outcome.code == 0, outcome.err
        assert "masks taken as corrected: 1 (us.dcm.mask.png)" in outcome.err

    def test_what_kept_results_lack_is_said(self, segment: Any, study: Path, out: Path) -> None:
        assert segment(study / "us.dcm", "--seg").code == 0
        segment(study / "us.dcm", "--seg", "--skip-existing", "--with-identifiers").error(5, "have no identifiers")
        assert segment(study / "us.dcm", "--seg", "--skip-existing", "--structure", "lesion").code == 0
        (entry,) = json.loads((out / "report.json").read_text())["images"]
        assert "kept from an earlier run with other settings" in entry["notes"]

    def test_identifiers_of_kept_results_are_left_out(self, segment: Any, study: Path, out: Path) -> None:
        assert segment(study / "us.dcm", "--with-identifiers").code == 0
        assert segment(study / "us.dcm", "--skip-existing").code == 0
        assert MARK not in (out / "report.json").read_text() + (out / "measurements.csv").read_text()

    def test_a_series_that_takes_the_place_of_another(self, segment: Any, study: Path, out: Path) -> None:
        import pydicom

        def copied(name: str, uid: str) -> None:
            for path in sorted((study / "ct").glob("[0-9].dcm")):
                header = pydicom.dcmread(path)
                header.SeriesInstanceUID = uid
                header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{path.stem}"
                header.save_as(study / "ct" / f"{name}-{path.name}")

        copied("b", "2.25.71")
        assert segment(study / "ct").code == 0
        copied("0-a", "2.25.72")
        outcome = segment(study / "ct", "--skip-existing")
        assert outcome.code == 5
        assert "the output folder already has the results of" in outcome.err

    def test_a_file_that_vanishes_fails_its_series_alone(
        self, segment: Any, study: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from msformer_deploy.images import items

        real = items.volume_of

        def vanished(item: Any, reading: Any) -> Any:
            next(iter(item.files)).unlink()
            return real(item, reading)

        monkeypatch.setattr("msformer_deploy.results.batch.volume_of", vanished)
        outcome = segment(study)
        assert outcome.code == 5
        assert ".dcm: no such file; check the path" in outcome.err
        assert (out / "us.dcm.mask.png").is_file()
        assert (out / "report.json").is_file()

    def test_a_missing_package_fails_its_files_alone(
        self, segment: Any, study: Path, good: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pydicom", None)
        outcome = segment(study / "us.dcm", good)
        assert outcome.code == 5
        (line,) = (each for each in outcome.err.splitlines() if each.startswith("error: "))
        assert line.count("us.dcm") == 1
        assert 'pip install "msformer-deploy[dicom]"' in line
        assert (out / "good.png.mask.png").is_file()
        assert (out / "report.json").is_file()

    def test_files_without_a_preamble_have_results_in_dicom_too(self, segment: Any, study: Path, out: Path) -> None:
        for path in (study / "ct").iterdir():
            path.write_bytes(path.read_bytes()[132:])
        outcome = segment(study / "ct", "--seg")
        assert outcome.code == 0, outcome.err
        assert (out / "ct.seg.dcm").is_file()

    def test_a_result_that_cannot_be_dicom_leaves_nothing(
        self, segment: Any, study: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import pydicom

        for path in (study / "ct").iterdir():
            header = pydicom.dcmread(path)
            del header.FrameOfReferenceUID
            header.save_as(path)

        def never(*_: object) -> None:
            raise AssertionError("it is told before anything is segmented")

        monkeypatch.setattr(VolumeSegmenter, "segment", never)
        outcome = segment(study, "--seg", "--format", "nifti")
        outcome.error(5, "ct: 9 of its 9 images have no FrameOfReferenceUID", "choose other formats than seg and sr")
        assert not list(out.glob("ct*"))
        assert (out / "us.dcm.seg.dcm").is_file()

    def test_nothing_to_measure_is_still_a_report(self, segment: Any, study: Path, out: Path) -> None:
        write(study / "cine.dcm", us_frames())
        outcome = segment(study / "cine.dcm", study / "ct", "--format", "sr", "--foreground", "cluster:0")
        assert outcome.code == 0, outcome.err
        assert (out / "cine.dcm.sr.dcm").is_file()
        assert (out / "ct.sr.dcm").is_file()

    def test_identifiers_are_copied_where_they_are_asked_for(self, segment: Any, study: Path, out: Path) -> None:
        assert segment(study, "--with-identifiers").code == 0
        assert record_of(out, "ct")["identifiers"]["patient_id"] == MARK
        rows = table_of(out)
        assert {row["patient_id"] for row in rows} == {MARK}
        assert all(row["study_instance_uid"] and row["series_instance_uid"] for row in rows)


@pytest.mark.slow
@pytest.mark.needs_debian("dcmtk")
@pytest.mark.needs_debian("orthanc")
@pytest.mark.needs_debian("orthanc-dicomweb")
def test_from_an_archive_and_back_into_the_study(segment: Any, study: Path, tmp_path: Path, out: Path) -> None:
    """As a user does it: fetched with dcmtk, segmented with the command, stored by DICOMweb."""
    for name in ("fetched", "archive"):
        (tmp_path / name).mkdir()
    with orthanc.running(tmp_path / "archive") as archive:
        programs.run("storescu", "127.0.0.1", str(archive.dicom), *sorted((study / "ct").iterdir()))
        programs.run(
            *("getscu", "--study", "--call", "ORTHANC", "--output-directory", tmp_path / "fetched"),
            *("--key", "QueryRetrieveLevel=STUDY", "--key", f"StudyInstanceUID={STUDY}"),
            *("127.0.0.1", str(archive.dicom)),
        )
        assert len(list((tmp_path / "fetched").iterdir())) == SHAPE[0]
        outcome = segment(tmp_path / "fetched", "--format", "nifti,seg,sc,sr")
        assert outcome.code == 0, outcome.err
        archive.store_by_dicomweb([out / f"fetched.{kind}.dcm" for kind in ("seg", "sc", "sr")])
        series = archive.json(f"/dicom-web/studies/{STUDY}/series")
        assert sorted(each["00080060"]["Value"][0] for each in series) == ["CT", "OT", "SEG", "SR"]
        assert len(archive.json("/patients")) == len(archive.json("/studies")) == 1
        (uid,) = (each["0020000E"]["Value"][0] for each in series if each["00080060"]["Value"] == ["SEG"])
        (stored,) = archive.instances(uid)
    (tmp_path / "stored.dcm").write_bytes(stored)
    mask, _ = read_labels(out / "fetched.mask.nii.gz")
    assert read_segmentation_labels(tmp_path / "stored.dcm").labels.astype(bool).sum() == (mask > 0).sum() > 0


class TestImages:
    def test_the_mask_of_one_slice_is_where_the_slice_is(self, segment: Any, study: Path, out: Path) -> None:
        import pydicom

        path = study / "ct" / "3.dcm"
        assert segment(path, "--format", "nifti,nrrd,mha").code == 0
        header = pydicom.dcmread(path, stop_before_pixels=True)
        assert int(nibabel.load(out / "3.dcm.mask.nii.gz").header["sform_code"]) == 1
        for name in ("mask.nii.gz", "seg.nrrd", "mask.mha"):
            labels, affine = read_labels(out / f"3.dcm.{name}")
            assert labels.shape == (1, *SHAPE[1:])
            np.testing.assert_allclose(affine[:3, 3], header.ImagePositionPatient, atol=1e-4)
            np.testing.assert_allclose(affine[:3, 0], [0.7, 0, 0], atol=1e-6)
            np.testing.assert_allclose(affine[:3, 1], [0, 0.9, 0], atol=1e-6)

    def test_masks_come_back_from_every_format(self, segment: Any, good: Path, out: Path) -> None:
        outcome = segment(good, "--format", "nifti,nrrd,mha,coco,labelme", "--structure", "polyp")
        assert outcome.code == 0, outcome.err
        mask = np.asarray(Image.open(out / "good.png.mask.png")) > 0
        assert mask.any()
        header = nibabel.load(out / "good.png.mask.nii.gz").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 2), "a photograph has no scanner"
        for name in ("mask.nii.gz", "mask.mha", "seg.nrrd"):
            labels, _ = read_labels(out / f"good.png.{name}")
            np.testing.assert_array_equal(labels[0] > 0, mask, err_msg=name)
        (segment_of_slicer,) = read_slicer_segmentation(out / "good.png.seg.nrrd").segments
        assert segment_of_slicer.name == "polyp"
        assert "~SCT^41329004^Polyp~" in (segment_of_slicer.terminology or "")
        for place_ in (out / "good.png.labelme.json", out / "annotations.coco.json" / "good.png"):
            painted = painting.read(place_, mask.shape)
            assert painted is not None
            np.testing.assert_array_equal(painted.values > 0, mask)
        categories = json.loads((out / "annotations.coco.json").read_text())["categories"]
        assert [each["name"] for each in categories] == ["polyp"]

    def test_a_coco_file_is_never_of_older_masks(self, segment: Any, good: Path, out: Path) -> None:
        assert segment(good, "--format", "coco", "--foreground", "cluster:0").code == 0
        before = json.loads((out / "annotations.coco.json").read_text())
        assert segment(good, "--force").code == 0
        mask = np.asarray(Image.open(out / "good.png.mask.png")) > 0
        painted = painting.read(out / "annotations.coco.json" / "good.png", mask.shape)
        assert painted is not None
        np.testing.assert_array_equal(painted.values > 0, mask)
        assert json.loads((out / "annotations.coco.json").read_text()) != before

    def test_coco_has_kept_results_too(self, segment: Any, seven: Path, out: Path) -> None:
        assert segment(seven / "a.png").code == 0
        assert segment(seven, "--skip-existing", "--format", "coco").code == 0
        found = json.loads((out / "annotations.coco.json").read_text())
        assert [each["file_name"] for each in found["images"]] == [f"{name}.png" for name in "abcdefg"]

    @pytest.mark.parametrize("formats", ["seg", "png,sc", "sr"])
    def test_results_in_dicom_need_dicom(self, segment: Any, good: Path, study: Path, out: Path, formats: str) -> None:
        outcome = segment(good, study / "us.dcm", "--format", formats)
        assert outcome.code == 5
        (line,) = (line for line in outcome.err.splitlines() if line.startswith("error: "))
        assert "good.png: is not DICOM, so its result cannot be written as " in line
        assert not list(out.glob("good.png*"))
        assert list(out.glob("us.dcm.s?*.dcm"))

    def test_pictures_only(self, segment: Any, nifti: Path, good: Path) -> None:
        segment(nifti, good, "--format", "coco").error(5, "v.nii.gz: is a volume", "choose nifti, nrrd or mha")

    def test_an_unknown_format(self, segment: Any, good: Path) -> None:
        segment(good, "--format", "png,dicom").error(2, "format 'dicom' is unknown; choose among png, nifti")
