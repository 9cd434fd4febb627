"""Records and reports by themselves; ``run`` is tested with them in commands/test_run.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.bundle.shipped import default_bundle
from msformer_deploy.foreground.candidates import candidates
from msformer_deploy.foreground.confidence import Confidence
from msformer_deploy.foreground.rules import parse_rule
from msformer_deploy.images.inputs import Item
from msformer_deploy.images.masks import sha256_of
from msformer_deploy.images.read import image_from_array
from msformer_deploy.images.space import Spacing
from msformer_deploy.measures.physical import measure
from msformer_deploy.refinement.outcome import Step
from msformer_deploy.registry import Precision, RefineSettings
from msformer_deploy.results import measurements, report
from msformer_deploy.results.formats import Wanted
from msformer_deploy.segmenter import Segmentation, Segmenter


@pytest.fixture(scope="module")
def segmenter(tiny_bundle: Bundle) -> Segmenter:
    return Segmenter(tiny_bundle, seed=3, foreground_rule="cluster:2")


@pytest.fixture
def item(tmp_path: Path) -> Item:
    return Item(tmp_path / "in" / "a.png", Path("sub", "a.png"))


def segmentation(picture: np.ndarray, mask: np.ndarray | bool, **changes: Any) -> Segmentation:
    labels = np.where(np.arange(picture.shape[1]) < 30, 1, 4) * np.ones(picture.shape[:2], np.uint8)
    facts: dict[str, Any] = {
        "network_labels": labels.astype(np.uint8),
        "counts": np.array([0, 500, 0, 0, 589, 0]),
        "trace": [Step(1.25, 6), Step(0.5, 2)],
        "collapsed": False,
        "probability": np.full(picture.shape[:2], 0.25, np.float32),
        "confidence": Confidence(0.87654, 0.4321, 1.0, None),
        "seconds": {"encoder": 0.25, "refine": 0.125},
    }
    return Segmentation(
        image_from_array(picture), labels.astype(np.uint8), np.full(picture.shape[:2], mask), **facts | changes
    )


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Segmenter]:
    """Make what a record needs of a segmenter with a rule; no bundle is opened."""
    monkeypatch.setattr(report, "settings_of", lambda segmenter, *_: {"foreground": str(segmenter.rule)})
    bundle = SimpleNamespace(sizes=SimpleNamespace(clusters=6))
    shared = {"bundle": bundle, "whole_graph": True, "head": None}
    return lambda rule: cast("Segmenter", SimpleNamespace(rule=parse_rule(rule), **shared))


def two_discs(picture: np.ndarray, rule: str, **changes: Any) -> Segmentation:
    """A segmentation with three candidates: two discs, the left one, the right one."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    probability = np.full(picture.shape[:2], 0.02, np.float32)
    probability[np.hypot(rows - 30, columns - 20) < 14] = 0.95
    probability[np.hypot(rows - 30, columns - 60) < 13] = 0.9
    found = candidates(probability, probability)
    assert len(found) == 3
    number = parse_rule(rule).candidate
    mask = np.zeros(picture.shape[:2], bool) if number is None else found[number - 1].mask
    return segmentation(picture, mask, **{"probability": probability, "candidates": found} | changes)


def candidate_files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*candidate*")}


@pytest.mark.parametrize(
    ("rule", "masks"),
    [
        ("auto", ["mask", "candidate-2", "candidate-3"]),
        ("candidate:1", ["mask", "candidate-2", "candidate-3"]),
        ("candidate:3", ["candidate-1", "candidate-2", "mask"]),
        ("largest", ["candidate-1", "candidate-2", "candidate-3"]),
    ],
)
def test_candidates_that_are_not_the_mask_have_files_of_their_own(
    item: Item, picture: np.ndarray, tmp_path: Path, taking: Any, rule: str, masks: list[str]
) -> None:
    result = two_discs(picture, rule)
    entry = report.write_results(item, tmp_path, result, taking(rule), Wanted())
    found = entry["foreground"]["candidates"]
    assert [each["number"] for each in found] == [1, 2, 3]
    assert [each["mask"] for each in found] == [f"sub/a.png.{name}.png" for name in masks]
    assert candidate_files(tmp_path) == {f"a.png.{name}.png" for name in masks if name != "mask"}
    for each, candidate in zip(found, result.candidates, strict=True):
        with Image.open(tmp_path / each["mask"]) as file:
            assert file.mode == "L"
            assert np.array_equal(np.asarray(file), np.where(candidate.mask, 255, 0))
        assert each["area_fraction"] == candidate.mask.mean()
        assert each["confidence"] == round(candidate.confidence.value, 3)
    assert json.loads(json.dumps(entry)) == entry


