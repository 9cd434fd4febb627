"""``run --shard`` and ``report merge``: what the shards of a run leave is what one run leaves, but for times."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_results import report_of

Contents = dict[str, Any]
ONCE = ("report.json", "measurements.csv", "index.html")


def timeless(value: Any) -> Any:
    """Without the times of a record or report."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in ("seconds", "images_per_second")}
    return list(map(timeless, value)) if isinstance(value, list) else value


def contents(folder: Path) -> Contents:
    """All files by name, without times; shards' own reports and the gallery, which has times, are not among them."""
    return {
        path.relative_to(folder).as_posix(): timeless(json.loads(path.read_text()))
        if path.suffix == ".json"
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("report.shard-") and path.name != "index.html"
    }


@pytest.fixture
def scans(seven: Path) -> Path:
    """Seven images, one of them broken and one whose results would overwrite another's."""
    (seven / "c.png").write_bytes(b"no image")
    (seven / "more").mkdir()
    shutil.copy(seven / "a.png", seven / "more" / "x.png")
    shutil.copy(seven / "b.png", seven / "more" / "X.PNG")
    return seven


@pytest.fixture
def plain(segment: Callable[..., Any], scans: Path, tmp_path: Path) -> Path:
    assert segment(scans, "--output", tmp_path / "plain", "--format", "coco").code == 5
    return tmp_path / "plain"


@pytest.mark.slow
def test_shards_in_one_folder_leave_what_one_run_leaves(
    segment: Any, invoke: Any, scans: Path, plain: Path, out: Path
) -> None:
    for number in (3, 1, 2):
        done = segment(scans, "--format", "coco", "--shard", f"{number}/3")
        assert "when all 3 shards are done" in done.out
    assert not any((out / name).exists() for name in (*ONCE, "annotations.coco.json"))
    merged = invoke("report", "merge", out, "--output", out)
    assert merged.code == 5
    assert merged.out.startswith("3 reports merged: 9 images, 7 segmented, 2 failed; look at ")
    assert contents(out) == contents(plain)
    pages = [re.findall(r"<h3.*?</h3>", (each / "index.html").read_text(), re.DOTALL) for each in (out, plain)]
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_shards_in_folders_of_their_own(segment: Any, invoke: Any, scans: Path, plain: Path, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in (1, 2)]
    for folder in folders:
        segment(scans, "--output", folder, "--format", "coco", "--shard", f"{folder.name}/2")
    assert invoke("report", "merge", *folders[::-1], "--output", tmp_path / "all").code == 5
    images = report_of(tmp_path / "all")["images"]
    assert [each["input"] for each in images] == [each["input"] for each in report_of(plain)["images"]]
    assert all((tmp_path / "all" / each["mask"]).is_file() for each in images if each["error"] is None)
    for name in ("measurements.csv", "annotations.coco.json"):
        assert (tmp_path / "all" / name).read_bytes() == (plain / name).read_bytes()


def test_a_shard_without_inputs_is_no_failure(segment: Any, invoke: Any, good: Path, out: Path) -> None:
    for number in (1, 2):
        assert segment(good, "--shard", f"{number}/2").code == 0
    assert invoke("report", "merge", out, "--output", out).code == 0
    assert report_of(out)["summary"]["images"] == 1


def test_a_shard_replaces_only_what_is_its_own(segment: Any, images: Path, out: Path) -> None:
    assert segment(images, "--shard", "1/2").code == 0
    segment(images, "--shard", "1/2").error(2, out, "exists already", "--force")
    (out / "report.shard-1-of-2.json").unlink()
    segment(images, "--shard", "1/2").error(2, out / "a.png.json", "exists already")
    assert segment(images, "--shard", "2/2").code == 0
    assert segment(images, "--shard", "1/2", "--skip-existing").code == 0
    assert json.loads((out / "report.shard-1-of-2.json").read_text())["summary"]["skipped"] == 2


def test_a_run_that_would_write_masks_anew_does_not_begin(segment: Any, good: Path, out: Path) -> None:
    out.mkdir()
    (out / "annotations.coco.json").write_text("{}")
    segment(good).error(2, out / "annotations.coco.json", "exists already", "--force")


