"""``evaluate``: what is told and written, and what each bad image, mask or option costs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.bundle.folder import MANIFEST, Bundle, sha256
from msformer_deploy.commands import evaluate as command
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.evaluation import BASELINES, PROTOCOLS
from msformer_deploy.evaluation.sheet import ContactSheet
from msformer_deploy.measures import scores
from msformer_deploy.measures.overlap import overlap
from msformer_deploy.results.annotations import CocoFile, shapes_of, write_labelme
from msformer_deploy.segmenter import Segmenter

ROWS, COLUMNS = np.mgrid[:60, :80]
DISC = (ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 15**2


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """The disc that is on all three images, under the names of two of them."""
    for name in ("a", "c"):
        save(tmp_path / "masks" / f"{name}.png", DISC)
    return tmp_path / "masks"


@pytest.fixture
def evaluate(invoke: Callable[..., Any], tiny_bundle: Bundle, images: Path, masks: Path, tmp_path: Path) -> Any:
    """Call ``evaluate`` with the small bundle; what is written to JSON comes with the outcome."""

    def call(*arguments: object) -> tuple[Any, dict[str, Any]]:
        target = tmp_path / "told.json"
        outcome = invoke(
            "evaluate", "--bundle", tiny_bundle.path, "--images", images, "--masks", masks, "--json", target, "--force",
            *arguments,
        )  # fmt: skip
        return outcome, json.loads(target.read_text()) if target.exists() else {}

    return call


def told(outcome: Any) -> list[str]:
    return [line for line in outcome.err.splitlines() if "MONAI" not in line]


def test_everything_is_judged_and_written(evaluate, tiny_bundle, images, tmp_path):
    files = {kind: tmp_path / f"told.{kind}" for kind in ("csv", "markdown", "png")}
    outcome, report = evaluate(
        *("--csv", files["csv"], "--markdown", files["markdown"], "--sheet", files["png"], "--threads", 2)
    )
    assert outcome.code == 0, outcome.err
    assert told(outcome) == ["images without a mask: 1 (b.jpg)"]
    kinds = [("msformer", protocol) for protocol in PROTOCOLS] + [(name, "label-free") for name in BASELINES]
    assert [(each["method"], each["protocol"]) for each in report["summary"]] == kinds
    lines = outcome.out.splitlines()
    assert [tuple(line.split()[:2]) for line in lines[1:7]] == kinds
    assert len(report["rows"]) == 2 * len(kinds)
    by_kind = {(row["method"], row["protocol"]): row for row in report["rows"] if row["image"].endswith("a.png")}
    result = Segmenter(tiny_bundle).segment(images / "a.png")
    assert by_kind["msformer", "label-free"]["dsc"] == overlap(result.mask, DISC).dsc
    told_of = {key: (row["confidence"], row["doubt"]) for key, row in by_kind.items()}
    assert told_of.pop(("msformer", "label-free")) == (round(result.confidence.value, 3), result.confidence.doubt)
    assert set(told_of.values()) == {(None, None)}, "of masks that run does not write"
    assert by_kind["msformer", "oracle-regions"]["iou"] >= by_kind["msformer", "oracle-cluster"]["iou"]
    assert by_kind["otsu", "label-free"]["dsc"] > 0.9
    assert by_kind["kmeans", "label-free"]["dsc"] > 0.9
    assert by_kind["otsu", "label-free"]["seed"] is None
    assert by_kind["msformer", "published"]["truth_pixels"] > 10 * DISC.sum(), "at 257 x 257"
    assert report["settings"]["seeds"] == [tiny_bundle.seed]
    assert report["environment"]["bundles"].keys() == {str(tiny_bundle.path)}
    assert report["images_without_mask"] == [str(images / "b.jpg")]
    assert (report["failed"], report["masks_without_image"]) == ([], [])
    with files["csv"].open() as file:
        assert [float(line["dsc"]) for line in csv.DictReader(file)] == [row["dsc"] for row in report["rows"]]
    assert files["markdown"].read_text().count("\n| msformer ") == 4
    assert Image.open(files["png"]).width > 1000
    assert set(tmp_path.iterdir()) == {images, tmp_path / "masks", tmp_path / "told.json", *files.values()}


def test_a_coco_file_is_as_good_as_mask_files(evaluate, images, tmp_path):
    chosen = ("--protocol", "label-free", "--baseline", "otsu")
    _, expected = evaluate(*chosen)
    file = CocoFile({1: "object"})
    for name in ("a.png", "more/c.tif"):
        file.add(name, (80, 60), shapes_of(DISC, None, {1: "object"}))
    file.add("elsewhere.png", (80, 60), [])
    file.write(tmp_path / "coco.json")
    outcome, report = evaluate(*chosen, "--masks", tmp_path / "coco.json")
    assert outcome.code == 0, outcome.err
    assert [row["dsc"] for row in report["rows"]] == [row["dsc"] for row in expected["rows"]]
    assert report["rows"][0]["mask"] == str(tmp_path / "coco.json" / "a.png")
    assert report["masks_without_image"] == [str(tmp_path / "coco.json" / "elsewhere.png")]
    _, report = evaluate(*chosen, "--masks", tmp_path / "coco.json", "--class", 1)
    assert [row["dsc"] for row in report["rows"]] == [row["dsc"] for row in expected["rows"]]


def test_a_bad_annotation_fails_its_image_alone(evaluate, images, tmp_path):
    (tmp_path / "drawn").mkdir()
    for name, size in (("a", 80), ("c", 90)):
        write_labelme(
            tmp_path / "drawn" / f"{name}.json", images / "a.png", (size, 60), shapes_of(DISC, None, {1: "x"})
        )
    outcome, report = evaluate("--masks", tmp_path / "drawn", "--protocol", "label-free", "--baseline", "none")
    assert outcome.code == 5
    assert f"{tmp_path / 'drawn' / 'c.json'}: was annotated at 90 x 60, but the image has 80 x 60" in outcome.err
    assert len(report["rows"]) == 1


def test_a_file_that_is_no_coco_file_is_refused(evaluate, tmp_path):
    (tmp_path / "coco.json").write_text('{"images": []}')
    outcome, _ = evaluate("--masks", tmp_path / "coco.json")
    outcome.error(2, "coco.json: is not a COCO file (Object missing required field `annotations`)")


def test_without_files_the_table_is_enough(invoke, tiny_bundle, images, masks):
    outcome = invoke("evaluate", "--bundle", tiny_bundle.path, "--images", images, "--masks", masks, "-q")
    assert outcome.code == 0
    segmenter = Segmenter(tiny_bundle)
    judged = [segmenter.segment(images / name) for name in ("a.png", "more/c.tif")]
    doubted = sum(result.confidence.doubt is not None for result in judged)
    assert len(outcome.out.splitlines()) == 1 + len(PROTOCOLS) + len(BASELINES) + (doubted > 0)
    assert (f"\nmsformer label-free: {doubted} mask" in outcome.out) == (doubted > 0)


def test_protocols_and_baselines_are_chosen(evaluate):
    _, report = evaluate("--protocol", "published", "--protocol", "label-free", "--baseline", "kmeans", "--limit", "1")
    assert [(each["method"], each["protocol"], each["images"]) for each in report["summary"]] == [
        ("msformer", "label-free", 1),
        ("msformer", "published", 1),
        ("kmeans", "label-free", 1),
    ]
    _, report = evaluate("--protocol", "published", "--baseline", "none")
    assert len(report["summary"]) == 1


def test_a_preset_and_a_foreground_rule_are_used(evaluate, tiny_bundle, images):
    _, report = evaluate("--preset", "initial", "--foreground", "largest", "--limit", "1")
    assert report["settings"] | {"preset": "initial", "foreground": "largest"} == report["settings"]
    assert report["settings"]["refinement"]["steps"] == 0


def test_seeds_are_bundles_and_baselines_are_judged_once(invoke, tiny_bundle, images, masks, tmp_path, monkeypatch):
    from dataclasses import replace

    asked = []

    def open_bundle(*given: Any, suffices: Callable[[Bundle], bool]) -> Bundle:
        asked.append(given)
        assert suffices(tiny_bundle)
        return replace(tiny_bundle, manifest={**tiny_bundle.manifest, "seed": given[3]})

    monkeypatch.setattr(command, "open_bundle", open_bundle)
    target = tmp_path / "x.json"
    call = ("evaluate", "--images", images, "--masks", masks, "--seeds", "3", "-q", "--json", target)
    assert invoke(*call).code == 0
    assert asked == [(None, None, True, seed, None) for seed in range(3)]
    report = json.loads(target.read_text())
    ours, otsu = report["summary"][0], report["summary"][4]
    assert (ours["images"], ours["results"], ours["seeds"]) == (2, 6, [0, 1, 2])
    assert (otsu["images"], otsu["results"], otsu["seeds"]) == (2, 2, [])
    assert ours["seed_means"].keys() == {"0", "1", "2"}


def test_a_bundle_may_be_gone_at_the_end(invoke, tiny_bundle, images, masks, tmp_path, monkeypatch):
    bundle = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")

    class Last(Segmenter):
        def segment(self, image: Any) -> Any:
            shutil.rmtree(bundle, ignore_errors=True)
            return super().segment(image)

    monkeypatch.setattr("msformer_deploy.segmenter.Segmenter", Last)
    target = tmp_path / "told.json"
    outcome = invoke("evaluate", "--bundle", bundle, "--images", images, "--masks", masks, "--json", target)
    assert outcome.code == 0, outcome.err
    report = json.loads(target.read_text())
    assert len(report["rows"]) == 2 * (len(PROTOCOLS) + len(BASELINES))
    assert report["environment"]["bundles"] == {str(bundle): sha256(tiny_bundle.file(MANIFEST))}


def test_the_seeds_of_a_system(invoke, tiny_s3_bundle, images, masks, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "open_bundle", lambda *given, suffices: asked.append(given) or tiny_s3_bundle)
    call = ("evaluate", "--images", images, "--masks", masks, "--seeds", "2", "-q", "--system", "s3net")
    assert invoke(*call, "--baseline", "none", "--protocol", "label-free").code == 0
    assert asked == [(None, None, True, seed, "s3net") for seed in range(2)]


def test_a_bundle_of_s3net_is_judged_under_its_name(invoke, tiny_s3_bundle, images, masks, tmp_path):
    target = tmp_path / "told.json"
    call = ("evaluate", "--bundle", tiny_s3_bundle.path, "--images", images, "--masks", masks, "-q", "--json", target)
    outcome = invoke(*call, "--system", "s3net")
    assert outcome.code == 0, outcome.err
    report = json.loads(target.read_text())
    kinds = [("s3net", protocol) for protocol in PROTOCOLS] + [(name, "label-free") for name in BASELINES]
    assert [(each["method"], each["protocol"]) for each in report["summary"]] == kinds
    by_kind = {(row["method"], row["protocol"]): row for row in report["rows"] if row["image"].endswith("a.png")}
    result = Segmenter(tiny_s3_bundle).segment(images / "a.png")
    assert by_kind["s3net", "label-free"]["dsc"] == overlap(result.mask, DISC).dsc


def test_a_bundle_of_another_system_is_one_line(invoke, tiny_s3_bundle, tiny_bundle, images, masks, monkeypatch):
    monkeypatch.setattr(scores, "surfaces_missing", lambda: None)
    save(masks / "b.png", DISC)
    for made, named in ((tiny_s3_bundle, "msformer"), (tiny_bundle, "s3net")):
        call = ("evaluate", "--bundle", made.path, "--images", images, "--masks", masks, "--system", named)
        invoke(*call).error(2, f"{made.path}: this bundle is of system {made.system}, not {named}", "drop --system")


def test_classes_are_truths_of_their_own(evaluate, masks):
    ids = DISC.astype(np.uint8)
    ids[:10] = 2
    for name in ("a", "c"):
        save(masks / f"{name}.png", ids)
    outcome, report = evaluate("--class", "1", "--class", "2", "--class", "9", "--protocol", "label-free")
    assert outcome.code == 0
    assert [(each["method"], each["class"]) for each in report["summary"]] == [
        (method, class_id) for class_id in (1, 2, 9) for method in ("msformer", *BASELINES)
    ]
    assert "no mask contains class 9" in told(outcome)
    truths = {row["class"]: row["truth_pixels"] for row in report["rows"]}
    assert truths == {1: (ids == 1).sum(), 2: (ids == 2).sum(), 9: 0}


def test_without_monai_two_columns_are_missing_and_one_line_says_so(evaluate, monkeypatch):
    monkeypatch.setattr(scores, "surfaces_missing", lambda: "install msformer-deploy[evaluate]")
    outcome, report = evaluate()
    assert outcome.code == 0
    assert outcome.err.splitlines().count("install msformer-deploy[evaluate]") == 1
    assert "HD95" not in outcome.out
    assert {"hd95", "surface_dice"}.isdisjoint(report["rows"][0])
    assert report["settings"] | {"tolerance": None, "monai": None} == report["settings"]


def test_with_monai_surfaces_are_judged_with_the_tolerance(evaluate):
    pytest.importorskip("monai.metrics")
    dice = []
    for tolerance in (0, 30):
        outcome, report = evaluate("--tolerance", tolerance)
        assert "HD95 px" in outcome.out
        dice.append([row["surface_dice"] for row in report["rows"] if row["method"] == "otsu"])
        assert report["settings"]["tolerance"] == tolerance
    assert sum(dice[0]) < sum(dice[1])
    assert dice[1] == [1.0, 1.0]


class TestBadMasks:
    """One mask is odd; the other one is the disc."""

    def test_another_size_of_the_same_proportions(self, evaluate, masks):
        save(masks / "c.png", DISC.repeat(2, axis=0).repeat(2, axis=1))
        outcome, report = evaluate()
        assert outcome.code == 0
        assert "masks of another size than the image, resized by nearest neighbour: 1 (c.png)" in told(outcome)
        assert len({row["truth_pixels"] for row in report["rows"] if row["protocol"] != "published"}) == 1

    @pytest.mark.parametrize(
        ("pixels", "part"),
        [
            (DISC.T.copy(), "a mask of 60 x 80 for an image of 80 x 60; give one of the image's shape"),
            (np.dstack([DISC.astype(np.uint8)] * 3 + [DISC * np.uint8(255)]), "a mask with transparency"),
            (None, "not a PNG, JPEG"),
        ],
        ids=["shape", "transparency", "damaged"],
    )
    def test_one_that_is_refused_fails_alone(self, evaluate, masks, images, pixels, part):
        save(masks / "c.png", DISC) if pixels is None else save(masks / "c.png", pixels)
        if pixels is None:
            (masks / "c.png").write_bytes(b"no picture")
        outcome, report = evaluate()
        assert outcome.code == 5
        (line,) = [line for line in told(outcome) if line.startswith("error: ")]
        assert part in line
        assert report["failed"] == [{"image": str(images / "more" / "c.tif"), "reason": line.removeprefix("error: ")}]
        assert {row["image"] for row in report["rows"]} == {str(images / "a.png")}

    def test_an_inverted_one_is_warned_of_and_not_turned(self, evaluate, masks):
        save(masks / "c.png", ~DISC)
        outcome, report = evaluate()
        assert outcome.code == 0
        (line,) = [line for line in told(outcome) if "inverted" in line]
        assert line.startswith("c.png: the mask covers more than half of the image and most of its rim")
        assert [each["mask"] for each in report["warnings"]] == [str(masks / "c.png")]
        assert (~DISC).sum() in {row["truth_pixels"] for row in report["rows"]}

    def test_a_soft_one_is_cut(self, evaluate, masks):
        (masks / "c.png").unlink()
        save(masks / "c.jpg", DISC * np.uint8(255), quality=40)
        outcome, report = evaluate()
        assert outcome.code == 0
        assert "masks with soft values, the brighter half of the range taken for inside: 1 (c.jpg)" in told(outcome)
        sizes = {row["truth_pixels"] for row in report["rows"] if row["mask"].endswith("c.jpg")}
        assert min(sizes) == pytest.approx(DISC.sum(), rel=0.02)
        assert evaluate("--class", "1")[0].code == 5

    def test_one_in_colours(self, evaluate, masks):
        save(masks / "c.png", np.where(DISC[..., None], np.uint8((250, 0, 0)), np.uint8(0)))
        outcome, report = evaluate()
        assert outcome.code == 0
        assert "masks in colours, all but black taken for inside: 1 (c.png)" in told(outcome)
        assert report["notes"][0]["told"] == ["in colours, all but black taken for inside"]

    def test_an_empty_one_is_counted_and_flatters_nobody(self, evaluate, masks):
        save(masks / "c.png", DISC & False)
        outcome, report = evaluate()
        assert outcome.code == 0
        by_kind = {(each["method"], each["protocol"]): each for each in report["summary"]}
        otsu, published = by_kind["otsu", "label-free"], by_kind["msformer", "published"]
        assert (otsu["empty_truths"], otsu["both_empty"], otsu["dsc"]["left_out"]) == (1, 0, 0)
        assert otsu["dsc"]["worst"] == 0
        assert (published["empty_truths"], published["both_empty"], published["dsc"]["left_out"]) == (0, 1, 1)
        assert "otsu label-free: 1 truth empty (DSC 0 each, HD95 not defined)" in outcome.out
        assert "msformer published: 1 both empty (no score, in no mean)" in outcome.out
        assert None in {row["dsc"] for row in report["rows"]}

    def test_one_that_covers_everything(self, evaluate, masks):
        save(masks / "c.png", DISC | True)
        outcome, report = evaluate()
        assert outcome.code == 0
        assert "c.png: the mask covers the whole image" in told(outcome)
        oracle = [
            row for row in report["rows"] if row["protocol"] == "oracle-regions" and row["mask"].endswith("c.png")
        ]
        assert oracle[0]["dsc"] == 1

    def test_one_too_many_is_listed(self, evaluate, masks):
        for index in range(7):
            save(masks / f"z{index}.png", DISC)
        outcome, report = evaluate()
        assert outcome.code == 0
        assert "masks without an image: 7 (z0.png, z1.png, z2.png, z3.png, z4.png, ...)" in told(outcome)
        assert len(report["masks_without_image"]) == 7


class TestBadImages:
    def test_one_that_cannot_be_read_fails_alone(self, evaluate, images, masks):
        (images / "b.jpg").write_text("no picture")
        save(masks / "b.png", DISC)
        outcome, report = evaluate()
        assert outcome.code == 5
        (line,) = told(outcome)
        assert line.startswith(f"error: {images / 'b.jpg'}: not a PNG")
        assert len({row["image"] for row in report["rows"]}) == 2

    def test_one_on_which_segmenting_fails_is_in_no_number(self, evaluate, images, monkeypatch):
        real = Segmenter.segment

        def segment(self: Segmenter, image: Any) -> Any:
            if image.name.endswith("c.tif"):
                raise RuntimeError("the runtime\ngave way")
            return real(self, image)

        monkeypatch.setattr(Segmenter, "segment", segment)
        outcome, report = evaluate()
        assert outcome.code == 5
        assert "c.tif: segmenting failed, RuntimeError: the runtime gave way; MSFORMER_DEPLOY_DEBUG=1" in outcome.err
        assert len({row["image"] for row in report["rows"]}) == 1

    def test_one_on_which_a_later_seed_fails_is_in_no_number(
        self, invoke, tiny_bundle, images, masks, tmp_path, monkeypatch
    ):
        real, seen = Segmenter.segment, []

        def segment(self: Segmenter, image: Any) -> Any:
            seen.append(image.name)
            return real(self, image) if len(seen) != 4 else 1 / 0

        monkeypatch.setattr(Segmenter, "segment", segment)
        monkeypatch.setattr(command, "open_bundle", lambda *_, suffices: tiny_bundle)
        target = tmp_path / "x.json"
        call = (
            "evaluate",
            "--images",
            images,
            "--masks",
            masks,
            "--seeds",
            "2",
            "--baseline",
            "none",
            "--json",
            target,
            "--sheet",
            tmp_path / "x.png",
        )
        shown: list[str] = []
        monkeypatch.setattr(ContactSheet, "write", lambda sheet, _: shown.extend(sheet._worst))
        assert invoke(*call).code == 5
        report = json.loads(target.read_text())
        assert {row["image"] for row in report["rows"]} == {str(images / "a.png")}
        assert shown == [str(images / "a.png")]
        assert report["summary"][0]["results"] == 2

    def test_none_left_is_an_error_and_nothing_is_written(self, evaluate, images, tmp_path):
        for name in ("a.png", "more/c.tif"):
            (images / name).write_text("no picture")
        outcome, report = evaluate()
        assert outcome.code == 1
        assert told(outcome)[-1] == "error: none of the 2 images could be judged; nothing is written"
        assert report == {}

    def test_failing_on_and_on_ends_it(self, evaluate, images, masks, monkeypatch):
        for index in range(8):
            save(images / f"x{index}.png", np.asarray(Image.open(images / "a.png")))
            save(masks / f"x{index}.png", DISC)
        monkeypatch.setattr(Segmenter, "segment", lambda *_: 1 / 0)
        outcome, report = evaluate()
        assert outcome.code == 1
        assert len(told(outcome)) == 1 + 3 + 1
        assert "3 times in a row, so evaluate stopped" in told(outcome)[-1]
        assert report == {}

    def test_an_interruption_leaves_nothing(self, evaluate, monkeypatch):
        def stop(*_: Any) -> None:
            raise RuntimeError("a library gave way") from KeyboardInterrupt()

        monkeypatch.setattr(Segmenter, "segment", stop)
        outcome, report = evaluate()
        assert (outcome.code, report) == (130, {})


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--seeds", "2"], ["drop --bundle"]),
        (["--seeds", "0"], ["--seeds"]),
        (["--protocol", "dice"], ["--protocol", "'dice'"]),
        (["--baseline", "none", "--baseline", "otsu"], ["--baseline none excludes all other baselines"]),
        (["--class", "-1"], ["--class"]),
        (["--tolerance", "-1"], ["--tolerance"]),
        (["--tolerance", "nan"], ["--tolerance"]),
        (["--limit", "0"], ["--limit"]),
        (["--backend", "tensorflow"], ["backend 'tensorflow' is unknown"]),
        (["--foreground", "best"], ["foreground 'best' is unknown"]),
        (["--sheet", "x.jpg"], ["x.jpg: --sheet must end in .png"]),
        (["--sheet", "x.png", "--protocol", "published"], ["--sheet shows label-free masks"]),
        (["--csv", "here.csv"], ["here.csv: exists already; pass --force"]),
        (["--csv", "x", "--json", "x"], ["x: two options name this file"]),
        (["--markdown", "nowhere/x.md"], ["its folder does not exist"]),
        (["--masks", "EMPTY"], ["no mask has the name of an image"]),
        (["--masks", "nowhere"], ["nowhere: no such folder"]),
        (["--images", "EMPTY"], ["no images"]),
        (["--preset", "paper"], ["preset 'paper' needs a bundle of side 257"]),
        (["--device", "gpu"], ["device 'gpu'"]),
    ],
    ids=" ".join,
)
def test_a_slip_is_one_line_before_anything_is_judged(
    invoke, tiny_bundle, images, masks, tmp_path, monkeypatch, arguments, parts
):
    save(masks / "b.png", DISC)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "here.csv").touch()
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(Segmenter, "segment", lambda *_: pytest.fail("judged"))
    monkeypatch.setattr(scores, "surfaces_missing", lambda: None)
    given = ["empty" if each == "EMPTY" else each for each in arguments]
    call = ("evaluate", "--bundle", tiny_bundle.path, "--images", images, "--masks", masks, *given)
    invoke(*call).error(2, *parts)
    assert set(tmp_path.iterdir()) == before


def test_a_backend_that_is_not_there_is_one_line(evaluate):
    outcome, report = evaluate("--backend", "tensorrt", "-q")
    assert outcome.code == BackendUnavailable.exit_code
    assert [line.startswith("error: ") for line in told(outcome)] == [False, True]
    assert report == {}


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        ("--precision fp16", 2, ["--update --precision fp16"]),
        ("--backend openvino --device cuda", 4, ["device cuda", "was asked for, but backend openvino runs on the CPU"]),
    ],
)
def test_precision_and_device_are_what_is_executed(evaluate, options, code, parts):
    outcome, report = evaluate(*options.split(), "-q")
    assert outcome.code == code
    assert all(part in told(outcome)[-1] for part in parts)
    assert report == {}


def test_a_file_that_cannot_be_written_is_one_line_after_the_table(evaluate, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("msformer_deploy.files.write_text", full)
    outcome, _ = evaluate()
    assert outcome.code == 1
    assert "told.json: cannot be written (No space left on device)" in told(outcome)[-1]
    assert "msformer" in outcome.out
