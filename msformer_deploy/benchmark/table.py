"""A benchmark report for the terminal, a README and a spreadsheet."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..measures.tables import GAP, NONE, aligned, counted, escaped, listed, ruled

Row = dict[str, Any]
Report = dict[str, Any]

NARROWEST = 60  # a terminal narrower than this is written for as if it were this wide
STAGES = (
    "decode",
    "preprocess",
    "host_to_device",
    "encoder",
    "whole_graph",
    "sample",
    "steps",
    "argmax",
    "figure",
    "device_to_host",
    "foreground",
    "write",
)  # in the order they run, the refinement's steps as one

_MARKDOWN_HEADS = {
    *("p50", "p95", "p99", "images", "speed-up", "labels", "DSC", "artefact", "load", "peak", "GPU peak")
}  # what decides a choice of backend
_CSV_SCALARS = (
    "name",
    "status",
    "reason",
    "exit_code",
    "bundle",
    "backend",
    "provider",
    "precision",
    "graph",
    "batch",
    "side",
    "refine",
    "compiled",
    "preset",
    "artefact_mb",
    "load_s",
    "first_run_ms",
    "p50_ms",
    "p90_ms",
    "p95_ms",
    "p99_ms",
    "min_ms",
    "max_ms",
    "mean_ms",
    "std_ms",
    "cv",
    "iterations",
    "images_per_second",
    "peak_memory_mb",
    "peak_device_memory_mb",
    "cuda_graph",
    "label_agreement",
    "dice_torch",
    "dice_truth",
    "stages_sum",
)


@dataclass(frozen=True)
class Column:
    """One column: what stands above it, its unit below that, and how a row's cell reads."""

    head: str
    unit: str
    cell: Callable[[Row], str]


def number(value: float | None, unit: float = 1) -> str:
    """``value`` in multiples of ``unit`` with three significant digits, whole from 100 on; a dash for None."""
    if value is None:
        return NONE
    scaled = value / unit
    decimals = next((digits for limit, digits in ((99.95, 0), (9.995, 1), (0.9995, 2)) if abs(scaled) >= limit), 3)
    return f"{scaled:.{decimals}f}"


def machine(report: Report) -> str:
    """What was measured on and when, in one line; what the report does not know is left out."""
    known = report["environment"]
    threads = known.get("threads") or {}
    cores, used = known.get("cores"), threads.get("used") or threads.get("asked")
    parts = [
        *(known.get("gpus") or ()),
        known.get("cpu"),
        *(counted(count, what) for count, what in ((cores, "core"), (used, "thread")) if count is not None),
        str(known.get("date") or "")[:10],
    ]
    return ", ".join(_line(part) for part in parts if part)


def steps_as_one(stages: dict[str, float]) -> dict[str, float]:
    """Milliseconds by stage, all steps of the refinement summed as ``steps``; in the order the stages run."""
    summed: dict[str, float] = {}
    for stage, value in stages.items():
        name = "steps" if stage == "step" or stage.startswith("step ") else stage
        summed[name] = summed.get(name, 0.0) + value
    order = {stage: place for place, stage in enumerate(STAGES)}
    return dict(sorted(summed.items(), key=lambda item: order.get(item[0], len(order))))


def terminal(report: Report, width: int) -> str:
    """Tables of a report: latency, stages, load, and below them what to know of the samples.

    Columns that do not fit are set below, under the same names; columns that no row has a value for are left out.

    Args:
        report: see ``docs/reference/reports.md``.
        width: characters per line; at least :data:`NARROWEST` are used.
    """
    width = max(width, NARROWEST)
    ran = [row for row in report["rows"] if row["status"] == "ok"]
    other = [row for row in report["rows"] if row["status"] != "ok"]
    parts = [machine(report)] if machine(report) else []
    if ran:
        parts += _stacked(ran, _summary_columns(report), width)
        parts += _stacked(ran, [_stage_columns(ran)], width)
    if other:
        parts.append("\n".join(_wrapped(f"{row['name']}: {_outcome(row)}", width) for row in other))
    if report["load"]:
        parts += _stacked(report["load"], [_load_columns()], width)
    if notes := _notes(report):
        parts.append("\n".join(_wrapped(note, width) for note in notes))
    return "\n\n".join(parts) + "\n"


def markdown(report: Report) -> str:
    """The same for a README, with fewer columns."""
    ran = [row for row in report["rows"] if row["status"] == "ok"]
    other = [row for row in report["rows"] if row["status"] != "ok"]
    parts = [f"Measured on {escaped(machine(report))}."] if machine(report) else []
    if ran:
        columns = [column for group in _summary_columns(report) for column in group if column.head in _MARKDOWN_HEADS]
        parts += [_markdown_table(ran, columns), _markdown_table(ran, _stage_columns(ran))]
    if report["load"]:
        parts.append(_markdown_table(report["load"], _load_columns()))
    lines = [*(f"{row['name']}: {_outcome(row)}" for row in other), *_notes(report)]
    if lines:
        parts.append(listed(lines))
    return "\n\n".join(parts) + "\n"


def csv_text(report: Report) -> str:
    """One line per row, the scalars of the report under their own names, then every stage in ms, then the warnings."""
    stages = dict.fromkeys(stage for row in report["rows"] for stage in row["stages_ms"] or ())
    speedup = ("ratio", "low", "high")
    heads = [
        *_CSV_SCALARS,
        *(f"speedup_{end}" for end in speedup),
        *(f"stage_{stage.replace(' ', '_')}_ms" for stage in stages),
        "warnings",
    ]
    lines = [
        [
            *(row.get(key) for key in _CSV_SCALARS),
            *((row["speedup"] or {}).get(end) for end in speedup),
            *((row["stages_ms"] or {}).get(stage) for stage in stages),
            "; ".join(row["warnings"]),
        ]
        for row in report["rows"]
    ]
    return _csv([heads, *lines])


