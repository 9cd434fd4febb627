"""The part of an evaluation's table that tells of volumes; every ``report`` is one whose volumes were scored."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ..measures.tables import counted, number

SIDES = "l"
MOST_NAMED = 5  # volumes in one line


def heading(report: dict[str, Any]) -> str:
    """What was scored and in which unit, for Markdown."""
    spacing = report["spacing_mm"]
    unit = "voxels" if spacing is None else f"mm at a spacing of {' x '.join(f'{each:g}' for each in spacing)}"
    return f"{counted(_size(report), 'volume')}, distances in {unit}. Means over volumes, and of these over classes."


def cells(report: dict[str, Any]) -> list[list[str]]:
    """Heads, a row for each class, and one of the means over classes, missed and invented summed."""
    summaries = report["volume_summary"]
    scores = {"dice": "Dice"}
    if "hd95" in summaries[0]:
        scores["hd95"] = f"HD95 {'voxels' if report['spacing_mm'] is None else 'mm'}"
    mean = {
        "class": "mean",
        "volumes": _size(report),
        **{name: _mean([each[name] for each in summaries]) for name in scores},
        **{name: sum(each[name] for each in summaries) for name in ("missed", "invented")},
    }
    lines = [["class", "volumes", *scores.values(), "missed", "invented"]]
    for each in (*summaries, mean):
        line = [str(each["class"]), str(each["volumes"])]
        line += [number(each[name], 1 if name == "hd95" else 4) for name in scores]
        lines.append([*line, str(each["missed"]), str(each["invented"])])
    return lines


def remarks(report: dict[str, Any]) -> list[str]:
    """What was empty, and what is in no mean."""
    told = []
    if any(each["missed"] or each["invented"] for each in report["volume_summary"]):
        told.append("volumes: missed and invented have Dice 0 each, HD95 not defined")
    for each in report["volume_summary"]:
        neither = each["volumes"] - each["dice_defined"]
        if neither:
            told.append(f"volumes class {each['class']}: {neither} both empty (no score, in no mean)")
    left_out = [each["name"] for each in report["volumes_left_out"]]
    if left_out:
        names = ", ".join([*left_out[:MOST_NAMED], "..."] if len(left_out) > MOST_NAMED else left_out)
        told.append(f"{counted(len(left_out), 'volume')} left out, in no number: {names}")
    return told


def _size(report: dict[str, Any]) -> int:
    return len({each["volume"] for each in report["volumes"]})


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
