"""An evaluation for the terminal, a README and a spreadsheet."""

from __future__ import annotations

import csv
import io
from pathlib import PurePath
from typing import Any

_HEADS = {"iou": "IoU", "hm": "HM", "xor": "XOR", "hd95": "HD95 px", "surface_dice": "surface Dice"}
_GAP = "  "
_NONE = "-"


def terminal(report: dict[str, Any]) -> str:
    """The table, and below it what was empty or not defined.

    Args:
        report: see ``docs/command-line.md``.
    """
    lines = _cells(report)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = [
        _GAP.join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*told, *_remarks(report)]) + "\n"


def markdown(report: dict[str, Any]) -> str:
    """The same for a README, with the settings and the worst images."""
    head, *rows = _cells(report)
    ruler = ["---" if index < 2 else "---:" for index in range(len(head))]
    table = "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in (head, ruler, *rows))
    settings = report["settings"]
    seeds = ", ".join(map(str, settings["seeds"]))
    preset = settings["preset"] or "the bundle's"
    above = (
        f"{_counted(report['images'], 'image')}, {'seeds' if len(settings['seeds']) > 1 else 'seed'} {seeds},"
        f" {preset} preset, foreground {settings['foreground']}. Means with their"
        f" {report['confidence']:.0%} intervals over images. All protocols but label-free see the ground truth."
    )
    worst = [f"{_name(summary)}, worst: {_worst(summary)}." for summary in report["summary"] if summary["worst"]]
    parts = [_escaped(above), table, "\n".join(f"- {_escaped(line)}" for line in [*_remarks(report), *worst])]
    return "\n\n".join(part for part in parts if part) + "\n"


def csv_text(report: dict[str, Any]) -> str:
    """One line for each image, method, protocol, seed and class; what is not defined is left blank."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, report["rows"][0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(report["rows"])
    return stream.getvalue()


def _cells(report: dict[str, Any]) -> list[list[str]]:
    """Heads and rows."""
    summaries = report["summary"]
    classes = any(summary["class"] is not None for summary in summaries)
    others = [name for name in _HEADS if name in summaries[0]]
    heads = ["method", "protocol", *(["class"] if classes else []), "images", "DSC", f"{report['confidence']:.0%}"]
    heads += ["median", "worst", *(_HEADS[name] for name in others)]
    lines = [heads]
    for summary in summaries:
        dsc = summary["dsc"]
        line = [summary["method"], summary["protocol"]]
        line += [str(summary["class"])] if classes else []
        line += [str(summary["images"]), _number(dsc["mean"], 4), _interval(dsc["low"], dsc["high"])]
        line += [_number(dsc["median"], 4), _number(dsc["worst"], 4)]
        line += [_number(summary[name]["mean"], 1 if name == "hd95" else 4) for name in others]
        lines.append(line)
    return lines


def _remarks(report: dict[str, Any]) -> list[str]:
    """What was empty, and what of it is in no mean."""
    told = []
    for summary in report["summary"]:
        one_sided = [
            f"{_counted(summary[key], what)} empty"
            for key, what in (("empty_predictions", "prediction"), ("empty_truths", "truth"))
            if summary[key]
        ]
        if one_sided:
            told.append(f"{_name(summary)}: {', '.join(one_sided)} (DSC 0 each, HD95 not defined)")
        if summary["both_empty"]:
            told.append(f"{_name(summary)}: {summary['both_empty']} both empty (no score, in no mean)")
    return told


def _worst(summary: dict[str, Any]) -> str:
    return ", ".join(f"{PurePath(each['image']).name} {each['dsc']:.3f}" for each in summary["worst"])


def _name(summary: dict[str, Any]) -> str:
    of_class = "" if summary["class"] is None else f" class {summary['class']}"
    return f"{summary['method']} {summary['protocol']}{of_class}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _interval(low: float | None, high: float | None) -> str:
    return _NONE if low is None or high is None else f"{low:.4f}-{high:.4f}"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
