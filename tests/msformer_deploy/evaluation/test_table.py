"""An evaluation as text: the same numbers in each, and what was empty told in words."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from msformer_deploy.evaluation import table

ROW = {"image": "x/a.png", "mask": "m/a.png", "seed": 0, "class": None, "unit": "px"}


def summary(method: str, protocol: str, **changes: Any) -> dict[str, Any]:
    numbers = {"mean": 0.5, "median": 0.6, "worst": 0.1, "left_out": 0}
    return {
        "method": method,
        "protocol": protocol,
        "class": None,
        "unit": "px",
        "images": 4,
        "empty_predictions": 0,
        "empty_truths": 0,
        "both_empty": 0,
        "dsc": numbers | {"low": 0.4123, "high": 0.6},
        **dict.fromkeys(("iou", "hm", "xor", "hd95", "surface_dice"), numbers),
        "worst": [{"image": "x/a|b.png", "seed": 0, "dsc": 0.1}],
        **changes,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "confidence": 0.95,
        "images": 4,
        "settings": {"seeds": [0, 1], "preset": None, "foreground": "auto"},
        "summary": [summary("msformer", "label-free"), summary("otsu", "label-free")],
        "rows": [
            {**ROW, "method": "msformer", "protocol": "label-free", "dsc": 0.5, "hd95": None},
            {**ROW, "method": "otsu", "protocol": "label-free", "seed": None, "dsc": 0.25, "hd95": 3.5},
        ],
    }


def test_the_terminal_has_a_line_for_each_method(report):
    head, ours, otsu = table.terminal(report).splitlines()
    assert head.split() == [
        "method",
        "protocol",
        "images",
        "DSC",
        "95%",
        "median",
        "worst",
        "IoU",
        "HM",
        "XOR",
        "HD95",
        "px",
        "surface",
        "Dice",
    ]
    assert ours.split()[:7] == ["msformer", "label-free", "4", "0.5000", "0.4123-0.6000", "0.6000", "0.1000"]
    assert otsu.startswith("otsu ")
    assert max(map(len, (head, ours, otsu))) <= 120


def test_what_was_empty_is_told(report):
    report["summary"][0] |= {"empty_predictions": 3, "empty_truths": 1, "both_empty": 2}
    *_, one_sided, both = table.terminal(report).splitlines()
    assert one_sided == "msformer label-free: 3 predictions empty, 1 truth empty (DSC 0 each, HD95 not defined)"
    assert both == "msformer label-free: 2 both empty (no score, in no mean)"
    assert one_sided in table.markdown(report)


def test_masks_in_doubt_are_told_beside_the_others(report):
    doubted, others = {"results": 2, "dsc": 0.25}, {"results": 6, "dsc": 0.875}
    report["summary"][0] |= {"in_doubt": doubted, "not_in_doubt": others}
    told = table.terminal(report).splitlines()[-1]
    ours = "msformer label-free: 2 masks in doubt (expected DSC below 0.7), mean DSC 0.2500"
    assert told == f"{ours}; mean DSC of the 6 others 0.8750"
    assert told in table.markdown(report)
    report["summary"][0]["not_in_doubt"] = {"results": 0, "dsc": None}
    assert table.terminal(report).splitlines()[-1] == ours
    report["summary"][0]["in_doubt"] = {"results": 0, "dsc": None}
    assert "doubt" not in table.terminal(report)


def test_classes_have_a_column_where_there_are_any(report):
    assert "class" not in table.terminal(report).splitlines()[0].split()
    report["summary"] = [summary("msformer", "published", **{"class": 3}, both_empty=1)]
    head, line, remark = table.terminal(report).splitlines()
    assert head.split()[2] == "class"
    assert line.split()[2] == "3"
    assert remark.startswith("msformer published class 3: ")


def test_columns_that_were_not_computed_are_absent_and_unknown_is_a_dash(report):
    nothing = dict.fromkeys(("mean", "median", "worst", "low", "high"))
    for each in report["summary"]:
        del each["hd95"], each["surface_dice"]
        each["dsc"] = nothing
    head, line, _ = table.terminal(report).splitlines()
    assert "HD95" not in head
    assert line.split()[3:7] == ["-"] * 4


def test_volumes_are_apart_from_images(report):
    volumes = summary("msformer", "label-free", unit="mm")
    del volumes["surface_dice"]
    report["summary"].append(volumes)
    report["rows"].insert(0, {**ROW, "unit": "mm", "method": "msformer", "protocol": "label-free", "dsc": 0.75})
    assert table.markdown(report).startswith("3 images, 1 volume, seeds 0, 1,")
    head, ours, _, mm = table.terminal(report).splitlines()
    assert "HD95 px" not in head
    assert [line[line.index("label-free") :].split()[1:3] for line in (ours, mm)] == [
        ["images", "(px)"],
        ["volumes", "(mm)"],
    ]
    assert mm.split()[-1] == "-"
    report["summary"] = [volumes]
    head, _ = table.terminal(report).splitlines()
    assert head.split()[-2:] == ["HD95", "mm"]
    assert len(csv.DictReader(io.StringIO(table.csv_text(report))).fieldnames or ()) == len(report["rows"][1])


def test_markdown_is_a_table_with_the_worst_named(report):
    text = table.markdown(report)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "4 images, seeds 0, 1, the bundle's preset, foreground auto" in text
    assert "- msformer label-free, worst: a\\|b.png 0.100." in text
    assert "All protocols but label-free see the ground truth" in text


def test_csv_has_a_line_for_each_score_and_blanks_for_what_is_not_defined(report):
    lines = list(csv.DictReader(io.StringIO(table.csv_text(report))))
    assert [(line["method"], line["seed"], line["dsc"], line["hd95"]) for line in lines] == [
        ("msformer", "0", "0.5", ""),
        ("otsu", "", "0.25", "3.5"),
    ]


VOLUMES = {
    "spacing_mm": [10.0, 1.25, 1.25],
    "volumes": [{"volume": "p", "class": 1, "dice": 0.5, "hd95": 3.0}],
    "volume_summary": [
        {"class": 1, "dice": 0.5, "hd95": 3.0, "volumes": 1, "dice_defined": 1, "missed": 0, "invented": 0}
    ],
    "volumes_left_out": [{"name": "q|r", "reason": "gone"}],
}


def test_volumes_come_after_the_images(report):
    plain, told = table.terminal(report), table.terminal(report | VOLUMES)
    assert told.startswith(plain + "\n")
    assert told.removeprefix(plain).splitlines() == [
        "",
        "class  volumes    Dice  HD95 mm  missed  invented",
        "1            1  0.5000      3.0       0         0",
        "mean         1  0.5000      3.0       0         0",
        "1 volume left out, in no number: q|r",
    ]
    plain, told = table.markdown(report), table.markdown(report | VOLUMES)
    assert told.removeprefix(plain).splitlines() == [
        "",
        "1 volume, distances in mm at a spacing of 10 x 1.25 x 1.25. Means over volumes, and of these over classes.",
        "",
        "| class   |   volumes |   Dice |   HD95 mm |   missed |   invented |",
        "|:--------|----------:|-------:|----------:|---------:|-----------:|",
        "| 1       |         1 | 0.5000 |       3.0 |        0 |          0 |",
        "| mean    |         1 | 0.5000 |       3.0 |        0 |          0 |",
        "",
        "- 1 volume left out, in no number: q\\|r",
    ]
    assert table.csv_text(report | VOLUMES) == table.csv_text(report)