def test_candidates_of_an_earlier_run_are_removed(item: Item, picture: np.ndarray, tmp_path: Path, taking: Any) -> None:
    report.write_results(item, tmp_path, two_discs(picture, "candidate:2"), taking("candidate:2"), Wanted())
    assert candidate_files(tmp_path) == {"a.png.candidate-1.png", "a.png.candidate-3.png"}
    result = two_discs(picture, "auto")
    fewer = replace(result, candidates=result.candidates[:2])
    report.write_results(item, tmp_path, fewer, taking("auto"), Wanted())
    assert candidate_files(tmp_path) == {"a.png.candidate-2.png"}
    report.write_results(item, tmp_path, replace(result, candidates=()), taking("largest"), Wanted())
    assert candidate_files(tmp_path) == set()


def test_every_file_is_known_before_it_is_written(item: Item, picture: np.ndarray, tmp_path: Path, taking: Any) -> None:
    report.write_results(item, tmp_path, two_discs(picture, "largest"), taking("largest"), Wanted())
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    known = set(report.all_files([item], tmp_path))
    assert written == {path for path in known if path.suffix in (".json", ".png") and ".labelme" not in path.name}


def test_masks_of_candidates_are_made_only_where_they_are_written(
    item: Item, picture: np.ndarray, tmp_path: Path, taking: Any
) -> None:
    result = two_discs(picture, "auto")
    fresh = [replace(each) for each in result.candidates]
    report.write_results(item, tmp_path, replace(result, candidates=fresh), taking("auto"), Wanted())
    assert ["mask" in vars(each) for each in fresh] == [False, True, True]


class TestExisting:
    @pytest.fixture
    def written(self, item: Item, picture: np.ndarray, tmp_path: Path, taking: Any) -> Path:
        report.write_results(item, tmp_path, two_discs(picture, "auto"), taking("auto"), Wanted())
        return tmp_path / "sub"

    def test_whole_results_are_kept(self, item: Item, written: Path, taking: Any) -> None:
        entry = report.existing(item, written.parent, taking("auto"), Wanted())
        assert entry is not None
        assert (entry["skipped"], entry["notes"]) == (True, [])
        assert len(entry["foreground"]["candidates"]) == 3

    @pytest.mark.parametrize("name", ["labels", "mask", "overlay", "probability", "candidate-2", "candidate-3"])
    def test_a_picture_that_is_gone_makes_them_incomplete(
        self, item: Item, written: Path, taking: Any, name: str
    ) -> None:
        (written / f"a.png.{name}.png").unlink()
        assert report.existing(item, written.parent, taking("auto"), Wanted()) is None

    def test_results_with_another_type_of_segmentation_are_kept_with_a_note(
        self, item: Item, written: Path, taking: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = json.loads((written / "a.png.json").read_text(encoding="utf-8"))
        record["settings"] = {}  # as earlier versions wrote it
        (written / "a.png.json").write_text(json.dumps(record), encoding="utf-8")
        segmenter = taking("auto")
        monkeypatch.setattr(report, "settings_of", lambda _, wanted, *__: {"seg_type": wanted.seg_type})
        earlier = report.existing(item, written.parent, segmenter, Wanted())
        assert earlier is not None
        assert earlier["notes"] == []
        entry = report.existing(item, written.parent, segmenter, Wanted(seg_type="labelmap"))
        assert entry is not None
        assert entry["notes"] == ["kept from an earlier run with other settings"]

    def test_results_of_a_version_without_candidates_and_probability_are_kept(
        self, item: Item, written: Path, taking: Any
    ) -> None:
        record = json.loads((written / "a.png.json").read_text(encoding="utf-8"))
        for key in ("candidates", "interval", "measurements"):
            del record["foreground"][key]
        del record["probability"]
        (written / "a.png.json").write_text(json.dumps(record), encoding="utf-8")
        for name in ("probability", "candidate-2", "candidate-3"):
            (written / f"a.png.{name}.png").unlink()
        entry = report.existing(item, written.parent, taking("auto"), Wanted())
        assert entry is not None
        assert entry["notes"] == ["kept from an earlier version, which did not measure; --force measures it"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"foreground": None},
            {"foreground": 3},
            {"foreground": {"candidates": [{}]}},
            {"foreground": {"candidates": 3}},
            {"foreground": {"measurements": 3}},
            {"foreground": {"measurements": {"unit": "px"}}},
            {"mask": None},
            {"mask": 3},
            {"probability": []},
            {"error": "broken"},
        ],
        ids=str,
    )
    def test_a_record_that_run_has_not_written_is_none(
        self, item: Item, written: Path, taking: Any, changes: dict[str, Any]
    ) -> None:
        record = json.loads((written / "a.png.json").read_text(encoding="utf-8"))
        (written / "a.png.json").write_text(json.dumps(record | changes), encoding="utf-8")
        assert report.existing(item, written.parent, taking("auto"), Wanted()) is None

    @pytest.mark.parametrize("text", ["{", "[]", "3", "null", '{"foo": 1}', '{"error": null}'])
    def test_a_file_that_is_no_record_is_none(self, item: Item, written: Path, taking: Any, text: str) -> None:
        (written / "a.png.json").write_text(text, encoding="utf-8")
        assert report.existing(item, written.parent, taking("auto"), Wanted()) is None


