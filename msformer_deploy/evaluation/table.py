"""An evaluation for the terminal, a README and a spreadsheet."""

from __future__ import annotations

import csv
import io
from pathlib import PurePath
from typing import Any

from ..foreground.confidence import LOW
from ..measures.tables import NONE, aligned, counted, escaped, listed, number, ruled
from . import LABEL_FREE, volume_table

_HEADS = {"iou": "IoU", "hm": "HM", "xor": "XOR", "hd95": "HD95", "surface_dice": "surface Dice"}
_OF = {"px": "images (px)", "mm": "volumes (mm)", "voxels": "volumes (voxels)"}
_SIDES = "ll"


def terminal(report: dict[str, Any]) -> str:
    """The table, and below it what was empty, undefined or in doubt; then the same of volumes if there are any.

    Args:
        report: see ``docs/reference/reports.md``.
    """
    lines = [*aligned(_cells(report), _SIDES), *_remarks(report)]
    if "volumes" in report:
        lines += ["", *aligned(volume_table.cells(report), volume_table.SIDES), *volume_table.remarks(report)]
    return "\n".join(lines) + "\n"


def markdown(report: dict[str, Any]) -> str:
    """The same for a README, with the settings and the worst images."""
    settings = report["settings"]
    seeds = ", ".join(map(str, settings["seeds"]))
    preset = settings["preset"] or "the bundle's"
    volumes = len({row["image"] for row in report["rows"] if row["unit"] != "px"})
    kinds = {"image": report["images"] - volumes, "volume": volumes}
    judged = ", ".join(counted(count, what) for what, count in kinds.items() if count)
    over = " and ".join(f"{what}s" for what, count in kinds.items() if count)
    above = (
        f"{judged}, {'seeds' if len(settings['seeds']) > 1 else 'seed'} {seeds},"
        f" {preset} preset, foreground {settings['foreground']}. Means with their"
        f" {report['confidence']:.0%} intervals over {over}. All protocols but label-free see the ground truth."
    )
    worst = [f"{_name(summary)}, worst: {_worst(summary)}." for summary in report["summary"] if summary["worst"]]
    parts = [escaped(above), ruled(_cells(report), _SIDES), listed([*_remarks(report), *worst])]
    if "volumes" in report:
        parts += [volume_table.heading(report), ruled(volume_table.cells(report), volume_table.SIDES)]
        parts.append(listed(volume_table.remarks(report)))
    return "\n\n".join(part for part in parts if part) + "\n"


def csv_text(report: dict[str, Any]) -> str:
    """One line for each image, method, protocol, seed and class; what is not defined is left blank."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, max(report["rows"], key=len), lineterminator="\n")  # volumes have fewer scores
    writer.writeheader()
    writer.writerows(report["rows"])
    return stream.getvalue()


def _cells(report: dict[str, Any]) -> list[list[str]]:
    """Heads and rows."""
    summaries = report["summary"]
    classes = any(summary["class"] is not None for summary in summaries)
    units = list(dict.fromkeys(summary["unit"] for summary in summaries))
    others = [name for name in _HEADS if any(name in summary for summary in summaries)]
    heads = ["method", "protocol", *(["class"] if classes else []), *(["of"] if units != ["px"] else [])]
    heads += ["images", "DSC", f"{report['confidence']:.0%}", "median", "worst"]
    heads += [f"{_HEADS[name]} {units[0]}" if name == "hd95" and len(units) == 1 else _HEADS[name] for name in others]
    lines = [heads]
    for summary in summaries:
        dsc = summary["dsc"]
        line = [summary["method"], summary["protocol"]]
        line += [str(summary["class"])] if classes else []
        line += [_OF[summary["unit"]]] if units != ["px"] else []
        line += [str(summary["images"]), number(dsc["mean"], 4), _interval(dsc["low"], dsc["high"])]
        line += [number(dsc["median"], 4), number(dsc["worst"], 4)]
        means = {name: summary[name]["mean"] if name in summary else None for name in others}
        line += [number(mean, 1 if name == "hd95" else 4) for name, mean in means.items()]
        lines.append(line)
    return lines


def _remarks(report: dict[str, Any]) -> list[str]:
    """What was empty, what of it is in no mean, and what masks in doubt are worth."""
    told = []
    head = report["settings"].get("head")
    if head is not None and any(summary["protocol"] == LABEL_FREE for summary in report["summary"]):
        told.append(
            f"{LABEL_FREE} of images: with what {counted(head['images'], 'corrected image')} taught the bundle (weight"
            f" {head['weight']:g}), not label-free alone"
        )
    for summary in report["summary"]:
        one_sided = [
            f"{counted(summary[key], what)} empty"
            for key, what in (("empty_predictions", "prediction"), ("empty_truths", "truth"))
            if summary[key]
        ]
        if one_sided:
            told.append(f"{_name(summary)}: {', '.join(one_sided)} (DSC 0 each, HD95 not defined)")
        if summary["both_empty"]:
            told.append(f"{_name(summary)}: {summary['both_empty']} both empty (no score, in no mean)")
        if "in_doubt" in summary and summary["in_doubt"]["results"]:
            doubted, others = summary["in_doubt"], summary["not_in_doubt"]
            beside = (
                f"; mean DSC of the {counted(others['results'], 'other')} {number(others['dsc'], 4)}"
                if others["results"]
                else ""
            )
            masks = f"{counted(doubted['results'], 'mask')} in doubt (expected DSC below {LOW:g})"
            told.append(f"{_name(summary)}: {masks}, mean DSC {number(doubted['dsc'], 4)}{beside}")
    return told + [_like(each) for each in report.get("corrected", ())]


def _like(found: dict[str, Any]) -> str:
    """What corrected images are worth."""
    what = f"like {counted(found['corrected'], 'corrected image')}"
    if not found["images"]:
        return f"{what}: too few images could be judged"
    dsc, free, difference = (found[name] for name in ("dsc", "label_free", "difference"))
    limits = "" if difference["low"] is None else f", 95 % from {difference['low']:+.4f} to {difference['high']:+.4f}"
    return (
        f"{what}: DSC {number(dsc['mean'], 4)} of the others, {number(free['mean'], 4)} without; difference"
        f" {difference['mean']:+.4f}{limits} ({counted(found['images'], 'image')}, {counted(found['draws'], 'draw')})"
    )


def _worst(summary: dict[str, Any]) -> str:
    return ", ".join(f"{PurePath(each['image']).name} {each['dsc']:.3f}" for each in summary["worst"])


def _name(summary: dict[str, Any]) -> str:
    of_class = "" if summary["class"] is None else f" class {summary['class']}"
    of = "" if summary["unit"] == "px" else f" of {_OF[summary['unit']]}"
    return f"{summary['method']} {summary['protocol']}{of_class}{of}"


def _interval(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{low:.4f}-{high:.4f}"
