"""``evaluate`` with clinical ground truth: images and volumes from files to scores, and what each bad file costs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from volumes import nifti

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.images.dicom import series
from msformer_deploy.images.volumes.read import read_volume
from msformer_deploy.images.volumes.write import write_volume
from msformer_deploy.measures import scores
from msformer_deploy.measures.overlap import overlap
from msformer_deploy.measures.volumes import score_mask
from msformer_deploy.segmenter import Segmenter
from msformer_deploy.volume_segmenter import VolumeSegmenter

pytestmark = pytest.mark.needs("nibabel", "nrrd", "pydicom", "highdicom")
SIDES = (8, 24, 30)
AFFINE = np.array([[-0.7, 0, 0, 9], [0, 0.5, 0, -4], [0, 0, 2.5, 1], [0, 0, 0, 1.0]])


def ball(shift: int = 0) -> np.ndarray:
    """An ellipsoid off the centre with a bar on one side: no turn and no mirror leaves it as it is."""
    slices, rows, columns = np.mgrid[: SIDES[0], : SIDES[1], : SIDES[2]]
    mask = ((slices - 3) / 3) ** 2 + ((rows - 9) / 5) ** 2 + ((columns - 11 - shift) / 7) ** 2 < 1
    mask[2:4, 16:20, 5:9] = True
    return mask


def scan(shift: int = 0) -> np.ndarray:
    noise = np.random.default_rng(shift).normal(0, 20, SIDES)
    return (np.where(ball(shift), 900, 200) + noise).astype(np.int16)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    return images, masks


@pytest.fixture
def evaluate(invoke: Callable[..., Any], tiny_bundle: Bundle, folders: tuple[Path, Path], tmp_path: Path) -> Any:
    def call(*arguments: object) -> tuple[Any, dict[str, Any]]:
        target = tmp_path / "told.json"
        outcome = invoke(
            *("evaluate", "--bundle", tiny_bundle.path, "--images", folders[0], "--masks", folders[1]),
            *("--json", target, "--force", "-q", *arguments),
        )
        return outcome, json.loads(target.read_text()) if target.exists() else {}

    return call


def told(outcome: Any) -> list[str]:
    return [line for line in outcome.err.splitlines() if "MONAI" not in line]


def left_out(names: str, count: int = 1) -> str:
    return (
        f"volumes: {count} ({names}); for images only, left out for volumes: protocol published, protocol"
        " oracle-regions, baseline otsu, baseline kmeans, surface Dice"
    )


def test_a_volume_is_scored_in_three_dimensions(evaluate, folders, tiny_bundle, tmp_path):
    images, masks = folders
    path = nifti(images / "v.nii.gz", scan(), AFFINE)
    volume = read_volume(path)
    # As a tool may store it: with axes in another order, which all have to be turned back.
    turned = np.array([[0, 0, -0.7, 9], [0.5, 0, 0, -4], [0, -2.5, 0, 1 + 7 * 2.5], [0, 0, 0, 1]])
    nifti(masks / "v_seg.nii.gz", np.ascontiguousarray(ball().transpose(2, 0, 1)[:, ::-1]).astype(np.uint8), turned)
    outcome, report = evaluate("--csv", tmp_path / "told.csv", "--markdown", tmp_path / "told.md")
    assert outcome.code == 0, outcome.err
    assert told(outcome) == [left_out("v.nii.gz")]
    result = VolumeSegmenter(Segmenter(tiny_bundle)).segment(volume)
    truth = volume.arrangement.apply(ball())
    expected = score_mask(result.mask, truth, (2.5, 0.5, 0.7), distances=scores.surfaces_missing() is None)
    free, oracle = report["rows"]
    assert [free["protocol"], oracle["protocol"]] == ["label-free", "oracle-cluster"]
    assert [free["dsc"], free["iou"], free["hm"], free["xor"]] == [
        expected.dsc,
        expected.iou,
        expected.hm,
        expected.xor,
    ]
    assert free.get("hd95") == pytest.approx(expected.hd95, rel=1e-6)  # MONAI computes in float32
    assert (free["prediction_pixels"], free["truth_pixels"]) == (result.mask.sum(), ball().sum())
    assert (free["confidence"], free["doubt"]) == (round(result.confidence.value, 3), result.confidence.doubt)
    assert free["unit"] == "mm"
    assert "surface_dice" not in free
    best = max(overlap(result.labels == each, truth).dsc for each in np.unique(result.labels))
    assert oracle["dsc"] == best > free["dsc"] - 1
    assert outcome.out.splitlines()[0].split()[2] == "of"
    assert "volumes (mm)" in outcome.out
    assert [row["unit"] for row in csv.DictReader((tmp_path / "told.csv").open())] == ["mm", "mm"]
    assert "volumes (mm)" in (tmp_path / "told.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("axis", [(), ("--axis", "coronal")], ids=["as stored", "coronal"])
def test_a_series_and_what_run_writes_of_it(evaluate, folders, tiny_bundle, invoke, axis):
    """The mask that ``run`` finds, as ground truth, has a DSC of 1 in every format; several of them are refused."""
    import dicom_files

    images, masks = folders
    dicom_files.series(images / "a" / "b", 8)
    arguments = ("--bundle", tiny_bundle.path, "--output", masks, "--format", "nifti,nrrd,mha,seg,sc,sr,png", "-q")
    assert invoke("run", images, *arguments, "--foreground", "all", *axis).code == 0
    evaluate("--foreground", "all", *axis)[0].error(2, "a second mask of", "keep one of them")
    written = [masks / "a" / f"b.{name}" for name in ("mask.nii.gz", "mask.mha", "seg.nrrd", "seg.dcm")]
    contents = {path: path.read_bytes() for path in written}
    for kept in written:
        for path in written:
            path.unlink(missing_ok=True)
        kept.write_bytes(contents[kept])
        outcome, report = evaluate("--protocol", "label-free", "--baseline", "none", "--foreground", "all", *axis)
        assert outcome.code == 0, outcome.err
        (row,) = report["rows"]
        assert (Path(row["mask"]), row["dsc"]) == (kept, 1)
        assert 0 < row["truth_pixels"] < 8 * dicom_files.ROWS * dicom_files.COLUMNS
        assert report["masks_without_image"] == []
        assert report["passed_over"].keys() <= {
            ".json",
            ".csv",
            ".html",
            "DICOM SR",
            "DICOM overlay of msformer-deploy",
        }
        assert report["settings"]["reading"] == {"window": None, "axis": axis[1] if axis else None}


def test_images_and_volumes_are_apart(evaluate, folders, picture, tmp_path):
    images, masks = folders
    Image.fromarray(picture).save(images / "x.png")
    disc = (picture[..., 0] < 100).astype(np.uint8)
    nifti(masks / "x.png.mask.nii.gz", disc[None], np.eye(4))
    nifti(images / "v.nii.gz", scan(), AFFINE)
    nifti(masks / "v.nii.gz", ball().astype(np.uint8), AFFINE)
    nifti(images / "w.nii.gz", scan(), AFFINE, unit="unknown")
    outcome, report = evaluate("--sheet", tmp_path / "worst.png")
    assert outcome.code == 0, outcome.err
    assert told(outcome) == ["images without a mask: 1 (w.nii.gz)", left_out("v.nii.gz") + ", --sheet"]
    kinds = {(each["method"], each["protocol"], each["unit"]) for each in report["summary"]}
    assert kinds == {
        *(("msformer", each, "px") for each in ("label-free", "published", "oracle-cluster", "oracle-regions")),
        *((each, "label-free", "px") for each in ("otsu", "kmeans")),
        *(("msformer", each, "mm") for each in ("label-free", "oracle-cluster")),
    }
    assert report["images"] == 2
    assert (tmp_path / "worst.png").exists()


def test_classes_are_judged_in_volumes(evaluate, folders):
    images, masks = folders
    nifti(images / "v.nii.gz", scan(), AFFINE)
    nifti(masks / "v.nii.gz", (ball() + 2 * np.roll(ball(), 9, 1)).astype(np.uint8) % 3, AFFINE)
    outcome, report = evaluate("--class", "1", "--class", "2", "--protocol", "label-free")
    assert outcome.code == 0, outcome.err
    assert [row["class"] for row in report["rows"]] == [1, 2]


def test_a_window_decides_what_is_segmented(evaluate, folders):
    images, masks = folders
    nifti(images / "v.nii.gz", scan(), AFFINE)
    nifti(masks / "v.nii.gz", ball().astype(np.uint8), AFFINE)
    found = [evaluate("--window", window, "--protocol", "label-free")[1] for window in ("550,1000", "200,60")]
    assert found[0]["settings"]["reading"]["window"] == [550, 1000]
    assert found[0]["rows"][0]["prediction_pixels"] != found[1]["rows"][0]["prediction_pixels"]
    outcome, _ = evaluate("--window", "lungs")
    outcome.error(2, "window 'lungs' is unknown")


def test_each_bad_file_fails_alone_with_one_line(evaluate, folders):
    import dicom_files
    import nibabel

    images, masks = folders
    truth, other = ball().astype(np.uint8), AFFINE.copy()
    for name in ("good", "shape", "voxels", "origin", "turned", "shades", "floats", "four", "cut", "picture"):
        nifti(images / f"{name}.nii.gz", scan(), AFFINE)
    nifti(masks / "good.nii.gz", truth, AFFINE)
    nifti(masks / "shape.nii.gz", truth[1:], AFFINE)
    nifti(masks / "voxels.nii.gz", truth, AFFINE @ np.diag([1.2, 1, 1, 1]))
    other[2, 3] += 2.5
    nifti(masks / "origin.nii.gz", truth, other)
    angle = np.radians(5)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    nifti(masks / "turned.nii.gz", truth, turn @ AFFINE)
    nifti(masks / "shades.nii.gz", (scan() - scan().min()).astype(np.uint16), AFFINE)
    nifti(masks / "floats.nii.gz", truth * np.float32(0.5), AFFINE)
    nibabel.Nifti1Image(np.ones((*SIDES, 2), np.uint8), np.eye(4)).to_filename(masks / "four.nii.gz")
    nifti(masks / "cut.nii.gz", truth, AFFINE)
    (masks / "cut.nii.gz").write_bytes((masks / "cut.nii.gz").read_bytes()[:-30])
    Image.fromarray(truth[3] * np.uint8(255)).save(masks / "picture.png")
    dicom_files.series(images / "series", 8)
    source = dicom_files.series(
        images.parent / "other", 8, make=lambda number, **more: dicom_files.ct(number + 20, **more)
    )
    seg(masks / "series.seg.dcm", source)
    outcome, report = evaluate("--protocol", "label-free")
    assert outcome.code == 5, outcome.err
    lines = "\n".join(told(outcome)[1:])
    for part in (
        "shape.nii.gz: labels of 30 x 24 x 7 voxels for a volume of 30 x 24 x 8",
        "voxels.nii.gz: labels of 0.84 x 0.5 x 2.5 mm for voxels of 0.7 x 0.5 x 2.5 mm",
        "origin.nii.gz: begins 2.5 mm from the first voxel of the volume",
        "turned.nii.gz: its axes point in other directions",
        "shades.nii.gz: has ",
        "floats.nii.gz: has values that are not whole numbers",
        "four.nii.gz: holds 2 volumes",
        "cut.nii.gz: its compressed data is damaged or cut short",
        "picture.png: is not the ground truth of a volume",
        "series.seg.dcm: references other images",
    ):
        assert part in lines
    assert len(told(outcome)) == 11, outcome.err
    assert {Path(row["image"]).name for row in report["rows"]} == {"good.nii.gz"}
    assert len(report["failed"]) == 10
    assert not any(text in outcome.err for text in ("Müller", "P-4711", "2.25.", "Traceback"))


def seg(path: Path, source: Any) -> Path:
    from msformer_deploy.results.dicom.identity import MadeBy
    from msformer_deploy.results.dicom.segmentation import write_segmentation

    volume = series.read_volume(source.files)
    masks = np.zeros(volume.shape, bool)
    masks[2:5, 3:9, 4:15] = True
    write_segmentation(path, masks, source, ["object"], made_by=MadeBy("msformer", "0" * 64))
    return path


def test_a_missing_extra_fails_what_needs_it(evaluate, folders, picture, monkeypatch):
    from msformer_deploy.machine import extras

    images, masks = folders
    for name in ("x", "y"):
        Image.fromarray(picture).save(images / f"{name}.png")
    Image.fromarray(picture[..., 0] < 100).save(masks / "x.png")
    nifti(masks / "y.nii.gz", (picture[..., 0] < 100).astype(np.uint8)[None], np.diag([-1.0, -1, 1, 1]))
    there = extras.is_installed
    monkeypatch.setattr(extras, "is_installed", lambda each: each != "nibabel" and there(each))
    outcome, report = evaluate("--protocol", "label-free", "--baseline", "none")
    assert outcome.code == 5, outcome.err
    assert told(outcome)[-1].endswith('pip install "msformer-deploy[volumes]"')
    assert len(report["rows"]) == 1
    assert BackendUnavailable.exit_code == 4


def test_slices_that_are_volumes_already_are_not_joined(invoke, folders, tmp_path, tiny_bundle):
    images, masks = folders
    nifti(images / "v.nii.gz", scan(), AFFINE)
    nifti(masks / "v.nii.gz", ball().astype(np.uint8), AFFINE)
    arguments = ("evaluate", "--bundle", tiny_bundle.path, "--images", images, "--masks", masks)
    invoke(*arguments, "--volumes").error(2, "--volumes joins slices, but there are volumes already: 1 (v.nii.gz)")
    invoke(*arguments, "--protocol", "published").error(2, "volumes are not judged by the protocol published")


def test_two_masks_of_a_series_are_refused(evaluate, folders):
    import dicom_files

    images, masks = folders
    source = dicom_files.series(images / "b", 8)
    (masks / "b").mkdir()
    for name in ("1.dcm", "2.dcm"):
        seg(masks / "b" / name, source)
    outcome, _ = evaluate()
    outcome.error(2, "a second mask of", "keep one of them")


def test_the_voxels_of_a_volume_without_distances_are_the_unit(evaluate, folders):
    images, masks = folders
    header = "ObjectType = Image\nNDims = 3\nDimSize = 30 24 8\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (images / "v.mha").write_bytes(header.encode() + scan().tobytes())
    write_volume(masks / "v.mha", ball(), read_volume(images / "v.mha"), form="mha")
    outcome, report = evaluate("--protocol", "label-free")
    assert outcome.code == 0, outcome.err
    assert report["rows"][0]["unit"] == "voxels"
    assert "volumes (voxels)" in outcome.out
