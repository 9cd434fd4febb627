"""The table of volumes: a row for each class and their mean, the unit of distances, and what is in no mean."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from msformer_deploy.evaluation import volume_table
from msformer_deploy.measures.volumes import VolumeScore, summarise

NAN = math.nan
SCORES = [
    VolumeScore("a", 1, 0.5, 4.0, False, False),
    VolumeScore("a", 2, 0.0, NAN, True, False),
    VolumeScore("a", 3, NAN, NAN, True, True),
    VolumeScore("b", 1, 1.0, 0.5, False, False),
    VolumeScore("b", 2, 0.0, NAN, False, True),
    VolumeScore("b", 3, NAN, NAN, True, True),
]


def plain(thing: object) -> dict[str, Any]:
    known = {name: value for name, value in asdict(thing).items() if value is not None}
    told = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in known.items()}
    return {"class": told.pop("class_id"), **told}


def report(scores: list[VolumeScore], **changes: Any) -> dict[str, Any]:
    return {
        "spacing_mm": None,
        "volumes": [plain(each) for each in scores],
        "volume_summary": [plain(each) for each in summarise(scores)],
        "volumes_left_out": [],
        **changes,
    }


def test_a_row_for_each_class_and_their_mean():
    cells = volume_table.cells(report(SCORES))
    assert cells == [
        ["class", "volumes", "Dice", "HD95 voxels", "missed", "invented"],
        ["1", "2", "0.7500", "2.2", "0", "0"],
        ["2", "2", "0.0000", "-", "1", "1"],
        ["3", "2", "-", "-", "0", "0"],
        ["mean", "2", "0.3750", "2.2", "1", "1"],
    ]


@pytest.mark.parametrize(
    ("spacing", "head", "told"),
    [
        (None, "HD95 voxels", "2 volumes, distances in voxels."),
        ([10.0, 1.25, 1.25], "HD95 mm", "2 volumes, distances in mm at a spacing of 10 x 1.25 x 1.25."),
    ],
)
def test_the_unit_is_told(spacing, head, told):
    made = report(SCORES, spacing_mm=spacing)
    assert volume_table.cells(made)[0][3] == head
    assert volume_table.heading(made).startswith(told)


def test_without_distances_there_is_no_column_of_them():
    scores = [VolumeScore("a", 1, 0.5, None, False, False)]
    assert volume_table.cells(report(scores)) == [
        ["class", "volumes", "Dice", "missed", "invented"],
        ["1", "1", "0.5000", "0", "0"],
        ["mean", "1", "0.5000", "0", "0"],
    ]
    assert volume_table.heading(report(scores)).startswith("1 volume, ")


def test_nothing_defined_is_a_dash():
    *_, mean = volume_table.cells(report([VolumeScore("a", 1, NAN, NAN, True, True)]))
    assert mean == ["mean", "1", "-", "-", "0", "0"]


def test_what_is_in_no_mean_is_told():
    assert volume_table.remarks(report(SCORES)) == [
        "volumes: missed and invented have Dice 0 each, HD95 not defined",
        "volumes class 3: 2 both empty (no score, in no mean)",
    ]
    assert volume_table.remarks(report([SCORES[0], SCORES[3]])) == []


@pytest.mark.parametrize(
    ("count", "told"),
    [(1, "1 volume left out, in no number: v0"), (6, "6 volumes left out, in no number: v0, v1, v2, v3, v4, ...")],
)
def test_what_was_left_out_is_named(count, told):
    left_out = [{"name": f"v{index}", "reason": "gone"} for index in range(count)]
    assert volume_table.remarks(report([SCORES[0]], volumes_left_out=left_out)) == [told]
