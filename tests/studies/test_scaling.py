"""The arithmetic of the scaling benchmark, and its points on a small bundle."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts
from PIL import Image

from msformer_deploy.benchmark.process import RowFailed
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import DeployError
from msformer_deploy.images.inputs import discover

UNLIMITED = 1 << 60


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("scaling")


def points(values: dict[int, float], status: str = "ok") -> list[dict[str, Any]]:
    return [{"x": x, "status": status, "ms": value} for x, value in values.items()]


@pytest.mark.parametrize(("power", "base"), [(1.0, 0.0), (2.0, 0.0), (2.0, 300.0), (0.0, 0.0)])
def test_growth_is_the_power_above_the_base(script: ModuleType, power: float, base: float) -> None:
    fit = script.growth(points({x: base + 7.0 * x**power for x in (1, 2, 4, 8)}), "ms", base)
    assert fit["slope"] == pytest.approx(power, abs=1e-9)
    assert fit["standard_error"] == pytest.approx(0, abs=1e-6)
    assert fit["points"] == 4


def test_the_standard_error_of_a_growth_is_that_of_least_squares(script: ModuleType) -> None:
    logs = np.array([0.1, -0.1, 0.2, -0.2, 0.0])
    values = {2**place: float(np.exp(log)) * 2**place for place, log in enumerate(logs)}
    x = np.log(list(values))
    slope, offset = np.polyfit(x, np.log(list(values.values())), 1)
    residuals = np.log(list(values.values())) - slope * x - offset
    error = np.sqrt((residuals**2).sum() / 3 / ((x - x.mean()) ** 2).sum())
    fit = script.growth(points(values), "ms")
    assert fit["slope"] == pytest.approx(slope)
    assert fit["standard_error"] == pytest.approx(error)


def test_points_without_numbers_are_no_part_of_a_growth(script: ModuleType) -> None:
    known = points({1: 1.0, 2: 4.0, 4: 16.0})
    lost = [script.failure(8, "std::bad_alloc")]
    below = points({16: 0.0})
    assert script.growth([*known, *lost, *below], "ms")["slope"] == pytest.approx(2)
    assert script.growth([*known[:2], *lost, *below], "ms") is None
    assert script.growth(points({1: 5.0, 2: 6.0, 4: 7.0}), "ms", base=6.0) is None


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("RuntimeException: Failed to allocate memory for requested\n buffer", "does not fit"),
        ("std::bad_alloc", "does not fit"),
        ("its process was killed, most likely because memory ran out", "does not fit"),
        ("no such provider", "failed"),
    ],
)
def test_what_does_not_fit_is_told_from_what_is_broken(script: ModuleType, reason: str, status: str) -> None:
    found = script.failure(8, reason)
    assert found == {"x": 8, "status": status, "reason": " ".join(reason.split())}
    assert script.shown(found) == f"{status}: {found['reason']}"


def test_checkpoints_are_the_peaks_of_equal_parts(script: ModuleType) -> None:
    assert script.checkpoints([1, 5, 2, 2, 3, 9], 3) == [5, 2, 9]
    assert script.checkpoints([4, 2], 10) == [4, 2]


def test_memory_for_a_thousand_images_is_between_the_longest_runs(script: ModuleType) -> None:
    runs = [{"x": x, "status": "ok", "memory_mb": memory} for x, memory in ((1, 100), (1000, 200), (6000, 210))]
    assert script.per_thousand([*runs, script.failure(10_000, "disk full")]) == 2
    assert script.per_thousand(runs[:1]) is None


def test_repeated_images_all_count(script: ModuleType, images: Path, tmp_path: Path) -> None:
    sources = [item.path for item in discover([images])]
    script.repeat(sources, 11, tmp_path / "many")
    found = discover([tmp_path / "many"])
    assert len(found) == 11
    pixels = [np.asarray(Image.open(item.path)) for item in found]
    assert all((pixels[index] == pixels[index % len(sources)]).all() for index in range(11))
    script.repeat(sources, 2, tmp_path / "few")
    assert len(discover([tmp_path / "few"])) == 2


def test_a_limit_is_for_what_starts_within(script: ModuleType) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    code = "import numpy; numpy.ones(10**9)"
    with script.limited(4 * 10**9):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert script.failure(1, done.stderr.splitlines()[-1])["status"] == "does not fit"


@pytest.fixture
def scaling(script: ModuleType, tiny_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: Any) -> Any:
    """One whose every bundle is the small one."""
    arguments = argparse.Namespace(backend="onnxruntime", threads=1, seconds=0.0)
    made = script.Scaling(tmp_path, [item.path for item in discover([images])], UNLIMITED, arguments)
    monkeypatch.setattr(made, "bundle", lambda *_: tiny_bundle.path)
    return made


@pytest.mark.slow
def test_a_point_is_measured_in_a_process_of_its_own(script: ModuleType, scaling: Any, capsys: Any) -> None:
    (found,) = scaling.axis("batch", (2,), 33)
    assert found["status"] == "ok", found
    assert found["x"] == 2
    assert found["calls"] >= 3
    assert 0 < found["encoder_ms"] + found["refine_ms"] < found["total_ms"]
    assert 50 < found["memory_mb"] < 2000
    assert capsys.readouterr().out.startswith("  batch      2: encoder ")


@pytest.mark.slow
def test_a_run_of_many_images_is_watched(script: ModuleType, scaling: Any, tmp_path: Path) -> None:
    (found,) = scaling.axis("images", (5,), 33)
    assert found["status"] == "ok", found
    assert found["seconds"] > 0
    assert 50 < found["memory_mb"] < 2000
    assert max(found["checkpoints_mb"]) == found["memory_mb"]
    assert list(tmp_path.glob("tmp*")) == [], "results are temporary"


@pytest.mark.slow
def test_a_run_that_fails_is_one_line(scaling: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(scaling, "bundle", lambda *_: tmp_path)
    (found,) = scaling.axis("images", (1,), 33)
    assert found["status"] == "failed"
    assert "not a bundle" in found["reason"]


@pytest.mark.parametrize("error", [RowFailed("std::bad_alloc"), DeployError("export: MemoryError: ")])
def test_an_axis_goes_on_after_what_does_not_fit(
    script: ModuleType, scaling: Any, monkeypatch: Any, error: Any
) -> None:
    def point(x: int, *_: object, **__: object) -> dict[str, Any]:
        if x == 2:
            raise error
        return {"x": x, "status": "ok", "encoder_ms": 1.0, "refine_ms": 1.0, "total_ms": 3.0, "memory_mb": 9.0}

    monkeypatch.setattr(scaling, "point", point)
    assert [each["status"] for each in scaling.axis("side", (1, 2, 3), 33)] == ["ok", "does not fit", "ok"]


def test_the_picture_shows_every_axis(script: ModuleType, tmp_path: Path) -> None:
    made = [
        {"x": x, "status": "ok", "encoder_ms": x, "refine_ms": x, "total_ms": 2 * x, "seconds": x, "memory_mb": 300 + x}
        for x in (1, 2, 4)
    ]
    made.append(script.failure(8, "memory ran out"))
    axes = {name: {"points": made, "growth": script.growths(name, made, 300)} for name in script.FULL}
    assert axes["side"]["growth"].keys() == {"encoder_ms", "refine_ms", "memory_mb"}
    assert axes["side"]["growth"]["memory_mb"]["slope"] == pytest.approx(1)
    assert axes["images"]["growth"].keys() == {"seconds", "memory_mb"}
    assert axes["images"]["growth"]["memory_mb"]["slope"] < 0.02, "what a run holds anyway is not left out"
    script.draw({"environment": {"cpu": "Processor 1"}, "axes": axes}, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 1500


def test_axes_measured_before_are_kept(script: ModuleType, tmp_path: Path) -> None:
    path, here, asked = tmp_path / "report.json", {"cpu": "x", "affinity": 2}, {"backend": "auto", "threads": 2}
    assert script.kept(path, here, argparse.Namespace(**asked)) == {}
    before = {"environment": here | {"date": "then"}, "settings": asked, "axes": {"side": {"points": []}}}
    path.write_text(json.dumps(before))
    assert script.kept(path, here | {"date": "now"}, argparse.Namespace(**asked)) == {"side": {"points": []}}
    for facts, options in ((here | {"affinity": 4}, asked), (here, asked | {"threads": 1})):
        with pytest.raises(script.UsageError, match="of another machine, backend or --threads"):
            script.kept(path, facts, argparse.Namespace(**options))


@pytest.mark.parametrize("content", ["", "[]", '{"axes": {}}', '{"environment": {}, "settings": {}, "axes": "x"}'])
def test_a_report_that_is_none_is_not_written_over(script: ModuleType, tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(script.UsageError, match="is no report to go on with"):
        script.kept(path, {"cpu": "x", "affinity": 2}, argparse.Namespace(backend="auto", threads=2))


def test_no_images_are_one_line(script: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--images", str(tmp_path)])
    assert script.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
