"""Two benchmark reports, row by row: what became faster, what slower, and what cannot be told."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError, printable
from ..measures import statistics
from ..measures.tables import aligned
from . import table

SCHEMA = 1
SAME = 0.02  # a ratio within this of 1 is no difference: two runs of one thing on one quiet machine differ as much

_MACHINE = ("cpu", "cores", "affinity", "quota", "memory_mb", "gpus", "driver")
_SOFTWARE = ("system", "versions")


def load(path: Path) -> dict[str, Any]:
    """Read a report that ``benchmark --json`` wrote.

    Raises:
        UsageError: it cannot be read, or is no such report.
    """
    name = printable(path)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror}); pass a file that --json wrote") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: is not JSON ({error}); pass a file that --json wrote") from error
    schema = report.get("schema") if isinstance(report, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UsageError(f"{name}: schema {schema} is newer than this program's {SCHEMA}; upgrade msformer-deploy")
    if schema != SCHEMA or not _is_report(report):
        raise UsageError(f"{name}: is not a benchmark report; pass a file that --json wrote")
    assert isinstance(report, dict)
    return report


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the first report, then those that only the second has, matched by name.

    Returns:
        ``name``, ``a_p50_ms``, ``b_p50_ms``, ``ratio`` (how many times as fast the second is), ``low`` and ``high`` of
        its interval, and ``verdict``: ``faster``, ``slower`` or ``no clear difference`` (the interval reaches within
        :data:`SAME` of 1), or which report has no measurement of the row. Numbers that are not known are None.
    """
    olds, news = ({row["name"]: row for row in report["rows"]} for report in (before, after))
    return [_compared(name, olds.get(name), news.get(name)) for name in dict.fromkeys((*olds, *news))]


def remarks(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between the two beside the rows, one line each: the machine, the software, the settings."""
    lines = []
    for what, keys, advice in (
        ("machines", _MACHINE, "ratios tell them apart as much as the code"),
        ("software", _SOFTWARE, ""),
    ):
        old, new = ({key: report["environment"].get(key) for key in keys} for report in (before, after))
        if different := _differences(old, new):
            lines.append(f"different {what}: {different}" + (f"; {advice}" if advice else ""))
    old, new = ({"threads": report["environment"].get("threads"), **report["settings"]} for report in (before, after))
    if different := _differences(old, new):
        lines.append(f"different settings: {different}")
    return lines


def text(rows: Sequence[dict[str, Any]], remarks: Sequence[str] = ()) -> str:
    """The comparison for a terminal: what differs beside the rows, one line per row, and what the intervals hold."""
    lines = [["", "A p50", "B p50", "speed-up of B", ""], ["", "ms", "ms", "(95 %)", ""]]
    for row in rows:
        ratio = table.number(row["ratio"])
        if row["low"] is not None:
            ratio += f" ({table.number(row['low'])}-{table.number(row['high'])})"
        lines.append([row["name"], table.number(row["a_p50_ms"]), table.number(row["b_p50_ms"]), ratio, row["verdict"]])
    below = "The intervals hold for the samples of these two runs; further runs may differ more."
    return "\n".join([*remarks, *aligned(lines, "lrrll"), below]) + "\n"


def _is_report(report: dict[str, Any]) -> bool:
    parts = (("rows", list), ("environment", dict), ("settings", dict))
    if not all(isinstance(report.get(key), kind) for key, kind in parts):
        return False
    names = [row.get("name") for row in report["rows"] if isinstance(row, dict)]
    return (
        len(names) == len(report["rows"])
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names)
        and all(_is_measured(row) for row in report["rows"] if row.get("status") == "ok")
    )


def _is_measured(row: dict[str, Any]) -> bool:
    samples = row.get("samples_ms")
    if not (isinstance(samples, list) and samples):
        return False
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        for value in (row.get("p50_ms"), *samples)
    )


def _compared(name: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    old, new = (row if row is not None and row.get("status") == "ok" else None for row in (before, after))
    found: dict[str, Any] = {
        "name": name,
        "a_p50_ms": old and old["p50_ms"],
        "b_p50_ms": new and new["p50_ms"],
        **dict.fromkeys(("ratio", "low", "high")),
    }
    if old is None or new is None:
        absent = [
            f"not in {side}" if row is None else f"{row.get('status')} in {side}"
            for side, row, measured in (("A", before, old), ("B", after, new))
            if measured is None
        ]
        return found | {"verdict": ", ".join(absent)}
    interval = statistics.ratio_of_medians(old["samples_ms"], new["samples_ms"])
    return found | interval._asdict() | {"verdict": _verdict(interval)}


def _verdict(interval: statistics.Interval) -> str:
    if interval.low is not None and interval.low > 1 + SAME:
        return "faster"
    if interval.high is not None and interval.high < 1 / (1 + SAME):
        return "slower"
    return "no clear difference"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """``key old -> new`` for every key whose values differ; of dictionaries, only what differs within them."""
    found = []
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            if inner := _differences(before, after):
                found.append(inner)
        elif before != after:
            found.append(f"{key} {_shown(before)} -> {_shown(after)}")
    return ", ".join(found)


def _shown(value: Any) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
    return printable(shown or "none")
