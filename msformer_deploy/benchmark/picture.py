"""A benchmark report as a picture: on the left how latencies are distributed, on the right where the time goes."""

from __future__ import annotations

import importlib
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..errors import BackendUnavailable, DeployError, UsageError, printable
from . import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
LOG_FROM = 8.0  # largest over smallest latency from which the axis is logarithmic
SHARES_FROM = 8.0  # largest over smallest median from which bars show shares: beside a long one, a short one is a line

_DECADES_ONLY_FROM = 50.0  # the same, from which there is no room to label 2 and 5 as well
_WIDTH, _DPI = 12.0, 100  # inches, pixels per inch: 1200 pixels
_ROW_HEIGHT, _LINE_HEIGHT, _AROUND = 0.46, 0.22, 1.6  # inches
_NAME_WIDTH = 26  # characters
_REASON_WIDTH = 66  # characters
_NUMBERS_ROOM = 0.36  # of the span of latencies, on the right
_SMALL_GREY: dict[str, Any] = {"fontsize": 9, "color": "#555555"}
_MOST_POINTS = 300  # drawn of one row; the box is of all of them
# Okabe & Ito (2008): told apart with any colour vision. Neighbours in a bar differ in lightness too.
_STAGE_COLOURS = {
    "decode": "#009E73",
    "preprocess": "#F0E442",
    "to GPU": "#999999",
    "encoder": "#0072B2",
    "whole graph": "#56B4E9",
    "refine": "#E69F00",
    "from GPU": "#444444",
    "foreground": "#CC79A7",
    "write": "#D55E00",
    "other": "#CCCCCC",
}
_STAGE_NAMES = {
    "host_to_device": "to GPU",
    "device_to_host": "from GPU",
    "whole_graph": "whole graph",
    "sample": "refine",
    "steps": "refine",
    "argmax": "refine",
    "figure": "refine",
}


