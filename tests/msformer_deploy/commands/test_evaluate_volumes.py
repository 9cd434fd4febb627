"""``evaluate --volumes``: slices on the disk to scores of volumes, and no volume that is not whole among them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trained_weights
from PIL import Image

from msformer_deploy.commands import evaluate as command
from msformer_deploy.measures import scores
from msformer_deploy.measures.volumes import VolumeScore, score_volume, summarise
from msformer_deploy.segmenter import Segmenter

h5py = pytest.importorskip("h5py")

SHAPE = (3, 36, 40)
KEYS = {"spacing_mm", "volumes", "volume_summary", "volumes_left_out"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of four classes, one of an object; both small, with random weights."""
    return trained_weights.bundles(trained_weights.of_each_system(tmp_path_factory.mktemp("weights")), tmp_path_factory)


def noise(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE[1:], dtype=np.float32)


def box(class_id: int, slices: slice, rows: slice, columns: slice) -> np.ndarray:
    made = np.zeros(SHAPE, np.uint8)
    made[slices, rows, columns] = class_id
    return made


def write(folder: Path, stem: str, image: np.ndarray, label: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"{stem}.h5", "w") as file:
        file["image"], file["label"] = image, label
    return folder / f"{stem}.h5"


TRUTHS = {
    "p1_frame01": box(1, slice(0, 1), slice(8, 20), slice(8, 20)) + box(2, slice(0, 3), slice(24, 32), slice(4, 16)),
    "p2_frame01": box(1, slice(1, 3), slice(10, 22), slice(12, 20)) + box(3, slice(0, 2), slice(25, 33), slice(20, 30)),
}


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """Two volumes of three slices, numbered 9 to 11, so that the order of names is not that of slices."""
    for patient, (volume, truth) in enumerate(TRUTHS.items()):
        for index, label in enumerate(truth):
            write(tmp_path / "slices", f"{volume}_slice_{index + 9}", noise(patient, index), label)
    return tmp_path / "slices"


@pytest.fixture
def evaluate(invoke: Callable[..., Any], bundles: dict[str, Path], slices: Path, tmp_path: Path) -> Callable[..., Any]:
    """Call ``evaluate --volumes`` on the slices; what is written to JSON comes with the outcome."""

    def call(*arguments: object, volumes: bool = True) -> tuple[Any, dict[str, Any]]:
        target = tmp_path / "told.json"
        target.unlink(missing_ok=True)
        outcome = invoke(
            *("evaluate", "--bundle", bundles["mcsc"], "--images", slices, "--masks", slices, "--json", target),
            *("--baseline", "none", "--protocol", "label-free", "--backend", "onnxruntime", "-q"),
            *(["--volumes"] if volumes else []),
            *arguments,
        )
        return outcome, json.loads(target.read_text()) if target.exists() else {}

    return call


def told(outcome: Any) -> list[str]:
    return [line for line in outcome.err.splitlines() if "MONAI" not in line]


def plant(monkeypatch: pytest.MonkeyPatch, predictions: dict[str, np.ndarray]) -> None:
    """Let the network predict these volumes."""
    real = Segmenter.segment

    def segment(self: Segmenter, image: Any) -> Any:
        volume, index = Path(image.name).stem.split("_slice_")
        return replace(real(self, image), labels=predictions[volume][int(index) - 9])

    monkeypatch.setattr(Segmenter, "segment", segment)


