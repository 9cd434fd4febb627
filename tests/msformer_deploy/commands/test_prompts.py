"""Prompts on the command line: what they do to masks and records, and what each bad one costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dicom_files
import numpy as np
import pytest
import volumes
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.evaluation import PROMPTS
from msformer_deploy.measures.overlap import overlap


@pytest.fixture
def run(invoke: Callable[..., Any], tiny_bundle: Bundle, tmp_path: Path) -> Callable[..., Any]:
    return lambda *arguments: invoke("run", "--bundle", tiny_bundle.path, "--output", tmp_path / "out", *arguments)


def mask_of(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "out" / f"{name}.mask.png")) > 0


def test_points_and_boxes_are_obeyed_and_recorded(run, images, tmp_path):
    shown = ("--point", "30,20", "--point", "45,30,0", "--box", "20,10,60,50")
    assert run(images / "a.png", *shown).code == 0
    mask = mask_of(tmp_path, "a.png")
    assert mask[20, 30]
    assert not mask[30, 45]
    mask[10:51, 20:61] = False
    assert not mask.any()
    record = json.loads((tmp_path / "out" / "a.png.json").read_text())
    assert record["prompts"] == {"points": [[30, 20, 1], [45, 30, 0]], "boxes": [[20, 10, 60, 50]]}


def test_strokes_are_obeyed(run, images, tmp_path):
    strokes = np.zeros((60, 80, 3), np.uint8)
    strokes[5, 5:30] = 0, 255, 0
    strokes[30, 40:50] = 255, 0, 0
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    assert run(images / "a.png", "--scribbles", tmp_path / "strokes.png").code == 0
    mask = mask_of(tmp_path, "a.png")
    assert mask[5, 5:30].all()
    assert not mask[30, 40:50].any()


def test_a_file_has_the_prompts_of_a_folder_and_one_that_does_not_fit_fails_alone(run, images, tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"a.png": {"points": [[2, 3]]}, "b.jpg": {"points": [[800, 3]]}}))
    outcome = run(images, "--prompts", file)
    assert outcome.code == 5
    assert "b.jpg: point 800,3 is not in the image of 80 x 60 pixels" in outcome.err
    assert mask_of(tmp_path, "a.png")[3, 2]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert ["prompts" in each for each in report["images"]] == [True, False, False]


def test_results_without_these_prompts_are_not_kept_for_such(run, images, tmp_path):
    one = images / "a.png"
    assert run(one).code == 0
    refused = run(one, "--point", "3,3", "--skip-existing")
    assert refused.code == 5
    assert "its results have no prompts like these" in refused.err
    assert run(one, "--point", "3,3", "--force").code == 0
    assert run(one, "--point", "3,3", "--skip-existing").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--point", "3"], "point '3' is not X,Y or X,Y,0 or X,Y,1"),
        (["--box", "3,4,5"], "box '3,4,5' is not X0,Y0,X1,Y1"),
        (["--point", "3,4"], "are for one image, and there are 3; name one image, or pass --prompts FILE"),
        (["--prompts", "none.json"], "none.json: cannot be read"),
        (["--prompts", "none.json", "--point", "3,4"], "--prompts has the prompts of all images"),
        (["--scribbles", "none.png"], "none.png"),
    ],
)
def test_prompts_that_cannot_be_read_are_one_line_before_anything_is_made(run, images, tmp_path, arguments, said):
    outcome = run(images, *arguments)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()[-1:]
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_rule_that_takes_no_prompts_refuses_them(run, images, tmp_path):
    outcome = run(images / "a.png", "--point", "3,4", "--foreground", "largest")
    assert outcome.code == 2
    assert "foreground largest takes no prompts; choose auto or candidate:N" in outcome.err


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A NIfTI file of 5 slices, 40 rows and 50 columns, whose affine is not the identity: X falls along the columns."""
    rng = np.random.default_rng(0)
    voxels = 100 * np.add.outer(np.zeros(5), np.outer(np.arange(40) > 20, np.arange(50) > 25)) + rng.normal(
        0, 5, (5, 40, 50)
    )
    affine = np.diag([0.5, 0.5, 2.0, 1.0])  # DICOM's; X and Y of NIfTI are its negatives
    affine[:3, 3] = 1, 2, 3
    (tmp_path / "scans").mkdir()
    return volumes.nifti(tmp_path / "scans" / "v.nii.gz", voxels.astype(np.int16), affine)


