"""Pictures of made-up metrics: what is drawn, that it can be read, and that the same rows give the same file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.training.loop import curves


def rows(epochs: int, scores: bool = True, late: bool = False) -> list[dict[str, float]]:
    made = []
    for epoch in range(1, epochs + 1):
        row: dict[str, float] = {"epoch": epoch, "lr/sgd": 0.1, "loss/total": 2 / epoch, "loss/wbce": 1 / epoch}
        if scores and not (late and epoch < 3):
            row["score/dice"] = 0.9 - (epoch - 4) ** 2 / 100
        made.append(row)
    return made


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    saved: list[Figure] = []
    real = Figure.savefig

    def save(figure: Figure, *arguments: Any, **given: Any) -> None:
        saved.append(figure)
        real(figure, *arguments, **given)

    monkeypatch.setattr(Figure, "savefig", save)
    return saved


def test_losses_and_scores_have_a_panel_each(tmp_path, figures):
    curves.write(rows(6), tmp_path / "a.png")
    losses, scores = figures[0].axes
    assert [line.get_label() for line in losses.lines] == ["total", "wbce"]
    assert list(losses.lines[0].get_ydata()) == [2 / epoch for epoch in range(1, 7)]
    (legend,) = scores.get_legend().get_texts()
    assert legend.get_text() == "dice, best 0.9000 in epoch 4"
    assert all(float(tick).is_integer() for tick in losses.get_xticks())
    for axes in (losses, scores):
        lines, names = axes.get_window_extent(), axes.get_legend().get_window_extent()
        assert not lines.overlaps(names), "names are below the lines, not on them"
        assert names.x0 >= 0 <= names.y0
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1200, 420)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2, 300])
@pytest.mark.filterwarnings("error")
def test_any_number_of_epochs_with_and_without_scores(tmp_path, figures, epochs):
    curves.write(rows(epochs), tmp_path / "a.png")
    curves.write(rows(epochs, scores=False), tmp_path / "b.png")
    assert [len(each.axes) for each in figures] == [2, 1]
    assert figures[0].axes[0].get_yscale() == ("log" if epochs == 300 else "linear")


def test_scores_that_begin_late_are_drawn_where_they_are(tmp_path, figures):
    curves.write(rows(6, late=True), tmp_path / "a.png")
    assert list(figures[0].axes[1].lines[-1].get_xdata()) == [3, 4, 5, 6]


@pytest.mark.slow
def test_the_same_rows_give_the_same_file(tmp_path):
    for name in "ab":
        curves.write(rows(4), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_matplotlib_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendUnavailable, match=r'pip install "msformer-deploy\[plot\]"'):
        curves.write(rows(2), tmp_path / "a.png")
