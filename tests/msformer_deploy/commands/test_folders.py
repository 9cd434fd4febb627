"""What a folder means to every command: which files are images, which are masks, and what is said of the others."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import write_pairs
from PIL import Image

from msformer_deploy.benchmark import conductor
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.commands import train as train_command

LEFT_BY_SYSTEMS = ("._00.png", ".DS_Store", "Thumbs.db", "__MACOSX/01.png", "desktop.ini")
OTHERS = "passed over: 2 .heic, 1 .txt; convert .heic to PNG or TIFF"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Four images and their masks, beside what macOS, Windows and scanners leave there."""
    images, masks = write_pairs(tmp_path, 4)
    for folder in (images, masks):
        for name in LEFT_BY_SYSTEMS:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"\0\5\26\7")
        (folder / "c.heic").write_bytes(b"scan")
    (images / "notes.txt").write_text("a note")
    return images, masks


@pytest.fixture
def one_folder(tmp_path: Path) -> Path:
    """Four images ``00.png`` ... with masks ``00_mask.png`` ... beside them."""
    images, masks = write_pairs(tmp_path / "apart", 4)
    folder = tmp_path / "all"
    shutil.copytree(images, folder)
    for path in masks.iterdir():
        shutil.copy(path, folder / f"{path.stem}_mask.png")
    return folder


@pytest.fixture
def evaluate(invoke: Callable[..., Any], tiny_bundle: Bundle, tmp_path: Path) -> Callable[..., Any]:
    def call(images: Path, masks: Path, *arguments: object) -> tuple[Any, dict[str, Any]]:
        target = tmp_path / "scores.json"
        outcome = invoke(
            *("evaluate", "--bundle", tiny_bundle.path, "--images", images, "--masks", masks, "--json", target, "-q"),
            *("--protocol", "label-free", *arguments),
        )
        return outcome, json.loads(target.read_text()) if target.exists() else {}

    return call


