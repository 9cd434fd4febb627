"""Reports that belong together become one; those that do not are refused with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.results import merge
from msformer_deploy.results.merge import Part

Report = dict[str, Any]


def entry(name: str, **changes: Any) -> Report:
    candidates = [{"number": 1, "mask": f"{name}.mask.png", "confidence": 0.5, "area_fraction": 0.1}]
    return {
        "input": f"in/{name}",
        **{key: f"{name}.{key}.png" for key in ("label_map", "mask", "overlay", "probability")},
        "files": {"nifti": [f"{name}.mask.nii.gz"]},
        "foreground": {"candidates": candidates, "doubt": None},
        "skipped": False,
        "error": None,
        "seconds": {"total": 1.0},
        **changes,
    }


def failed(name: str) -> Report:
    return {
        "input": f"in/{name}",
        **dict.fromkeys(("label_map", "mask", "overlay")),
        "skipped": False,
        "error": "it broke",
        "seconds": {},
    }


def of_run(*images: Report, **changes: Any) -> Report:
    broken = sum(each["error"] is not None for each in images)
    counts = {"images": len(images), "done": len(images) - broken, "failed": broken, "skipped": 0, "doubted": 1}
    return {
        "images": list(images),
        "backend": "openvino",
        "provider": "CPU",
        "kernels": "reference",
        "formats": [],
        "settings": {"system": "msformer", "bundle": "/here", "structure": "object", "refinement": {"steps": 5}},
        "versions": {"python": "3.11.7"},
        "summary": {**counts, "seconds": 1.5, "images_per_second": 3.0},
        "passed_over": {".txt": 2},
        "interrupted": False,
        **changes,
    }


def of_shard(number: int, names: str, positions: list[int], count: int = 2, **changes: Any) -> Report:
    told = {"number": number, "count": count, "inputs": 3, "inputs_sha256": "ab", "positions": positions}
    return of_run(*map(entry, names), **{"shard": told, **changes})


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., list[Part]]:
    """Write reports, each into a folder of its own, and read them as parts."""

    def save(*reports: Report) -> list[Part]:
        folders = [tmp_path / f"part-{number}" for number in range(1, len(reports) + 1)]
        for folder, content in zip(folders, reports, strict=True):
            folder.mkdir()
            if "shard" in content:
                merge.write_shard(folder, content)
            else:
                (folder / "report.json").write_text(json.dumps(content))
        return merge.read_parts(folders)

    return save


def test_shards_come_in_the_order_of_the_inputs(save: Any, tmp_path: Path) -> None:
    found = merge.merge(save(of_shard(2, "b", [1]), of_shard(1, "ac", [0, 2])), tmp_path)
    assert [each["input"] for each in found["images"]] == ["in/a", "in/b", "in/c"]
    assert found["summary"] == {
        "images": 3,
        "done": 3,
        "failed": 0,
        "skipped": 0,
        "doubted": 2,
        "seconds": 3.0,
        "images_per_second": None,
    }
    assert found["passed_over"] == {".txt": 2}, "both have seen the same files"
    assert "shard" not in found
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert {"measurements.csv", "index.html"} <= set(os.listdir(tmp_path))


def test_runs_come_one_after_the_other_with_all_counts(save: Any, tmp_path: Path) -> None:
    other = of_run(failed("b"), interrupted=True, passed_over={".txt": 1, ".zip": 1})
    found = merge.merge(save(of_run(entry("z")), other), tmp_path)
    assert [each["input"] for each in found["images"]] == ["in/z", "in/b"]
    assert [found["summary"][each] for each in ("images", "done", "failed", "doubted")] == [2, 1, 1, 2]
    assert (found["passed_over"], found["interrupted"]) == ({".txt": 3, ".zip": 1}, True)


def test_every_path_leads_from_the_merged_report_to_its_file(save: Any, tmp_path: Path) -> None:
    found = merge.merge(save(of_run(entry("sub/a")), of_run(failed("b"))), tmp_path / "merged")["images"]
    assert found[0]["mask"] == "../part-1/sub/a.mask.png"
    assert found[0]["files"] == {"nifti": ["../part-1/sub/a.mask.nii.gz"]}
    assert found[0]["foreground"]["candidates"][0]["mask"] == "../part-1/sub/a.mask.png"
    assert found[0]["input"] == "in/sub/a"
    assert {found[0][each][:10] for each in ("label_map", "overlay", "probability")} == {"../part-1/"}
    assert found[1]["mask"] is None


def test_machines_that_differ_are_all_named(save: Any, tmp_path: Path) -> None:
    one = of_run(entry("a"))
    other = of_run(entry("b"), backend="onnxruntime", versions={"python": "3.12.1", "numpy": "2.4.6"})
    other["settings"] = {**other["settings"], "bundle": "/there"}  # the place decides nothing
    found = merge.merge(save(one, other), tmp_path)
    assert found["backend"] == "openvino, onnxruntime"
    assert found["provider"] == "CPU"
    assert found["versions"] == {"python": "3.11.7, 3.12.1", "numpy": "none, 2.4.6"}
    assert found["settings"]["bundle"] == "/here"


SHARD_1, SHARD_2 = of_shard(1, "ac", [0, 2]), of_shard(2, "b", [1])


def other_steps(content: Report) -> Report:
    return {**content, "settings": {**content["settings"], "refinement": {"steps": 6}}}


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ([of_run(entry("x")), SHARD_1], "is the report of a whole run"),
        ([SHARD_1, of_shard(2, "b", [1], count=4)], "is one of 4 shards, but .* is one of 2"),
        ([SHARD_1, SHARD_1], "is shard 1 as .*part-1"),
        ([SHARD_1], r"shards without a report: 1 of 2 \(2\); run --shard 2/2"),
        ([of_shard(9, "a", [0], count=9)], r"8 of 9 \(1, 2, 3, 4, 5, \.\.\.\)"),
        ([SHARD_1, {**SHARD_2, "interrupted": True}], "shard 2 was stopped before its end"),
        ([SHARD_1, of_shard(2, "", [1])], "shard 2 was stopped before its end"),
        (
            [SHARD_1, {**SHARD_2, "shard": {**SHARD_2["shard"], "inputs_sha256": "cd"}}],
            r"saw other inputs .*, or in another order",
        ),
        ([SHARD_1, {**SHARD_2, "shard": {**SHARD_2["shard"], "inputs": 4}}], r"saw other inputs .*\(4 and 3\)"),
        ([SHARD_1, other_steps(SHARD_2)], r"other settings than .*\(refinement\.steps\)"),
        ([of_run(entry("a")), of_run(entry("b"), formats=["coco"])], r"other settings than .*\(formats\)"),
        ([of_run(entry("a")), other_steps(of_run(entry("b")))], r"refinement\.steps"),
        ([of_run(entry("a")), of_run(entry("b"), entry("a"))], "in/a: is in both .*part-1.* and .*part-2"),
        ([SHARD_1, of_shard(2, "a", [1])], "in/a: is in both"),
    ],
)
def test_what_does_not_belong_together_is_refused(save: Any, tmp_path: Path, reports: Any, message: str) -> None:
    parts = save(*reports)
    with pytest.raises(UsageError, match=message):
        merge.merge(parts, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_shards_in_a_folder_are_taken_and_not_the_report_that_was_merged_of_them(tmp_path: Path) -> None:
    for content in (SHARD_1, SHARD_2):
        merge.write_shard(tmp_path, content)
    (tmp_path / "report.json").write_text("{}")
    assert [part.file.name for part in merge.read_parts([tmp_path, tmp_path])] == [
        "report.shard-1-of-2.json",
        "report.shard-2-of-2.json",
    ]


def test_reports_of_shards_are_those_of_their_names(tmp_path: Path) -> None:
    assert merge.shard_reports(tmp_path / "none") == []
    for name in ("report.shard-2-of-3.json", "report.shard-2-of-3.json.txt", "report.json"):
        (tmp_path / name).touch()
    assert merge.shard_reports(tmp_path) == ["report.shard-2-of-3.json"]
    merge.remove_shards(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["report.json", "report.shard-2-of-3.json.txt"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, UsageError, "has neither report.json nor"),
        ("{", DeployError, "is not JSON"),
        ("[]", DeployError, "is not a report of run"),
        ("{}", DeployError, "is not a report of run"),
    ],
)
def test_a_folder_without_a_report(tmp_path: Path, content: str | None, error: Any, message: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(error, match=message):
        merge.read_parts([tmp_path])


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone: cannot be listed"):
        merge.read_parts([tmp_path / "gone"])


@pytest.mark.parametrize("changes", [{"images": [{}]}, {"images": 3}, {"summary": {}}, {"settings": None}])
def test_a_damaged_report_is_one_line(save: Any, tmp_path: Path, changes: Any) -> None:
    parts = save(of_run(entry("a"), **changes), of_run(entry("b")))
    with pytest.raises(DeployError, match="is damaged"):
        merge.merge(parts, tmp_path)


def test_a_folder_that_cannot_be_made(save: Any, tmp_path: Path) -> None:
    parts = save(of_run(entry("a")))
    (tmp_path / "file").touch()
    with pytest.raises(DeployError, match="file: cannot be written"):
        merge.merge(parts, tmp_path / "file")