def _summary_columns(report: Report) -> list[list[Column]]:
    """Columns that belong together, in groups."""

    def plain(head: str, unit: str, key: str, scale: float = 1) -> Column:
        return Column(head, unit, lambda row: number(row[key], scale))

    def score(unit: str, key: str) -> Column:
        return Column("DSC", unit, lambda row: NONE if row[key] is None else f"{row[key]:.4f}")

    baseline = report["settings"].get("baseline")
    return [
        [
            *(plain(name, "ms", f"{name}_ms") for name in ("p50", "p90", "p95", "p99", "min", "max", "mean", "std")),
            plain("cv", "%", "cv", 0.01),
            Column("calls", "", lambda row: str(row["iterations"])),
        ],
        [
            plain("images", "per s", "images_per_second"),
            Column("speed-up", "times (95 %)", lambda row: "baseline" if row["name"] == baseline else _speedup(row)),
        ],
        [
            Column("labels", "agree %", lambda row: _percent(row["label_agreement"])),
            score("to torch", "dice_torch"),
            score("to truth", "dice_truth"),
        ],
        [
            plain("artefact", "MB", "artefact_mb"),
            plain("load", "s", "load_s"),
            plain("first", "ms", "first_run_ms"),
            plain("peak", "MB", "peak_memory_mb"),
            plain("GPU peak", "MB", "peak_device_memory_mb"),
        ],
    ]


def _stage_columns(rows: Sequence[Row]) -> list[Column]:
    summed = {row["name"]: steps_as_one(row["stages_ms"] or {}) for row in rows}
    present = steps_as_one({stage: 0.0 for stages in summed.values() for stage in stages})

    def column(stage: str) -> Column:
        head = {"host_to_device": "to GPU", "device_to_host": "from GPU", "whole_graph": "graph"}.get(stage, stage)
        return Column(head, "ms", lambda row: number(summed[row["name"]].get(stage)))

    return [*(column(stage) for stage in present), Column("sum", "%", lambda row: number(row["stages_sum"], 0.01))]


def _load_columns() -> list[Column]:
    def percentile(name: str) -> Column:
        return Column(name, "ms", lambda row: number(row[f"{name}_ms"]))

    return [
        Column("threads", "", lambda row: str(row["concurrency"])),
        Column("images", "per s", lambda row: number(row["images_per_second"])),
        *(percentile(name) for name in ("p50", "p90", "p95", "p99", "max")),
        Column("done", "", lambda row: str(row["images"])),
        Column("for", "s", lambda row: number(row["duration_s"])),
    ]


def _speedup(row: Row) -> str:
    if row["speedup"] is None:
        return NONE
    ratio, low, high = (row["speedup"][end] for end in ("ratio", "low", "high"))
    return number(ratio) if low is None else f"{number(ratio)} ({number(low)}-{number(high)})"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.2f}"


def _outcome(row: Row) -> str:
    return f"{row['status']}, {_line(row['reason'])}" if row["reason"] else str(row["status"])


def _notes(report: Report) -> list[str]:
    """Warnings, those that several rows share told once."""
    found: dict[str, list[str]] = {}
    for row in report["rows"]:
        for warning in row["warnings"]:
            found.setdefault(_line(warning), []).append(row["name"])
    every = [row["name"] for row in report["rows"] if row["status"] == "ok"]
    return [
        *(_line(warning) for warning in report["warnings"]),
        *(
            f"{'all rows' if names == every and len(every) > 1 else ', '.join(names)}: {text}"
            for text, names in found.items()
        ),
    ]


def _line(text: str) -> str:
    return " ".join(text.split())


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=True, break_on_hyphens=False)


def _stacked(rows: Sequence[Row], groups: Sequence[Sequence[Column]], width: int) -> list[str]:
    """As many tables as the columns need; groups stay together where they fit at all."""
    names = [textwrap.wrap(row["name"], max(16, width // 3), break_on_hyphens=False) for row in rows]
    first = max(len(part) for name in names for part in name)
    tables: list[list[list[str]]] = [[]]
    room = width - first
    for group in groups:
        columns = _filled(rows, group)
        needed = [len(GAP) + max(map(len, column)) for column in columns]
        if tables[-1] and sum(needed) > room:
            tables.append([])
            room = width - first
        for column, space in zip(columns, needed, strict=True):
            if tables[-1] and space > room:
                tables.append([])
                room = width - first
            tables[-1].append(column)
            room -= space
    first_column = ["", "", *("\n".join(name) for name in names)]
    return ["\n".join(aligned(list(zip(first_column, *table, strict=True)), "l")) for table in tables if table]


def _filled(rows: Sequence[Row], columns: Iterable[Column]) -> list[list[str]]:
    """Head, unit and cells of every column that has a value in some row."""
    cells = ([column.head, column.unit, *(column.cell(row) for row in rows)] for column in columns)
    return [column for column in cells if any(cell != NONE for cell in column[2:])]


def _markdown_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    filled = _filled(rows, columns)
    heads = [f"{column[0]}, {column[1]}" if column[1] else column[0] for column in filled]
    lines = [[row["name"], *(column[2 + index] for column in filled)] for index, row in enumerate(rows)]
    return ruled([["row", *heads], *lines], "l")


def _csv(lines: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()