def as_told(found: list[VolumeScore]) -> list[dict[str, Any]]:
    """As JSON has it, its numbers being exactly those of Python."""
    rows = [asdict(each) for each in found]
    return [
        {"class" if name == "class_id" else name: None if value != value else value for name, value in row.items()}
        for row in rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planted", "spacing"), [(False, None), (True, (10.0, 1.25, 2.5))], ids=["the network's", "of every class"]
)
def test_classes_of_volumes_are_scored_as_by_hand(planted, spacing, evaluate, bundles, slices, monkeypatch):
    pytest.importorskip("monai.metrics")
    segmenter = Segmenter(bundles["mcsc"], backend="onnxruntime")
    predictions = {
        volume: np.stack([segmenter.segment(slices / f"{volume}_slice_{index}.h5").labels for index in (9, 10, 11)])
        for volume in TRUTHS
    }
    if planted:
        rng = np.random.default_rng(0)
        predictions = {volume: rng.integers(0, 4, SHAPE, np.uint8) for volume in TRUTHS}
        plant(monkeypatch, predictions)
    expected = [
        score
        for volume, truth in TRUTHS.items()
        for score in score_volume(volume, predictions[volume], truth, 4, spacing)
    ]
    assert any(each.hd95 and each.hd95 > 0 and 0 < each.dice < 1 for each in expected), "something is measured"
    outcome, report = evaluate(*([] if spacing is None else ["--spacing", "10,1.25,2.5"]))
    assert outcome.code == 0, outcome.err
    assert told(outcome) == []
    assert report["spacing_mm"] == (None if spacing is None else list(spacing))
    assert report["volumes"] == as_told(expected)
    assert report["volume_summary"] == as_told(summarise(expected))
    assert report["volumes_left_out"] == []
    assert report["schema"] == 1
    unit = "voxels" if spacing is None else "mm"
    assert f"HD95 {unit}" in outcome.out
    _, table = outcome.out.split("\n\n")
    assert [line.split()[0] for line in table.splitlines()[:5]] == ["class", "1", "2", "3", "mean"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moved", "spacing", "expected"),
    [
        ((0, 0, 3), None, 3),
        ((0, 0, 3), "10,1.25,2", 6),
        ((0, 2, 0), "10,1.25,2", 2.5),
        ((1, 0, 0), None, 1),
        ((1, 0, 0), "10,1.25,2", 10),
    ],
    ids=str,
)
def test_distances_go_with_the_spacing_of_their_direction(moved, spacing, expected, evaluate, monkeypatch):
    pytest.importorskip("monai.metrics")
    plant(monkeypatch, {name: np.roll(truth, moved, (0, 1, 2)) for name, truth in TRUTHS.items()})
    outcome, report = evaluate("--class", "1", *([] if spacing is None else ["--spacing", spacing]))
    assert outcome.code == 0, outcome.err
    first = report["volumes"][0]
    assert (first["volume"], first["class"]) == ("p1_frame01", 1)
    assert first["hd95"] == pytest.approx(expected)


@pytest.mark.slow
def test_perfect_is_perfect_and_the_images_are_judged_as_ever(evaluate, monkeypatch):
    plant(monkeypatch, TRUTHS)
    _, without = evaluate(volumes=False)
    outcome, report = evaluate()
    assert outcome.code == 0
    assert report.keys() - without.keys() == KEYS
    assert (report["rows"], report["summary"]) == (without["rows"], without["summary"])
    by_key = {(each["volume"], each["class"]): each for each in report["volumes"]}
    assert len(by_key) == 6
    for (volume, class_id), each in by_key.items():
        there = bool((TRUTHS[volume] == class_id).any())
        assert each["dice"] == (1 if there else None)
        assert each["truth_empty"] is each["prediction_empty"] is not there
    assert "volumes class 2: 1 both empty (no score, in no mean)" in outcome.out


def test_what_is_missed_and_what_is_invented_is_counted_and_raises_nothing(evaluate, tmp_path, monkeypatch):
    pytest.importorskip("monai.metrics")
    first, second = TRUTHS.values()
    # Class 1 is missed in the first volume, class 2 invented in the second.
    plant(monkeypatch, {"p1_frame01": first * (first != 1), "p2_frame01": np.where(second == 3, 2, second)})
    markdown = tmp_path / "told.md"
    outcome, report = evaluate("--markdown", markdown, "--spacing", "10,1,1")
    assert outcome.code == 0
    summaries = {each["class"]: each for each in report["volume_summary"]}
    assert summaries[1] == {
        "class": 1,
        "dice": 0.5,
        "hd95": 0.0,
        "volumes": 2,
        "dice_defined": 2,
        "hd95_defined": 1,
        "missed": 1,
        "invented": 0,
    }
    assert (summaries[2]["dice"], summaries[2]["missed"], summaries[2]["invented"]) == (0.5, 0, 1)
    assert (summaries[3]["dice"], summaries[3]["missed"]) == (0, 1)
    missed = report["volumes"][0]
    assert (missed["dice"], missed["hd95"], missed["prediction_empty"], missed["truth_empty"]) == (0, None, True, False)
    *_, one, two, three, mean, note, both = outcome.out.splitlines()
    assert [line.split() for line in (one, two, three, mean)] == [
        ["1", "2", "0.5000", "0.0", "1", "0"],
        ["2", "2", "0.5000", "0.0", "0", "1"],
        ["3", "2", "0.0000", "-", "1", "0"],
        ["mean", "2", "0.3333", "0.0", "2", "1"],
    ]
    assert note == "volumes: missed and invented have Dice 0 each, HD95 not defined"
    assert both == "volumes class 3: 1 both empty (no score, in no mean)"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.read_text().splitlines()]
    assert ["mean", "2", "0.3333", "0.0", "2", "1"] in rows
    assert "HD95 mm" in markdown.read_text()