def require() -> None:
    """See that a picture can be drawn in the end, before anything is measured.

    Raises:
        BackendUnavailable: matplotlib is not installed.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise BackendUnavailable(
            f"pictures need matplotlib ({error}); install msformer-deploy[plot], or drop --picture"
        ) from error


def write(report: dict[str, Any], path: Path) -> None:
    """Draw the rows that ran, in their order, 1200 pixels wide; the same report gives the same file.

    Args:
        report: see ``docs/reference/reports.md``.
        path: of one of :data:`FORMATS`; replaced if it is there.

    Raises:
        BackendUnavailable: as :func:`require`.
        UsageError: the path is of another format.
        DeployError: no row ran.
        OSError: the file cannot be written.
    """
    require()
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise UsageError(f"{printable(path)}: --picture must end in {' or '.join(FORMATS)}")
    rows = [row for row in report["rows"] if row["status"] == "ok"]
    if not rows:
        raise DeployError(f"{printable(path)}: there is nothing to draw, because no row ran")
    import matplotlib

    # Without a salt of its own and without a date, two pictures of one report would differ.
    metadata = {"Software": None} if kind == ".png" else {"Date": None, "Creator": None}
    with matplotlib.rc_context({"svg.hashsalt": "msformer-deploy"}), files.atomic_path(path) as temporary:
        _figure(report, rows).savefig(temporary, format=kind[1:], metadata=metadata)


def _figure(report: dict[str, Any], rows: list[dict[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    lost = [row for row in report["rows"] if row["status"] != "ok"]
    names = ["\n".join(textwrap.wrap(row["name"], _NAME_WIDTH)) for row in (*rows, *lost)]
    lines = max(name.count("\n") + 1 for name in names)
    height = _AROUND + max(_ROW_HEIGHT, _LINE_HEIGHT * lines) * len(names)
    figure = Figure((_WIDTH, height), dpi=_DPI, layout="constrained")
    latency, stages = figure.subplots(1, 2, sharey=True)
    _draw_latency(latency, rows)
    _draw_stages(stages, rows)
    for place, row in enumerate(lost, start=len(rows)):
        outcome = textwrap.shorten(": ".join(filter(None, (row["status"], row["reason"]))), _REASON_WIDTH)
        latency.text(0.01, place, outcome, transform=latency.get_yaxis_transform(), va="center", **_SMALL_GREY)
    latency.set_yticks(range(len(names)), names)
    latency.set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(table.machine(report), fontsize=11)
    figure.legend(
        *stages.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(_STAGE_COLOURS),
        frameon=False,
        fontsize=9,
    )
    return figure


def _draw_latency(axes: Axes, rows: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    rng = np.random.default_rng(0)
    samples = [np.asarray(row["samples_ms"], np.float64) for row in rows]
    for place, values in enumerate(samples):
        shown = values[:: -(-values.size // _MOST_POINTS)]
        heights = place + rng.uniform(-0.22, 0.22, shown.size)
        axes.plot(shown, heights, ".", color="#0072B2", alpha=0.4, markersize=5, markeredgewidth=0)
    dark = {"color": "#333333"}
    axes.boxplot(
        samples,
        positions=range(len(rows)),
        orientation="horizontal",
        widths=0.6,
        whis=(5, 95),
        showfliers=False,
        manage_ticks=False,
        boxprops=dark,
        whiskerprops=dark,
        capprops=dark,
        medianprops={"color": "#D55E00", "linewidth": 1.5},
    )
    for place, row in enumerate(rows):
        axes.annotate(
            f"{table.number(row['p50_ms'])}, p95 {table.number(row['p95_ms'])}",
            (1, place),
            xycoords=("axes fraction", "data"),
            va="center",
            ha="right",
            fontsize=9,
        )
    smallest, largest = (float(end(np.concatenate(samples))) for end in (np.min, np.max))
    if largest / smallest >= LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if largest / smallest < _DECADES_ONLY_FROM else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0.9 * smallest, largest * (largest / smallest) ** _NUMBERS_ROOM)
    else:
        span = largest - smallest or largest  # one sample has none
        axes.set_xlim(smallest - 0.05 * span, largest + _NUMBERS_ROOM * span)
    axes.set_xlabel("ms for one call; line: median, box: quartiles, whiskers: p5 and p95")
    axes.set_title("Latency, from file to written files: median, p95", fontsize=11)
    _tidy(axes)


def _draw_stages(axes: Axes, rows: list[dict[str, Any]]) -> None:
    bars = [_stages(row) for row in rows]
    totals = np.array([sum(bar.values()) for bar in bars])
    as_shares = totals.max() / totals.min() >= SHARES_FROM
    scale = 100 / totals if as_shares else np.ones(len(rows))
    start = np.zeros(len(rows))
    for stage, colour in _STAGE_COLOURS.items():
        lengths = scale * [bar.get(stage, 0.0) for bar in bars]
        if lengths.any():
            axes.barh(
                range(len(rows)), lengths, 0.62, start, color=colour, edgecolor="white", linewidth=0.5, label=stage
            )
            start += lengths
    for place, (end, total) in enumerate(zip(start, totals, strict=True)):
        axes.annotate(
            f"{table.number(total)} ms",
            (end, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_xlim(0, 1.2 * start.max())
    if as_shares:
        axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("% of one call" if as_shares else "ms for one call")
    axes.set_title("Stages, medians, and their sum", fontsize=11)
    _tidy(axes)


def _stages(row: dict[str, Any]) -> dict[str, float]:
    """Milliseconds by stage as the picture names them; what it has no name for is ``other``."""
    stages: dict[str, float] = {}
    for stage, value in table.steps_as_one(row["stages_ms"] or {"other": row["p50_ms"]}).items():
        name = _STAGE_NAMES.get(stage, stage)
        name = name if name in _STAGE_COLOURS else "other"
        stages[name] = stages.get(name, 0.0) + value
    return stages


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
