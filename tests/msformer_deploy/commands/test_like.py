"""Corrected images on the command line: what they do to others, where the head goes, and what each bad one costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.bundle.folder import LEARNED_HEAD, Bundle
from msformer_deploy.refinement import head_file


@pytest.fixture
def truth() -> np.ndarray:
    found = np.zeros((60, 80), bool)
    found[20:40, 25:55] = True
    return found


@pytest.fixture
def corrected(tmp_path: Path, truth: np.ndarray) -> Path:
    """Corrected masks of two of the three images."""
    folder = tmp_path / "corrected"
    folder.mkdir()
    Image.fromarray(truth).save(folder / "a.png")
    Image.fromarray(truth[::-1]).save(folder / "b_mask.png")
    return folder


@pytest.fixture
def run(invoke: Callable[..., Any], tiny_bundle: Bundle, tmp_path: Path) -> Callable[..., Any]:
    return lambda *arguments: invoke("run", "--bundle", tiny_bundle.path, "--output", tmp_path / "out", *arguments)


def mask_of(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / f"{name}.mask.png")) > 0


def test_corrected_images_keep_their_masks_and_teach_the_others(
    run: Callable[..., Any], images: Path, corrected: Path, truth: np.ndarray, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    outcome = run(images, "--like", corrected)
    assert outcome.code == 0, outcome.err
    assert "like 2 corrected images" in outcome.out + outcome.err
    out = tmp_path / "out"
    assert np.array_equal(mask_of(out, "a.png"), truth)
    assert np.array_equal(mask_of(out, "b.jpg"), truth[::-1])
    head = head_file.read(out / head_file.FILE)
    assert head.images == 2
    report = json.loads((out / "report.json").read_text())
    assert [each.get("corrected") for each in report["images"]] == [True, True, None]
    told = {"source": head.source, "images": 2, "weight": head.part}
    assert report["settings"]["head"] == told
    again = run(images, "--like", out, "--output", tmp_path / "next")
    assert again.code == 0, again.err
    assert "masks taken as corrected: 2" in again.err, "corrections stay corrections in the results of the next run"
    assert head_file.read(tmp_path / "next" / head_file.FILE).source == head.source
    assert all(each["head"] == told for each in report["images"])
    taught = Segmenter(tiny_bundle).like([images / "a.png", images / "b.jpg"], [truth, truth[::-1]])
    assert taught.head is not None
    assert taught.head.source == head.source
    assert np.array_equal(taught.segment(images / "more" / "c.tif").mask, mask_of(out / "more", "c.tif"))
    free = Segmenter(tiny_bundle).segment(images / "more" / "c.tif")
    assert head.part == 0 or not np.array_equal(free.probability, taught.segment(free.image).probability)


def test_results_that_were_corrected_in_place_and_those_alone_are_taken(
    run: Callable[..., Any], images: Path, truth: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(images).code == 0
    nothing = run(images, "--like", out, "--output", tmp_path / "better")
    assert nothing.code == 2
    assert "no mask was changed since run wrote it" in nothing.err.splitlines()[-1]
    Image.fromarray(truth).save(out / "a.png.mask.png")
    refused = run(images, "--like", out, "--force")
    assert refused.code == 2
    assert "results would replace them; choose another --output" in refused.err.splitlines()[-1]
    assert np.array_equal(mask_of(out, "a.png"), truth)
    outcome = run(images, "--like", out, "--output", tmp_path / "better")
    assert outcome.code == 0, outcome.err
    assert "nobody changed, not taken as corrected: 2" in outcome.err
    assert head_file.read(tmp_path / "better" / head_file.FILE).images == 1
    assert np.array_equal(mask_of(tmp_path / "better", "a.png"), truth)


@pytest.mark.parametrize("form", ["png", "nifti", "nrrd", "labelme", "coco"])
def test_drafts_that_nobody_changed_are_no_corrections_in_any_format(
    run: Callable[..., Any], images: Path, truth: np.ndarray, tmp_path: Path, form: str
) -> None:
    """Only what was changed counts, also with the area of the draft, and beside a draft of another format."""
    out, better = tmp_path / "out", tmp_path / "better"
    assert run(images, "--format", form).code == 0
    like = out / "annotations.coco.json" if form == "coco" else out
    untouched = run(images, "--like", like, "--output", better)
    assert untouched.code == 2
    assert "no mask was changed since run wrote it" in untouched.err.splitlines()[-1]
    if form == "labelme":
        file = out / "a.png.labelme.json"
        told = json.loads(file.read_text())
        points = [[25, 20], [55, 20], [55, 40], [25, 40]]
        told["shapes"] = [{"label": "object", "points": points, "shape_type": "polygon", "flags": {}}]
        file.write_text(json.dumps(told))
    elif form == "coco":
        told = json.loads(like.read_text())
        number = next(each["id"] for each in told["images"] if each["file_name"] == "a.png")
        kept = [each for each in told["annotations"] if each["image_id"] != number]
        polygon = [25, 20, 55, 20, 55, 40, 25, 40]
        category = told["categories"][0]["id"]
        told["annotations"] = [
            *kept,
            {"id": 999, "image_id": number, "category_id": category, "segmentation": [polygon]},
        ]
        like.write_text(json.dumps(told))
    else:
        truth = mask_of(out, "a.png")[::-1]
        Image.fromarray(truth).save(out / "a.png.mask.png")
    outcome = run(images, "--like", like, "--output", better)
    assert outcome.code == 0, outcome.err
    assert "masks taken as corrected: 1 (" in outcome.err
    assert np.array_equal(mask_of(better, "a.png"), truth)


@pytest.mark.parametrize("form", ["png", "coco"])
def test_without_a_record_beside_it_a_mask_is_a_correction(
    run: Callable[..., Any], images: Path, truth: np.ndarray, tmp_path: Path, form: str
) -> None:
    out, like = tmp_path / "out", tmp_path / "elsewhere"
    assert run(images, "--format", form).code == 0
    like.mkdir()
    file = "annotations.coco.json" if form == "coco" else "a.png.mask.png"
    if form == "png":
        record = json.loads((out / "a.png.json").read_text())
        del record["foreground"]["mask_sha256"]  # of an earlier version
        (like / "a.png.json").write_text(json.dumps(record))
    shutil.copy(out / file, like / file)
    outcome = run(images, "--like", like / file if form == "coco" else like, "--force")
    assert outcome.code == 0, outcome.err
    assert f"masks taken as corrected: {3 if form == 'coco' else 1} (" in outcome.err


@pytest.mark.parametrize("place", ["annotations.coco.json", "below", "link"])
def test_corrections_in_the_folder_of_results_are_never_replaced(
    run: Callable[..., Any], images: Path, truth: np.ndarray, tmp_path: Path, place: str
) -> None:
    out, like = tmp_path / "out", tmp_path / "out" / place
    assert run(images, "--format", "coco").code == 0
    if place == "below":
        like.mkdir()
        Image.fromarray(truth).save(like / "a.png")
    elif place == "link":
        like = tmp_path / place
        like.mkdir()
        Image.fromarray(truth).save(out / "mine.png")
        (like / "a.png").symlink_to(out / "mine.png")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    refused = run(images, "--like", like, "--force", "--format", "coco")
    assert refused.code == 2
    assert "results would replace them; choose another --output" in refused.err.splitlines()[-1]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_coco_file_and_a_folder_within_the_images(
    run: Callable[..., Any], images: Path, corrected: Path, tmp_path: Path
) -> None:
    """The masks beside or below the images are none of the images."""
    shutil.move(corrected, images / "corrected")
    assert run(images, "--like", images / "corrected", "--format", "coco").code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [Path(each["input"]).name for each in report["images"]] == ["a.png", "b.jpg", "c.tif"]
    shutil.rmtree(images / "corrected")
    file = tmp_path / "annotations.coco.json"
    shutil.move(tmp_path / "out" / file.name, file)
    outcome = run(images, "--like", file, "--force")
    assert outcome.code == 0, outcome.err
    assert "like 3 corrected images" in outcome.out + outcome.err


def test_kept_results_are_those_of_the_same_corrections(
    run: Callable[..., Any], images: Path, corrected: Path, truth: np.ndarray, tmp_path: Path
) -> None:
    assert run(images).code == 0
    without = run(images, "--like", corrected, "--skip-existing")
    assert without.code == 2
    assert "is of a result without corrected images" in without.err.splitlines()[-1]
    assert not (tmp_path / "out" / head_file.FILE).exists()
    assert run(images, "--like", corrected, "--force").code == 0
    again = run(images, "--like", corrected, "--skip-existing")
    assert again.code == 0
    assert "3 skipped" in again.out + again.err
    Image.fromarray(~truth).save(corrected / "a.png")
    other = run(images, "--like", corrected, "--skip-existing")
    assert other.code == 2
    assert "was learned from other corrected images" in other.err.splitlines()[-1]


def empty(folder: Path) -> None:
    Image.fromarray(np.zeros((60, 80), bool)).save(folder / "a.png")


def of_another_shape(folder: Path) -> None:
    Image.fromarray(np.ones((50, 20), bool)).save(folder / "a.png")


def of_another_name(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(folder / f"other-{path.name}")


def no_picture(folder: Path) -> None:
    (folder / "a.png").write_text("no picture")


@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (empty, [], "a.png: the corrected mask is empty; correct it, or remove it from --like"),
        (of_another_shape, [], "a.png: a mask of 20 x 50 for an image of 80 x 60"),
        (of_another_name, [], "no mask has the name of an image"),
        (no_picture, [], "--like: "),
        (shutil.rmtree, [], "no such folder"),
        (lambda _: None, ["--foreground", "largest"], "learn nothing from corrected images; choose auto"),
        (lambda _: None, ["--prompts", "contradiction.json"], "pixel 30,25 is inside the corrected mask, but a prompt"),
    ],
)
def test_what_cannot_teach_is_one_line(
    run: Callable[..., Any],
    images: Path,
    corrected: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], object],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("contradiction.json").write_text(json.dumps({"a.png": {"points": [[30, 25, 0]]}}))
    spoil(corrected)
    outcome = run(images, "--like", corrected, *arguments)
    assert outcome.code == 2
    assert said in outcome.err.splitlines()[-1]
    assert not list(tmp_path.glob("out/*"))


def test_prompts_win_on_an_image_that_was_corrected_too(
    run: Callable[..., Any], images: Path, corrected: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.json").write_text(
        json.dumps({"a.png": {"boxes": [[30, 20, 50, 35]]}, "c.tif": {"points": [[5, 5]]}})
    )
    assert run(images, "--like", corrected, "--prompts", tmp_path / "prompts.json").code == 0
    mask = mask_of(tmp_path / "out", "a.png")
    assert mask.any()
    mask[20:36, 30:51] = False
    assert not mask.any()
    assert mask_of(tmp_path / "out" / "more", "c.tif")[5, 5]


def test_a_bundle_takes_a_head_and_then_runs_with_it(
    run: Callable[..., Any],
    invoke: Callable[..., Any],
    images: Path,
    corrected: Path,
    tiny_bundle: Bundle,
    tmp_path: Path,
) -> None:
    assert run(images, "--like", corrected).code == 0
    bundle, head = tmp_path / "bundle", tmp_path / "out" / head_file.FILE
    shutil.copytree(tiny_bundle.path, bundle)
    assert invoke("export", "--output", bundle, "--head", head).code == 2
    outcome = invoke("export", "--output", bundle, "--update", "--head", head)
    assert outcome.code == 0, outcome.err
    assert (bundle / LEARNED_HEAD).read_bytes() == head.read_bytes()
    assert LEARNED_HEAD in load_bundle(bundle).manifest["files"]
    there = invoke("run", images, "--bundle", bundle, "--output", tmp_path / "there")
    assert there.code == 0
    assert "like 2 corrected images" in there.out + there.err
    assert not (tmp_path / "there" / head_file.FILE).exists()
    name = "c.tif.probability.png"
    assert (tmp_path / "there" / "more" / name).read_bytes() == (tmp_path / "out" / "more" / name).read_bytes()
    volume = tmp_path / "v.mha"
    header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 28 36 3\nElementSpacing = 1 1 1\n"
    voxels = np.random.default_rng(0).integers(0, 99, (3, 36, 28), np.int16)
    volume.write_bytes(f"{header}ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode() + voxels.tobytes())
    of_volume = invoke("run", volume, "--bundle", bundle, "--output", tmp_path / "volume")
    assert of_volume.code == 0, of_volume.err
    assert of_volume.err.count("segmented without what corrected images taught the bundle") == 1
    weight = head_file.read(head).part
    assert f"like        2 corrected images (weight of what they taught: {weight:g})" in invoke("inspect", bundle).out
    assert json.loads(invoke("inspect", bundle, "--json").out)["like"]["images"] == 2
    initial = invoke("export", "--output", bundle, "--update", "--head", bundle / head_file.FILE)
    assert initial.code == 2
    assert "is the initial head of a bundle" in initial.err.splitlines()[-1]
    judge = ("evaluate", "--bundle", bundle, "--images", images, "--masks", corrected, "--baseline", "none")
    judged = invoke(*judge, "--json", tmp_path / "scores.json")
    assert judged.code == 0, judged.err
    assert "label-free of images: with what 2 corrected images taught the bundle" in judged.out
    assert json.loads((tmp_path / "scores.json").read_text())["settings"]["head"]["images"] == 2
    refused = invoke(*judge, "--corrected", 1)
    assert refused.code == 2
    assert "already segments like 2 corrected images" in refused.err.splitlines()[-1]
    (bundle / LEARNED_HEAD).write_bytes(b"\0" * head.stat().st_size)
    damaged = invoke("run", images, "--bundle", bundle, "--output", tmp_path / "damaged")
    assert damaged.code == 1
    assert "damaged, its SHA-256 is not the manifest's" in damaged.err


def test_a_bundle_refuses_the_head_of_another(
    run: Callable[..., Any],
    invoke: Callable[..., Any],
    images: Path,
    corrected: Path,
    tiny_s3_bundle: Bundle,
    tmp_path: Path,
) -> None:
    assert run(images, "--like", corrected).code == 0
    bundle, head = tmp_path / "bundle", tmp_path / "out" / head_file.FILE
    shutil.copytree(tiny_s3_bundle.path, bundle)
    outcome = invoke("export", "--output", bundle, "--update", "--head", head)
    assert outcome.code == 2
    assert "learned with system msformer, and the bundle is of s3net" in outcome.err.splitlines()[-1]
    assert not (bundle / LEARNED_HEAD).exists()


def test_evaluate_judges_what_corrected_images_are_worth(
    invoke: Callable[..., Any], tiny_bundle: Bundle, images: Path, corrected: Path, truth: np.ndarray, tmp_path: Path
) -> None:
    (corrected / "more").mkdir()
    Image.fromarray(truth[:, ::-1]).save(corrected / "more" / "c.png")
    given = ("evaluate", "--bundle", tiny_bundle.path, "--images", images, "--masks", corrected, "--baseline", "none")
    outcome = invoke(*given, "--corrected", 2, "--json", tmp_path / "told.json")
    assert outcome.code == 0, outcome.err
    assert "like 2 corrected images: DSC" in outcome.out
    report = json.loads((tmp_path / "told.json").read_text())
    (two,) = report["corrected"]
    assert [two["corrected"], two["images"], two["draws"]] == [2, 3, 3]
    assert two["difference"]["mean"] == pytest.approx(two["dsc"]["mean"] - two["label_free"]["mean"])
    assert two["label_free"]["mean"] == pytest.approx(report["summary"][0]["dsc"]["mean"], abs=1e-6)
    for arguments, said in (
        (["--corrected", 3], "--corrected 3 leaves no image to judge, for there are 3"),
        (["--corrected", 1, "--prompt", "box"], "drop it, or drop --prompt"),
        (["--corrected", 1, "--foreground", "largest"], "learn nothing from corrected images"),
    ):
        refused = invoke(*given, *arguments)
        assert refused.code == 2
        assert said in refused.err.splitlines()[-1]