def test_classes_asked_for_are_scored_alone(evaluate, monkeypatch):
    plant(monkeypatch, TRUTHS)
    outcome, report = evaluate("--class", "3", "--class", "1")
    assert outcome.code == 0
    assert [each["class"] for each in report["volumes"]] == [1, 3, 1, 3]
    assert [each["dice"] for each in report["volumes"]] == [1, None, 1, 1]
    assert {row["class"] for row in report["rows"]} == {1, 3}


@pytest.mark.slow
def test_a_class_in_no_mask_is_told_once(evaluate, slices, monkeypatch):
    """As where masks hold other values than the network's classes."""
    for path in slices.iterdir():
        with h5py.File(path, "r+") as file:
            file["label"][...] = np.where(file["label"][()] == 2, 85, file["label"][()])
    plant(monkeypatch, TRUTHS)
    outcome, report = evaluate()
    assert told(outcome) == ["no mask of the scored volumes contains class 2"]
    assert {each["class"]: each["invented"] for each in report["volume_summary"]} == {1: 0, 2: 1, 3: 0}
    outcome, _ = evaluate("--class", "2")
    assert told(outcome) == ["no mask contains class 2"]


def test_without_monai_distances_are_left_out_and_one_line_says_so(evaluate, monkeypatch):
    monkeypatch.setattr(scores, "surfaces_missing", lambda: "install msformer-deploy[evaluate]")
    plant(monkeypatch, TRUTHS)
    outcome, report = evaluate("--spacing", "10,1,1")
    assert outcome.code == 0
    assert outcome.err.splitlines() == ["install msformer-deploy[evaluate]"]
    assert "HD95" not in outcome.out
    assert "hd95" not in report["volumes"][0]
    assert "hd95" not in report["volume_summary"][0]
    assert report["volumes"][0]["dice"] == 1