def test_a_record_says_what_was_found_and_how(
    segmenter: Segmenter, item: Item, picture: np.ndarray, tmp_path: Path
) -> None:
    mask = np.zeros(picture.shape[:2], bool)
    mask[:, :20] = True
    entry = report.write_results(item, tmp_path, segmentation(picture, mask), segmenter, Wanted(), "c0ffee")
    record = json.loads((tmp_path / "sub" / "a.png.json").read_text(encoding="utf-8"))
    assert entry == {key: value for key, value in record.items() if key not in ("trace", "settings")}
    seconds = record.pop("seconds")
    assert seconds.keys() == {"encoder", "refine", "write", "total"}
    assert seconds["total"] == pytest.approx(0.375 + seconds["write"], abs=2e-6)
    assert record == {
        "input": str(item.path),
        "label_map": "sub/a.png.labels.png",
        "mask": "sub/a.png.mask.png",
        "overlay": "sub/a.png.overlay.png",
        "probability": "sub/a.png.probability.png",
        "input_sha256": "c0ffee",
        "files": {},
        "width": 80,
        "height": 60,
        "intensity_range": [0.0, 255.0],
        "ignored_intensities": [],
        "label_count": 2,
        "labels": {"1": 500, "4": 589},
        "foreground": {
            "name": "cluster:2",
            "area_fraction": 0.25,
            "mask_sha256": sha256_of(mask),
            "confidence": 0.877,
            "interval": [0.432, 1.0],
            "doubt": None,
            "candidates": [],
            "measurements": measurements.record(measure(mask)),
        },
        "collapsed": False,
        "notes": [],
        "steps": 2,
        "trace": [{"cross_entropy": 1.25, "label_count": 6}, {"cross_entropy": 0.5, "label_count": 2}],
        "settings": report.settings_of(segmenter, Wanted()),
        "skipped": False,
        "error": None,
    }
    assert np.unique(np.asarray(Image.open(tmp_path / record["label_map"]))).tolist() == [1, 4]
    assert np.unique(np.asarray(Image.open(tmp_path / record["probability"]))).tolist() == [64]


def test_sizes_have_the_spacing_of_the_image(item: Item, picture: np.ndarray, tmp_path: Path, taking: Any) -> None:
    mask = np.zeros(picture.shape[:2], bool)
    mask[5:25, 10:20] = True
    result = segmentation(picture, mask)
    spaced = replace(result, image=replace(result.image, spacing=Spacing(0.5, 0.25, "pixel spacing")))
    found = report.write_results(item, tmp_path, spaced, taking("largest"), Wanted())["foreground"]["measurements"]
    assert (found["unit"], found["all"]["area"]) == ("mm", 25.0)
    assert found["spacing"] == {"row": 0.5, "column": 0.25, "origin": "pixel spacing"}
    kept = report.existing(item, tmp_path, taking("largest"), Wanted())
    assert kept is not None
    assert kept["foreground"]["measurements"] == found