@pytest.mark.parametrize("again", ["--force", "--skip-existing"])
def test_a_whole_run_leaves_no_report_of_shards(
    segment: Any, invoke: Any, good: Path, tmp_path: Path, out: Path, again: str
) -> None:
    assert segment(good, "--shard", "1/1").code == 0
    for path in out.glob("good.png.*"):
        path.unlink()
    segment(good).error(2, out / "report.shard-1-of-1.json", "exists already", "--force")
    assert segment(good, again, "--seed", 5).code == 0
    assert not (out / "report.shard-1-of-1.json").exists()
    assert invoke("report", "merge", out, "--output", tmp_path / "all").code == 0
    assert report_of(tmp_path / "all")["settings"]["seed"] == 5


def test_a_shard_leaves_no_report_of_a_whole_run(segment: Any, good: Path, out: Path) -> None:
    whole = {*ONCE, "annotations.coco.json"}
    assert segment(good, "--format", "coco").code == 0
    segment(good, "--shard", "2/2").error(2, out / "report.json", "exists already", "--force")
    assert segment(good, "--shard", "2/2", "--skip-existing").code == 0
    assert whole <= set(os.listdir(out)), "nothing has been replaced"
    assert segment(good, "--shard", "1/2", "--force").code == 0
    assert not whole & set(os.listdir(out))


def test_shards_that_learn_from_corrected_masks(
    segment: Any, invoke: Any, seven: Path, good: Path, tmp_path: Path, out: Path
) -> None:
    assert segment(seven, "--output", tmp_path / "draft").code == 0
    corrected = tmp_path / "corrected"
    corrected.mkdir()
    shutil.copy(tmp_path / "draft" / "b.png.mask.png", corrected / "a.png")  # of another image, so it is a correction
    like = ("--like", corrected)
    assert segment(seven, "--output", tmp_path / "plain", *like).code == 0
    assert [segment(seven, *like, "--shard", f"{number}/2").code for number in (1, 2)] == [0, 0]
    assert invoke("report", "merge", out, "--output", out).code == 0
    assert contents(out) == contents(tmp_path / "plain")
    segment(good, "--shard", "1/1").error(2, out / "head.safetensors", "exists already")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1"])
def test_what_is_no_shard(segment: Any, good: Path, out: Path, shard: str) -> None:
    segment(good, "--shard", shard).error(2, "--shard", "write I/N")
    assert not out.exists()


class TestMerge:
    def test_nothing_is_replaced_without_force(self, segment: Any, invoke: Any, good: Path, out: Path) -> None:
        assert segment(good, "--shard", "1/1").code == 0
        assert invoke("report", "merge", out, "--output", out).code == 0
        before = (out / "report.json").read_bytes()
        invoke("report", "merge", out, "--output", out).error(2, out / "report.json", "--force")
        assert invoke("report", "merge", out, "--output", out, "--force").code == 0
        assert (out / "report.json").read_bytes() == before

    def test_the_masks_of_an_earlier_run_do_not_stay(self, segment: Any, invoke: Any, good: Path, out: Path) -> None:
        assert segment(good, "--shard", "1/1").code == 0
        coco = out / "annotations.coco.json"
        coco.write_text("{}")
        invoke("report", "merge", out, "--output", out).error(2, coco, "exists already", "--force")
        assert invoke("report", "merge", out, "--output", out, "--force").code == 0
        assert [each["file_name"] for each in json.loads(coco.read_text())["images"]] == ["good.png"]

    def test_a_report_is_not_replaced_by_one_of_which_it_is_part(
        self, segment: Any, invoke: Any, good: Path, out: Path
    ) -> None:
        assert segment(good).code == 0
        invoke("report", "merge", out, "--output", out, "--force").error(2, out / "report.json", "is part of")

    def test_backends_that_differ_are_said(
        self, segment: Any, invoke: Any, images: Path, out: Path, tmp_path: Path
    ) -> None:
        for number, backend in ((1, "openvino"), (2, "onnxruntime")):
            assert segment(images, "--shard", f"{number}/2", "--backend", backend).code == 0
        merged = invoke("report", "merge", out, "--output", out)
        assert merged.code == 0
        assert "not all images were segmented by the same backend: openvino, onnxruntime" in merged.err

    def test_a_group_alone_shows_its_help(self, invoke: Any) -> None:
        assert invoke("report").code == 2
        assert "merge" in invoke("report", "--help").out

    @pytest.mark.skipif(os.name != "posix", reason="needs a folder in a file's place")
    def test_a_place_that_is_a_file(self, segment: Any, invoke: Any, good: Path, out: Path) -> None:
        assert segment(good).code == 0
        invoke("report", "merge", out, "--output", good).error(1, good, "cannot be written")