def voxels_of(folder: Path) -> np.ndarray:
    """Columns, rows and slices of the mask."""
    import nibabel

    return np.asanyarray(nibabel.load(folder / "out" / "v.nii.gz.mask.nii.gz").dataobj) > 0


def test_prompts_of_a_volume_are_millimetres_of_its_file(run, scan, tmp_path):
    shown = (
        "--point",
        "-6,-7,7",
        "--point",
        "-16,-12.1,6.9,0",
        "--box",
        "-4,-3,5,-21,-17,9",
    )  # column 10, row 10, slice 2
    assert run(scan, *shown).code == 0
    mask = voxels_of(tmp_path)
    assert mask[10, 10, 2]
    assert not mask[30, 20, 2]
    mask[6:41, 2:31, 1:4] = False
    assert not mask.any()
    record = json.loads((tmp_path / "out" / "v.nii.gz.json").read_text())
    expected = {"points": [[-6, -7, 7, 1], [-16, -12.1, 6.9, 0]], "boxes": [[-4, -3, 5, -21, -17, 9]]}
    assert record["prompts"] == expected
    assert run(scan, *shown, "--skip-existing").code == 0
    refused = run(scan, *shown[:2], "--skip-existing")
    assert refused.code == 5
    assert "its results have no prompts like these" in refused.err


def test_a_file_of_prompts_has_images_and_volumes(run, scan, images, tmp_path):
    scan.rename(images / scan.name)
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"a.png": {"points": [[2, 3]]}, "v.nii.gz": {"points": [[-6, -7, 700]]}}))
    outcome = run(images, "--prompts", file)
    assert outcome.code == 5
    (line,) = [each for each in outcome.err.splitlines() if "v.nii.gz" in each]
    assert (
        "point -6,-7,700 is not in the volume, which in millimetres has X from -25.75 to -0.75 (to the right)" in line
    )
    assert mask_of(tmp_path, "a.png")[3, 2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--point", "3,4"], "point '3,4' of a volume is not X,Y,Z or X,Y,Z,0 or X,Y,Z,1 in millimetres"),
        (["--box", "1,2,3,4"], "box '1,2,3,4' of a volume is not X0,Y0,Z0,X1,Y1,Z1 in millimetres"),
        (["--scribbles", "s.png"], "v.nii.gz: is a volume, and --scribbles is for images; drop it"),
        (["--point", "-6,-7,7", "--foreground", "all"], "foreground all takes no prompts; choose auto or candidate:N"),
    ],
)
def test_prompts_that_no_volume_takes_are_one_line(run, scan, arguments, said):
    outcome = run(scan, *arguments)
    assert outcome.code == 2
    assert said in outcome.err.splitlines()[-1]


def test_frames_in_time_take_no_prompts(run, tmp_path):
    path = dicom_files.write(tmp_path / "loop.dcm", dicom_files.us_frames())
    outcome = run(path, "--point", "1,1,1")
    assert outcome.code == 5
    assert "loop.dcm: its slices are frames in time, or their places are not known, so it takes no" in outcome.err


@pytest.mark.parametrize("prompt", PROMPTS)
def test_evaluate_draws_prompts_from_the_truth(invoke, tiny_bundle, images, tmp_path, prompt):
    truth, target = np.zeros((60, 80), bool), tmp_path / "told.json"
    truth[20:40, 25:55] = True
    (tmp_path / "masks").mkdir()
    Image.fromarray(truth).save(tmp_path / "masks" / "a.png")
    outcome = invoke(
        "evaluate", "--bundle", tiny_bundle.path, "--images", images, "--masks", tmp_path / "masks", "--json", target,
        "--prompt", prompt, "--protocol", "label-free", "--baseline", "none",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    report = json.loads(target.read_text())
    assert report["settings"]["prompt"] == prompt
    (score,) = report["rows"]
    assert score["protocol"] == "label-free"
    from msformer_deploy import Box, Point, Prompts, Segmenter

    shown = {"none": None, "click": Prompts([Point(35, 29)]), "box": Prompts(box=Box(25, 20, 54, 39))}
    if prompt in shown:
        mask = Segmenter(tiny_bundle).segment(images / "a.png", prompts=shown[prompt]).mask
        assert score["dsc"] == pytest.approx(overlap(mask, truth).dsc, abs=0.02)