@pytest.mark.parametrize(
    ("mask", "changes", "note"),
    [
        (False, {"confidence": Confidence(0.0, 0.0, 0.2, "the mask is empty")}, "the mask is empty"),
        (False, {"collapsed": True}, "learning fell to a single label"),
        (False, {"confidence": None}, "the DSC to expect is not known: the mask of cluster:2 is not the figure"),
    ],
)
def test_what_looks_wrong_is_noted(
    segmenter: Segmenter, item: Item, picture: np.ndarray, tmp_path: Path, mask: bool, changes: Any, note: str
) -> None:
    record = report.write_results(item, tmp_path, segmentation(picture, mask, **changes), segmenter, Wanted())
    assert any(line.startswith(note) for line in record["notes"])
    if "confidence" in changes and changes["confidence"] is None:
        assert {record["foreground"][each] for each in ("confidence", "interval", "doubt")} == {None}


@pytest.mark.parametrize("whole_graph", [True, False])
def test_settings_decide_a_result(tiny_bundle: Bundle, whole_graph: bool) -> None:
    segmenter = Segmenter(tiny_bundle, device="cpu", foreground_rule="cluster:2", whole_graph=whole_graph)
    settings = report.settings_of(segmenter, Wanted())
    assert (settings["system"], settings["seed"], settings["foreground"]) == ("msformer", 0, "cluster:2")
    graph = "segmenter.onnx" if whole_graph else "encoder.onnx"
    assert settings["graph_sha256"] == tiny_bundle.manifest["files"][graph]["sha256"]
    assert settings["whole_graph"] is whole_graph
    assert settings["packaged_sha256"] == []
    assert report.settings_of(Segmenter(), Wanted())["packaged_sha256"] == [
        each.sha256 for each in default_bundle().left_out
    ]
    assert (settings["precision"], settings["compiled"]) == ("fp32", False)
    assert settings == json.loads(json.dumps(settings))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_trained_network_needs_no_graph_of_its_precision(tiny_bundle: Bundle, precision: Precision) -> None:
    trained = Segmenter(tiny_bundle, settings=RefineSettings(mode="full", steps=1), device="cpu")
    trained.precision, trained.compiled = precision, True  # as on a GPU
    settings = report.settings_of(trained, Wanted())
    assert (settings["precision"], settings["compiled"]) == (precision, True)
    assert settings["graph_sha256"] == tiny_bundle.manifest["files"]["encoder.onnx"]["sha256"]


def test_counts_of_the_summary(segmenter: Segmenter, item: Item, picture: np.ndarray, tmp_path: Path) -> None:
    done = report.write_results(item, tmp_path, segmentation(picture, True), segmenter, Wanted())
    skipped = report.existing(item, tmp_path, segmenter, Wanted())
    assert skipped is not None
    entries = [done, skipped, report.failed(item, "broken"), done | {"foreground": {"doubt": "alike"}}]
    built = report.build(entries, segmenter, 4.0, interrupted=True, wanted=Wanted())
    assert built["summary"] == {
        "images": 4,
        "done": 2,
        "failed": 1,
        "skipped": 1,
        "doubted": 1,
        "seconds": 4.0,
        "images_per_second": 0.5,
    }
    assert built["interrupted"] is True
    assert not any("trace" in image or "settings" in image for image in built["images"])
    assert report.build([], segmenter, 0.0, wanted=Wanted())["summary"]["images_per_second"] is None


def test_the_report_and_its_page_are_written(segmenter: Segmenter, item: Item, tmp_path: Path) -> None:
    built = report.build([report.failed(item, "broken")], segmenter, 1.0, wanted=Wanted())
    report.write(tmp_path, built)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == built
    assert "broken" in (tmp_path / "index.html").read_text(encoding="utf-8")
