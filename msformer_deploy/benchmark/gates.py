"""Limits that a benchmark must keep, for CI. What cannot be judged has not been kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def breaches(
    report: dict[str, Any], max_p95_ms: float | None, min_speedup: float | None, min_dice: float | None
) -> list[str]:
    """One line for every row that breaks a limit, and for every limit that no row could be judged by.

    The rows that ran are judged; whether a row had to run is for the exit code of the benchmark. A reference is not
    judged against itself, where it cannot fail: the baseline by its speed-up, torch on the CPU by its DSC to torch.

    Args:
        report: see ``docs/reference/reports.md``.
        max_p95_ms: of one call, end to end.
        min_speedup: over the baseline; of the ratio itself, not of the ends of its interval.
        min_dice: against the ground truth where the report has it, else against torch in fp32.
    """

    def speedup(row: Row) -> float | None:
        return row["speedup"]["ratio"] if row["speedup"] and row["name"] != report["settings"]["baseline"] else None

    rows = [row for row in report["rows"] if row["status"] == "ok"]
    limits: list[tuple[str, float | None, Callable[[Row], float | None], bool]] = [
        ("p95 in ms", max_p95_ms, lambda row: row["p95_ms"], True),
        ("speed-up", min_speedup, speedup, False),
        ("DSC", min_dice, _dice, False),
    ]
    found = []
    for what, limit, value_of, is_most in limits:
        if limit is None:
            continue
        values = {row["name"]: value for row in rows if (value := value_of(row)) is not None}
        if not values:
            found.append(f"no row has a {what} to be judged by, so the limit of {limit:g} is not kept")
        for name, value in values.items():
            if math.isnan(value) or (value > limit if is_most else value < limit):
                side = "most" if is_most else "least"
                found.append(f"{name}: {what} is {value:.6g}, and {limit:g} is the {side} allowed")
    return found


def _dice(row: Row) -> float | None:
    if row["dice_truth"] is not None:
        return float(row["dice_truth"])
    is_reference = (row["backend"], row["precision"], row["provider"]) == ("torch", "fp32", "cpu")
    return None if is_reference and not row.get("compiled") else row["dice_torch"]
