"""Pictures of made-up reports: what is drawn, that nothing overlaps, and that the same report gives the same file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark_reports import STAGES, failed, report, row, samples
from PIL import Image

from msformer_deploy.benchmark import picture
from msformer_deploy.errors import BackendUnavailable, DeployError, UsageError


def many(count: int, factor: float = 1.2, more: str = "") -> dict[str, Any]:
    rows = [
        row(f"onnxruntime-tensorrt fp16 batch {index} whole graph{more}", samples(100 * factor**index, seed=index))
        for index in range(count)
    ]
    for each in rows:
        each["stages_ms"] = {stage: value * each["p50_ms"] / 850 for stage, value in each["stages_ms"].items()}
    return report(*rows, failed("tensorrt fp16", "no engine " * 40))


def texts(report: dict[str, Any]) -> list[Any]:
    """Everything written in the picture, laid out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    ran = [each for each in report["rows"] if each["status"] == "ok"]
    figure = picture._figure(report, ran)
    FigureCanvasAgg(figure).draw()
    found = [figure._suptitle, *figure.legends[0].get_texts()]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, *axes.texts]
        for axis, place in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())  # outside there are tick labels too, which are not drawn
            found += [label for label in axis.get_ticklabels() if low <= label.get_position()[place] <= high]
    return [text for text in found if text.get_visible() and text.get_text()]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_report_gives_the_same_file(tmp_path: Path, suffix: str) -> None:
    made = many(2)
    first, second = (tmp_path / f"{name}{suffix}" for name in "ab")
    for path in (first, second):
        picture.write(made, path)
    assert first.read_bytes() == second.read_bytes()
    assert b"Software" not in first.read_bytes(), "nor does the version of what drew it make it another file"
    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "factor", "more"), [(1, 1.0, ""), (2, 1.2, ""), (12, 1.7, ""), (12, 1.2, " of another bundle's folder")]
)
def test_the_picture_is_1200_wide_and_nothing_written_overlaps(
    tmp_path: Path, count: int, factor: float, more: str
) -> None:
    made = many(count, factor, more)
    path = tmp_path / "a.png"
    picture.write(made, path)
    with Image.open(path) as image:
        assert image.width == 1200
        assert image.height < 1100
        width = image.width
    found = [(text.get_text(), text.get_window_extent()) for text in texts(made)]
    for index, (written, place) in enumerate(found):
        assert place.x0 >= 0, written
        assert place.x1 <= width, written
        overlapping = [other for other, there in found[:index] if place.padded(-1).overlaps(there.padded(-1))]
        assert not overlapping, written


def test_all_rows_are_named_and_their_stages_add_up() -> None:
    made = report(
        row("torch fp32", samples(845)),
        row("openvino fp32", samples(500), stages_ms={"decode": 20.0, "whole_graph": 400.0, "unheard of": 7.5}),
        failed("tensorrt fp16", "there is no GPU"),
    )
    written = [text.get_text() for text in texts(made)]
    for expected in ("torch fp32", "openvino fp32", "tensorrt fp16", "failed: there is no GPU", "850 ms", "428 ms"):
        assert expected in written
    legend = [
        name for name in ("decode", "encoder", "refine", "whole graph", "other", "write", "to GPU") if name in written
    ]
    assert legend == ["decode", "encoder", "refine", "whole graph", "other", "write"]
    assert "Processor 1, 2 cores, 2 threads, 2026-11-21" in written


@pytest.mark.filterwarnings("error")
def test_a_single_sample_is_drawn() -> None:
    made = report(row("torch fp32 full", [41_000.0], stages_ms={"step 1": 40_900.0, "write": 80.0}))
    assert "41000, p95 41000" in [text.get_text() for text in texts(made)]


def test_steps_of_the_refinement_are_one_bar() -> None:
    stages = picture._stages(row("torch fp32", stages_ms=STAGES | {"figure": 30.0}))
    assert stages["refine"] == 3 + 10 + 12 + 14 + 30
    assert list(stages) == ["decode", "preprocess", "encoder", "refine", "foreground", "write"]


@pytest.mark.parametrize(
    ("factor", "scale", "unit"), [(1.2, "linear", "ms for one call"), (12.0, "log", "% of one call")]
)
def test_a_great_range_is_drawn_to_be_seen(factor: float, scale: str, unit: str) -> None:
    made = many(2, factor)
    latency, stages = picture._figure(made, made["rows"][:2]).axes
    assert latency.get_xscale() == scale
    assert stages.get_xlabel() == unit


def test_matplotlib_that_is_missing_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    picture.require()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendUnavailable, match=r"msformer-deploy\[plot\]"):
        picture.require()


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.json"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        picture.write(many(1), tmp_path / name)


def test_upper_case_suffixes_are_taken(tmp_path: Path) -> None:
    picture.write(many(1), tmp_path / "A.PNG")
    assert (tmp_path / "A.PNG").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_and_nowhere_to_write_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no row ran"):
        picture.write(report(failed("tensorrt fp16")), tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        picture.write(many(1), tmp_path / "absent" / "a.png")
