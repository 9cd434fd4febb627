"""The metrics of a run as a picture: losses on the left, scores on the right."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ... import files
from ...errors import BackendUnavailable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .metrics_log import Row

_PANEL, _HEIGHT, _DPI = 6.0, 4.2, 100  # inches, inches, pixels per inch
_MARKED_TO = 30  # maximum number of epochs for which each has a dot
_LOG_FROM = 30.0  # ratio of the largest to the smallest loss from which the axis is logarithmic
# Okabe & Ito (2008): people with any colour vision can distinguish them. Dashes distinguish more lines than colours.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_DASHES = ("-", "--", ":")
_PANELS = {"loss/": "Losses", "score/": "Scores on validation images"}


def write(rows: Sequence[Row], path: Path) -> None:
    """Draw all losses and scores by epoch as a PNG, and mark the best epoch of each score.

    The same rows give the same bytes.

    Args:
        rows: rows of :mod:`.metrics_log`, at least one.
        path: file to write; an existing file is replaced.

    Raises:
        BackendUnavailable: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise BackendUnavailable(
            f'curves need matplotlib ({error}); pip install "msformer-deploy[plot]", or read the numbers in metrics.csv'
        ) from error
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    names = list(dict.fromkeys(name for row in rows for name in row))
    panels = {kind: [name for name in names if name.startswith(kind)] for kind in _PANELS}
    drawn = {kind: lines for kind, lines in panels.items() if lines}
    figure = Figure((_PANEL * len(drawn), _HEIGHT), dpi=_DPI, layout="constrained")
    for axes, (kind, lines) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        axes.set_title(_PANELS[kind], fontsize=11)
        for index, name in enumerate(lines):
            _draw(axes, rows, name, name.removeprefix(kind), index, marks_best=kind == "score/")
        _finish(axes)
        values = [row[name] for row in rows for name in lines if row.get(name, 0) > 0]
        if kind == "loss/" and values and max(values) / min(values) >= _LOG_FROM:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0.5, rows[-1]["epoch"] + 0.5)
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw(axes: Axes, rows: Sequence[Row], name: str, label: str, index: int, *, marks_best: bool) -> None:
    epochs, values = zip(*((row["epoch"], row[name]) for row in rows if name in row), strict=True)
    colour, dashes = _COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS) % len(_DASHES)]
    if marks_best:
        best = max(range(len(values)), key=values.__getitem__)
        label += f", best {values[best]:.4f} in epoch {epochs[best]}"
        axes.plot(epochs[best], values[best], "o", color=colour, markersize=9, fillstyle="none")
    marker = "." if len(rows) <= _MARKED_TO else ""
    axes.plot(epochs, values, marker=marker, color=colour, linestyle=dashes, linewidth=1.5, label=label)


def _finish(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=9)  # below the axes