class TestNotWhole:
    """Something is wrong with the second volume; the first one is scored."""

    def check(self, call: Callable[..., Any], reason: str, *arguments: object) -> Any:
        outcome, report = call(*arguments)
        assert outcome.code == 5, outcome.err
        assert told(outcome).count(f"volume p2_frame01 is left out: {reason}") == 1
        assert report["volumes_left_out"] == [{"name": "p2_frame01", "reason": reason}]
        assert {each["volume"] for each in report["volumes"]} == {"p1_frame01"}
        assert outcome.out.splitlines()[-1] == "1 volume left out, in no number: p2_frame01"
        return outcome, report

    def test_a_gap(self, evaluate, slices):
        (slices / "p2_frame01_slice_10.h5").unlink()
        _, report = self.check(evaluate, "there is no slice between 9 and 11")
        assert report["images"] == 5, "its slices are judged as images"

    def test_a_slice_that_is_there_twice(self, evaluate, slices):
        write(slices, "p2_frame01_slice_010", noise(9, 9), TRUTHS["p2_frame01"][0])
        self.check(evaluate, "slice 10 is there twice, p2_frame01_slice_010.h5 and p2_frame01_slice_10.h5")

    def test_slices_of_different_sizes(self, evaluate, slices):
        write(slices, "p2_frame01_slice_12", noise(9, 9).T, TRUTHS["p2_frame01"][0].T)
        self.check(evaluate, "its slices are of different sizes, 36 x 40 and 40 x 36 pixels")

    def test_a_name_without_an_index(self, evaluate, slices):
        write(slices, "p2_frame01", noise(9, 9), TRUTHS["p2_frame01"][0])
        self.check(evaluate, "the name of p2_frame01.h5 tells no slice index")

    def test_a_slice_without_a_truth(self, evaluate, slices):
        with h5py.File(slices / "p2_frame01_slice_11.h5", "r+") as file:
            del file["label"]
        outcome, report = self.check(evaluate, "p2_frame01_slice_11.h5 failed")
        assert "has no data set 'label'" in report["failed"][0]["reason"]
        assert [line.split(":")[0] for line in told(outcome)[:2]] == ["error", "volume p2_frame01 is left out"]

    def test_a_slice_on_which_segmenting_fails(self, evaluate, monkeypatch):
        real = Segmenter.segment

        def segment(self: Segmenter, image: Any) -> Any:
            return real(self, image) if not image.name.endswith("p2_frame01_slice_9.h5") else 1 / 0

        monkeypatch.setattr(Segmenter, "segment", segment)
        self.check(evaluate, "p2_frame01_slice_9.h5 failed")

    @pytest.mark.parametrize("lacking", ["mask", "image"])
    def test_a_slice_that_does_not_pair(self, lacking, evaluate, slices, tmp_path):
        other = tmp_path / "masks"
        other.mkdir()
        for path in slices.iterdir():
            (other / path.name).write_bytes(path.read_bytes())
        last = "p2_frame01_slice_11.h5"
        ((other if lacking == "mask" else slices) / last).unlink()
        self.check(evaluate, f"{last} has no {lacking}", "--masks", other)

    def test_none_left_is_an_error_and_nothing_is_written(self, evaluate, slices, tmp_path):
        for volume in TRUTHS:
            with h5py.File(slices / f"{volume}_slice_11.h5", "r+") as file:
                del file["label"]
        outcome, report = evaluate("--csv", tmp_path / "told.csv")
        assert outcome.code == 1
        assert told(outcome)[-1] == "error: none of the 2 volumes could be scored; nothing is written"
        assert (report, outcome.out) == ({}, "")
        assert set(tmp_path.iterdir()) == {slices}

    def test_none_by_their_names_is_an_error_before_anything_is_judged(self, evaluate, slices, tmp_path, monkeypatch):
        for volume in TRUTHS:
            (slices / f"{volume}_slice_10.h5").unlink()
        monkeypatch.setattr(Segmenter, "segment", lambda *_: pytest.fail("judged"))
        outcome, report = evaluate()
        assert outcome.code == 1
        assert told(outcome) == [
            "volume p1_frame01 is left out: there is no slice between 9 and 11",
            "volume p2_frame01 is left out: there is no slice between 9 and 11",
            "error: none of the 2 volumes could be scored; nothing is written",
        ]
        assert report == {}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--volumes", "--spacing", "10,1"], ["--spacing", "'10,1' is not three numbers"]),
        (["--volumes", "--spacing", "10,1,1,1"], ["--spacing", "is not three numbers"]),
        (["--volumes", "--spacing", "10 1 1"], ["--spacing", "is not three numbers"]),
        (["--volumes", "--spacing", "a,b,c"], ["--spacing", "is not three numbers"]),
        (["--volumes", "--spacing", ""], ["--spacing", "is not three numbers"]),
        (["--volumes", "--spacing", "10,0,1"], ["--spacing", "'10,0,1' is not a spacing"]),
        (["--volumes", "--spacing", "10,1,-1"], ["--spacing", "is not a spacing"]),
        (["--volumes", "--spacing", "nan,1,1"], ["--spacing", "is not a spacing"]),
        (["--volumes", "--spacing", "1,1,inf"], ["--spacing", "is not a spacing"]),
        (["--volumes", "--spacing", "1e300,1,1"], ["--spacing", "is not a spacing"]),
        (["--volumes", "--spacing", "1,1e-300,1"], ["--spacing", "is not a spacing"]),
        (["--spacing", "10,1,1"], ["--spacing only affects volumes; add --volumes"]),
        (["--volumes", "--limit", "3"], ["--limit would remove slices from volumes"]),
        (["--volumes", "--class", "0"], ["--volumes does not score the background; drop --class 0"]),
        (["--volumes", "--class", "4"], ["the bundle has no class 4,"]),
        (["--volumes", "--bundle", "CLUSTERS"], ["the clusters of msformer have no fixed meaning"]),
        (["--volumes", "--images", "UNNAMED", "--masks", "UNNAMED"], ["no file name contains the number of a slice"]),
    ],
    ids=" ".join,
)
def test_a_slip_is_one_line_before_anything_is_judged(
    invoke, bundles, tiny_bundle, slices, tmp_path, monkeypatch, arguments, parts
):
    write(tmp_path / "unnamed", "IMD001", noise(0), TRUTHS["p1_frame01"][0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Segmenter, "segment", lambda *_: pytest.fail("judged"))
    monkeypatch.setattr(scores, "surfaces_missing", lambda: None)
    before = set(tmp_path.iterdir())
    stand_ins = {"CLUSTERS": tiny_bundle.path, "UNNAMED": "unnamed"}
    given = [stand_ins.get(each, each) for each in arguments]
    call = ("evaluate", "--bundle", bundles["mcsc"], "--images", slices, "--masks", slices, "--json", "told.json")
    invoke(*call, *given).error(2, *parts)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("system", ["msformer", "s3net"])
def test_clusters_are_refused_before_a_default_bundle_is_made(system, invoke, slices, monkeypatch):
    monkeypatch.setattr(command, "open_bundle", lambda *_, **__: pytest.fail("opened"))
    named = [] if system == "msformer" else ["--system", system]
    call = ("evaluate", "--images", slices, "--masks", slices, "--volumes", *named)
    invoke(*call).error(2, f"the clusters of {system} have no fixed meaning")


def test_a_trained_system_needs_its_bundle(invoke, slices, monkeypatch):
    monkeypatch.setattr(scores, "surfaces_missing", lambda: None)
    call = ("evaluate", "--images", slices, "--masks", slices, "--volumes", "--system", "mcsc")
    invoke(*call).error(2, "export --system mcsc --weights FILE")


class TestObjects:
    """M2SNet knows one object, and masks of it are of any value."""

    @pytest.fixture
    def call(self, invoke: Callable[..., Any], bundles: dict[str, Path], tmp_path: Path) -> Callable[..., Any]:
        """Two slices in pictures, with masks of 0 and 255."""
        truth = TRUTHS["p1_frame01"] == 1
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
        for index in range(2):
            grey = (noise(index) * 255).astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / "images" / f"a_slice_{index}.png")
            Image.fromarray(truth[index] * np.uint8(255)).save(tmp_path / "masks" / f"a_slice_{index}.png")

        def evaluate(*arguments: object) -> tuple[Any, dict[str, Any]]:
            target = tmp_path / "told.json"
            outcome = invoke(
                *("evaluate", "--bundle", bundles["m2snet"], "--json", target, "--volumes", "--spacing", "5,1,1", "-q"),
                *("--images", tmp_path / "images", "--masks", tmp_path / "masks", "--backend", "onnxruntime"),
                *("--baseline", "none", "--protocol", "label-free", *arguments),
            )
            return outcome, json.loads(target.read_text()) if target.exists() else {}

        return evaluate

    def test_all_that_is_not_background_is_its_object(self, call, bundles, tmp_path):
        pytest.importorskip("monai.metrics")
        segmenter = Segmenter(bundles["m2snet"], backend="onnxruntime")
        predicted = np.stack([segmenter.segment(tmp_path / "images" / f"a_slice_{each}.png").labels for each in (0, 1)])
        truth = (TRUTHS["p1_frame01"][:2] == 1).astype(np.uint8)
        expected = score_volume("a", predicted, truth, 2, (5.0, 1.0, 1.0))
        assert 0 < expected[0].dice < 1
        outcome, report = call()
        assert outcome.code == 0, outcome.err
        assert report["volumes"] == as_told(expected)
        assert not math.isnan(report["volumes"][0]["hd95"])

    def test_with_a_class_the_masks_ids_count(self, call):
        outcome, report = call("--class", "1")
        assert outcome.code == 0
        assert told(outcome) == ["no mask contains class 1"]
        assert (report["volumes"][0]["truth_empty"], report["volumes"][0]["dice"]) == (True, 0)

    def test_a_value_of_the_masks_is_no_class(self, call):
        outcome, report = call("--class", "255")
        assert outcome.code == 2
        assert "the bundle has no class 255," in told(outcome)[-1]
        assert report == {}
