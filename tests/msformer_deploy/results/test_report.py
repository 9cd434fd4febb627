"""Records and reports by themselves; ``run`` is tested with them in commands/test_run.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.foreground.confidence import Confidence
from msformer_deploy.images.inputs import Item
from msformer_deploy.images.read import image_from_array
from msformer_deploy.refinement.outcome import Step
from msformer_deploy.registry import Precision, RefineSettings
from msformer_deploy.results import report
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
        "confidence": Confidence(0.87654, None),
        "seconds": {"encoder": 0.25, "refine": 0.125},
    }
    return Segmentation(
        image_from_array(picture), labels.astype(np.uint8), np.full(picture.shape[:2], mask), **facts | changes
    )


def test_a_record_says_what_was_found_and_how(
    segmenter: Segmenter, item: Item, picture: np.ndarray, tmp_path: Path
) -> None:
    mask = np.zeros(picture.shape[:2], bool)
    mask[:, :20] = True
    entry = report.write_results(item, tmp_path, segmentation(picture, mask), segmenter)
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
        "width": 80,
        "height": 60,
        "intensity_range": [0.0, 255.0],
        "ignored_intensities": [],
        "label_count": 2,
        "labels": {"1": 500, "4": 589},
        "foreground": {"name": "cluster:2", "area_fraction": 0.25, "confidence": 0.877, "doubt": None},
        "collapsed": False,
        "notes": [],
        "steps": 2,
        "trace": [{"cross_entropy": 1.25, "label_count": 6}, {"cross_entropy": 0.5, "label_count": 2}],
        "settings": report.settings_of(segmenter),
        "skipped": False,
        "error": None,
    }
    assert np.unique(np.asarray(Image.open(tmp_path / record["label_map"]))).tolist() == [1, 4]


@pytest.mark.parametrize(
    ("mask", "changes", "note"),
    [
        (False, {"confidence": Confidence(0.0, "the mask is empty")}, "the mask is empty"),
        (False, {"collapsed": True}, "learning fell to a single label"),
    ],
)
def test_what_looks_wrong_is_noted(
    segmenter: Segmenter, item: Item, picture: np.ndarray, tmp_path: Path, mask: bool, changes: Any, note: str
) -> None:
    record = report.write_results(item, tmp_path, segmentation(picture, mask, **changes), segmenter)
    assert any(line.startswith(note) for line in record["notes"])


def test_settings_decide_a_result(segmenter: Segmenter, tiny_bundle: Bundle) -> None:
    settings = report.settings_of(segmenter)
    assert (settings["system"], settings["seed"], settings["foreground"]) == ("msformer", 3, "cluster:2")
    assert settings["encoder_sha256"] == tiny_bundle.manifest["files"]["encoder.onnx"]["sha256"]
    assert (settings["precision"], settings["compiled"]) == ("fp32", False)
    assert settings == json.loads(json.dumps(settings))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_trained_network_needs_no_graph_of_its_precision(tiny_bundle: Bundle, precision: Precision) -> None:
    trained = Segmenter(tiny_bundle, settings=RefineSettings(mode="full", steps=1), device="cpu")
    trained.precision, trained.compiled = precision, True  # as on a GPU
    settings = report.settings_of(trained)
    assert (settings["precision"], settings["compiled"]) == (precision, True)
    assert settings["encoder_sha256"] == tiny_bundle.manifest["files"]["encoder.onnx"]["sha256"]


def test_counts_of_the_summary(segmenter: Segmenter, item: Item, picture: np.ndarray, tmp_path: Path) -> None:
    done = report.write_results(item, tmp_path, segmentation(picture, True), segmenter)
    skipped = report.existing(item, tmp_path, segmenter)
    assert skipped is not None
    entries = [done, skipped, report.failed(item, "broken"), done | {"foreground": {"doubt": "alike"}}]
    built = report.build(entries, segmenter, 4.0, interrupted=True)
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
    assert report.build([], segmenter, 0.0)["summary"]["images_per_second"] is None


def test_the_report_and_its_page_are_written(segmenter: Segmenter, item: Item, tmp_path: Path) -> None:
    built = report.build([report.failed(item, "broken")], segmenter, 1.0)
    report.write(tmp_path, built)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == built
    assert "broken" in (tmp_path / "index.html").read_text(encoding="utf-8")