@pytest.fixture
def train(invoke: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call ``train`` until it would begin; what it would learn from comes with the outcome."""

    def call(images: Path, masks: Path) -> tuple[Any, list[str]]:
        seen: list[str] = []

        def begin(recipe: Any, *_: Any, **__: Any) -> Any:
            pairs = (*recipe._data.training, *recipe._data.validation)
            seen.extend(sorted(f"{each.image.name} {each.mask.name}" for each in pairs))
            raise train_command.Interrupted("begun")

        monkeypatch.setattr(train_command, "_run", begin)
        paths = ("--images", images, "--masks", masks, "--output", tmp_path / "run")
        return invoke("train", "--system", "m2snet", *paths, "--epochs", 1, "--side", 64, "--device", "cpu"), seen

    return call


def lines(outcome: Any) -> list[str]:
    return [line for line in outcome.err.splitlines() if "MONAI" not in line]


class TestOtherFiles:
    def test_run(self, segment, folders, tmp_path):
        Image.open(folders[0] / "00.png").save(tmp_path / "b.jpg")
        shutil.move(tmp_path / "b.jpg", folders[0] / "b.jfif")
        outcome = segment(folders[0], "-q")
        assert outcome.code == 0
        assert outcome.err.splitlines() == ["passed over: 1 .heic, 1 .txt; convert .heic to PNG or TIFF"]
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["passed_over"] == {".heic": 1, ".txt": 1}
        assert [Path(each["input"]).name for each in report["images"]] == [
            *(f"{index:02}.png" for index in range(4)),
            "b.jfif",
        ]

    def test_run_on_nothing_else(self, segment, tmp_path):
        (tmp_path / "scans").mkdir()
        for index in range(3):
            (tmp_path / "scans" / f"{index}.HEIC").write_bytes(b"scan")
        segment(tmp_path / "scans").error(2, "scans: no images (", "passed over: 3 .heic; convert .heic to PNG or TIFF")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["a", "a.scan", ".a.png", "a.PNG", "a.Jpg"])
    def test_a_file_that_is_named_is_tried_whatever_it_is_called(self, segment, folders, tmp_path, name):
        shutil.copy(folders[0] / "00.png", tmp_path / name)
        outcome = segment(tmp_path / name, "-q")
        assert (outcome.code, outcome.err) == (0, "")
        assert json.loads((tmp_path / "out" / "report.json").read_text())["passed_over"] == {}

    def test_evaluate(self, evaluate, folders):
        outcome, report = evaluate(*folders)
        assert outcome.code == 0
        assert lines(outcome) == [OTHERS]
        assert report["passed_over"] == {".heic": 2, ".txt": 1}
        assert report["images"] == 4
        assert (report["images_without_mask"], report["masks_without_image"]) == ([], [])

    def test_train(self, train, folders):
        outcome, seen = train(*folders)
        assert seen == [f"{index:02}.png {index:02}.png" for index in range(4)]
        assert OTHERS in outcome.err.splitlines()

    def test_benchmark(self, invoke, tiny_bundle, folders, tmp_path, monkeypatch):
        def conduct(rows: Any, beside: Any, images: Any, *_: Any) -> Any:
            return {"rows": [], "images": [path.name for path in images.paths]}

        written: dict[str, Any] = {}
        command = "msformer_deploy.commands.benchmark"
        monkeypatch.setattr(conductor, "conduct", conduct)
        monkeypatch.setattr(f"{command}._require_some", lambda _: None)
        monkeypatch.setattr(f"{command}._write", lambda _, report: written.update(report))
        monkeypatch.setattr("msformer_deploy.benchmark.table.terminal", lambda *_: "")
        for masks, told in ((("--masks", folders[1]), OTHERS), ((), OTHERS.replace("2 .heic", "1 .heic"))):
            outcome = invoke("benchmark", tiny_bundle.path, "--images", folders[0], *masks, "--backend", "torch")
            assert outcome.code == 0, outcome.err
            assert lines(outcome) == [told]
            assert written["images"] == [f"{index:02}.png" for index in range(4)]
        assert written["passed_over"] == {".heic": 1, ".txt": 1}

    def test_export(self, folders):
        from msformer_deploy.export.evidence import from_folders

        said: list[str] = []
        found = from_folders(*folders, said.append)
        assert len(found.judged) + len(found.calibration) == 4
        assert said == [OTHERS]


class TestMasksBesideImages:
    def test_run_segments_them_and_says_so(self, segment, one_folder, tmp_path):
        outcome = segment(one_folder, "-q")
        assert outcome.code == 0
        assert outcome.err.splitlines() == [
            "inputs whose names are those of masks: 4 (00_mask.png, ...); run segments them too; move masks to"
            " another folder"
        ]
        assert len(json.loads((tmp_path / "out" / "report.json").read_text())["images"]) == 8

    def test_evaluate(self, evaluate, one_folder):
        outcome, report = evaluate(one_folder, one_folder)
        assert (outcome.code, lines(outcome)) == (0, [])
        pairs = {(Path(row["image"]).name, Path(row["mask"]).name) for row in report["rows"]}
        assert pairs == {(f"{index:02}.png", f"{index:02}_mask.png") for index in range(4)}

    def test_evaluate_gives_the_scores_of_two_folders(self, evaluate, one_folder, tmp_path):
        _, one = evaluate(one_folder, one_folder)
        (tmp_path / "scores.json").unlink()
        _, two = evaluate(tmp_path / "apart" / "images", tmp_path / "apart" / "masks")
        assert [row["dsc"] for row in one["rows"]] == [row["dsc"] for row in two["rows"]]

    def test_evaluate_says_which_are_of_no_use(self, evaluate, one_folder, tmp_path):
        outcome, report = evaluate(one_folder, tmp_path / "apart" / "masks")
        assert lines(outcome) == [
            "passed over as masks by their names: 4 (00_mask.png, 01_mask.png, 02_mask.png, 03_mask.png)"
        ]
        assert len(report["masks_among_images"]) == 4

    def test_train(self, train, one_folder):
        _, seen = train(one_folder, one_folder)
        assert seen == [f"{index:02}.png {index:02}_mask.png" for index in range(4)]


class TestNoImageIsItsOwnMask:
    @pytest.fixture(params=["same folder", "link to the folder", "links", "hard links", "copies"])
    def masks(self, request, tmp_path: Path) -> Path:
        images, masks = write_pairs(tmp_path, 2)
        if request.param == "same folder":
            return images
        shutil.rmtree(masks)
        if request.param == "link to the folder":
            masks.symlink_to(images)
            return masks
        masks.mkdir()
        for path in images.iterdir():
            if request.param == "links":
                (masks / path.name).symlink_to(path)
            elif request.param == "hard links":
                os.link(path, masks / path.name)
            else:
                shutil.copy(path, masks / path.name)
        return masks

    def test_evaluate_and_train_refuse_it(self, evaluate, train, masks, tmp_path):
        outcome, report = evaluate(tmp_path / "images", masks)
        assert (outcome.code, outcome.out, report) == (2, "", {})
        (line,) = lines(outcome)
        assert "images and masks are in one folder" in line or "is the image" in line
        outcome, seen = train(tmp_path / "images", masks)
        outcome.error(2)
        assert seen == []


def test_masks_in_the_subfolders_of_their_images(evaluate, train, tmp_path):
    for patient in ("p1", "p2"):
        images, masks = write_pairs(tmp_path / patient, 2)
        for kind, folder in (("images", images), ("masks", masks)):
            shutil.copytree(folder, tmp_path / kind / patient)
    outcome, report = evaluate(tmp_path / "images", tmp_path / "masks")
    assert (outcome.code, lines(outcome), report["images"]) == (0, [], 4)
    for row in report["rows"]:
        assert Path(row["image"]).relative_to(tmp_path / "images") == Path(row["mask"]).relative_to(tmp_path / "masks")
    assert len(train(tmp_path / "images", tmp_path / "masks")[1]) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no named pipes")
@pytest.mark.parametrize("place", ["images", "masks"])
def test_a_pipe_in_a_folder_never_holds_a_command_up(evaluate, folders, place):
    os.mkfifo(folders[0].parent / place / "pipe.png")
    outcome, report = evaluate(*folders)
    assert outcome.code == 0
    assert report["passed_over"]["special file"] == 1


def test_a_mask_that_is_a_link_to_nothing_fails_alone(evaluate, folders):
    (folders[1] / "00.png").unlink()
    (folders[1] / "00.png").symlink_to("nowhere.png")
    outcome, report = evaluate(*folders)
    assert outcome.code == 5
    assert [Path(each["image"]).name for each in report["failed"]] == ["00.png"]
    assert np.isfinite([row["dsc"] for row in report["rows"]]).all()
