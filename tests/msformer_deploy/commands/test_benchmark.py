"""``benchmark``: real rows of the small bundle, what is written, and what each slip costs before it begins."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.benchmark import conductor, table
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.commands import benchmark as command
from msformer_deploy.errors import DeployError

QUICK = ("--min-seconds", "0.1", "--warmup-seconds", "0")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Ground truth of two of the three images: the disc."""
    folder = tmp_path / "masks"
    folder.mkdir()
    rows, columns = np.mgrid[:60, :80]
    disc = (rows - 30) ** 2 + (columns - 40) ** 2 < 15**2
    for name in ("a", "c"):
        Image.fromarray(disc).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Nothing is measured: this is what measuring would have given."""
    made: dict[str, Any] = {}

    def conduct(rows: Any, *_: Any) -> dict[str, Any]:
        told = [{**conductor._described(row), "status": "ok", **MEASURED, "name": row.name} for row in rows]
        for each, changes in zip(told, made.get("rows", [{}] * len(told)), strict=True):
            each |= changes
        around = {"threads": {"asked": None, "used": 2}, "gpus": [], "cpu": "CPU", "cores": 2, "date": "2026-11-21"}
        settings = {"baseline": told[0]["name"], "threads": None}
        return {
            "schema": 1, "rows": told, "load": [], "environment": around, "settings": settings, "warnings": []
        }  # fmt: skip

    monkeypatch.setattr(conductor, "conduct", conduct)
    return made


MEASURED: dict[str, Any] = {
    **dict.fromkeys(("p50_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "mean_ms"), 10.0),
    "std_ms": 0.1,
    "cv": 0.01,
    "iterations": 3,
    "images_per_second": 100.0,
    "load_s": 1.0,
    "first_run_ms": 20.0,
    "peak_memory_mb": 300.0,
    "label_agreement": 1.0,
    "dice_torch": 1.0,
    "artefact_mb": 1.0,
    "stages_ms": {"encoder": 9.0},
    "stages_sum": 0.9,
    "samples_ms": [10.0, 10.0, 10.0],
}


def test_rows_are_measured_and_told(invoke, tiny_bundle, images, masks, tmp_path):
    """All of it for real: two backends, processes of their own, every file."""
    files = {kind: tmp_path / f"told.{kind}" for kind in ("json", "csv", "markdown", "png")}
    asked = [f"--{'picture' if kind == 'png' else kind}={path}" for kind, path in files.items()]
    before = set(tmp_path.iterdir())
    told = invoke(
        "benchmark", tiny_bundle.path, "--images", images, "--masks", masks, "--backend", "torch", "--backend",
        "onnxruntime", *QUICK, "--concurrency", "2", "--duration", "0.2", "--threads", "2", *asked,
    )  # fmt: skip
    assert told.code == 0, told.err
    assert set(tmp_path.iterdir()) == before | set(files.values())
    report = json.loads(files["json"].read_text())
    torch, onnxruntime = report["rows"]
    assert [torch["name"], onnxruntime["name"]] == ["torch fp32 side 33", "onnxruntime fp32 side 33"]
    assert (torch["provider"], onnxruntime["provider"]) == ("cpu", "CPUExecutionProvider")
    for row in report["rows"]:
        assert row["status"] == "ok"
        assert row["iterations"] == len(row["samples_ms"]) >= 10
        assert min(row["samples_ms"]) == row["min_ms"] <= row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert 0.97 < row["stages_sum"] < 1 + 1e-9  # a quotient of two sums of floats
        stages = table.steps_as_one(row["stages_ms"])
        assert {"decode", "preprocess", "encoder", "steps", "argmax", "figure", "foreground", "write"} <= stages.keys()
        assert list(stages) == [stage for stage in table.STAGES if stage in stages]
        assert row["label_agreement"] > 0.999
        assert row["dice_torch"] > 0.99
        assert row["dice_truth"] > 0.8
        assert row["peak_memory_mb"] > 100
        assert row["load_s"] > 0.1
    assert torch["speedup"] is None
    ratio = onnxruntime["speedup"]
    assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
    assert {(each["name"], each["concurrency"]) for each in report["load"]} == {
        (row["name"], 2) for row in report["rows"]
    }
    assert report["settings"] | {"images": 2, "judged": 2, "threads": 2} == report["settings"]
    assert report["environment"]["bundles"].keys() == {str(tiny_bundle.path)}
    with files["csv"].open() as file:
        assert [line["name"] for line in csv.DictReader(file)] == [torch["name"], onnxruntime["name"]]
    assert files["markdown"].read_text().count("| torch fp32 side 33") >= 1
    assert Image.open(files["png"]).width >= 1000
    assert "torch fp32 side 33" in told.out
    assert "onnxruntime fp32 side 33: measuring" in told.err.splitlines()


@pytest.mark.usefixtures("report")
def test_quiet_says_nothing_but_the_table(invoke, tiny_bundle, monkeypatch):
    lines: list[Any] = []
    real = conductor.conduct
    monkeypatch.setattr(conductor, "conduct", lambda *given: lines.append(given[-1]("hello")) or real(*given))
    assert invoke("benchmark", tiny_bundle.path, "-q").err == ""
    assert invoke("benchmark", tiny_bundle.path).err == "hello\n"


@pytest.mark.usefixtures("report")
def test_without_a_bundle_the_default_one_is_measured(invoke, tiny_bundle, monkeypatch):
    asked = []

    def open_bundle(*given: Any, system: str | None, suffices: Callable[[Bundle], bool]) -> Bundle:
        assert not suffices(tiny_bundle), "torch is here, whose rows need all files"
        asked.append((*given, system))
        return tiny_bundle

    monkeypatch.setattr(command, "open_bundle", open_bundle)
    assert invoke("benchmark", "-q").code == 0
    assert invoke("benchmark", "-q", "--preset", "initial").code == 0
    assert invoke("benchmark", "-q", "--system", "s3net").code == 0
    assert asked == [(None, None, True, None), (None, "initial", True, None), (None, None, True, "s3net")]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--backend", "torch", "--refine", "full"], ["torch fp32 s3net deformable side 24 refine full"]),
        (
            ["--backend", "torch", "--backend", "onnxruntime", "--backend", "openvino", "--whole-graph"],
            [
                "torch fp32 s3net deformable side 24",
                "onnxruntime fp32 s3net deformable side 24",
                "onnxruntime fp32 s3net deformable side 24 whole graph",
                "openvino fp32 s3net deformable side 24",
                "openvino fp32 s3net deformable side 24 whole graph",
            ],
        ),
    ],
    ids=["the published loop", "every backend"],
)
def test_rows_of_s3net_are_measured(invoke, tiny_deformable_bundle, images, tmp_path, arguments, names):
    """For real."""
    path = tmp_path / "told.json"
    quick = ("--min-iterations", "2", "--min-seconds", "0.01", "--warmup-seconds", "0")
    told = invoke(
        "benchmark", tiny_deformable_bundle.path, "--system", "s3net", "--images", images / "a.png", *arguments, *quick,
        "--json", path, "-q",
    )  # fmt: skip
    assert told.code == 0, told.err
    rows = json.loads(path.read_text())["rows"]
    assert [(row["name"], row["status"]) for row in rows] == [(name, "ok") for name in names]
    assert all(row["label_agreement"] >= 0.999 for row in rows)


def test_a_bundle_of_another_system_is_one_line(invoke, tiny_bundle, tiny_s3_bundle, monkeypatch):
    monkeypatch.setattr(conductor, "conduct", lambda *_: pytest.fail("measured"))
    told = invoke("benchmark", tiny_bundle.path, tiny_s3_bundle.path, "--system", "msformer", "-q")
    told.error(2, f"{tiny_s3_bundle.path}: this bundle is of system s3net, not msformer", "drop --system")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--backend", "tensorflow"], ["backend 'tensorflow' is unknown"]),
        (["--baseline", "tensorflow"], ["baseline 'tensorflow'"]),
        (["--min-iterations", "0"], ["--min-iterations", "0"]),
        (["--min-seconds", "0"], ["--min-seconds"]),
        (["--batch", "0"], ["--batch"]),
        (["--concurrency", "0"], ["--concurrency"]),
        (["--device", "tpu"], ["device 'tpu' is unknown"]),
        (["--precision", "fp8"], ["--precision"]),
        (["--refine", "best"], ["--refine"]),
        (["--images", "EMPTY"], ["no images"]),
        (["--masks", "EMPTY"], ["no mask has the name of an image"]),
        (["--masks", "nowhere"], ["no such folder"]),
        (["--picture", "told.jpg"], ["told.jpg", "png or .svg"]),
        (["--json", "nowhere/told.json"], ["nowhere/told.json: its folder does not exist"]),
        (["--json", "EMPTY"], ["is a folder"]),
        (["--json", "here.json"], ["here.json: exists already; pass --force"]),
        (["--json", "x", "--csv", "x"], ["x: two options name this file"]),
        (["--whole-graph", "--backend", "torch"], ["no whole-method graph"]),
        (["--refine", "full", "--precision", "int8"], ["int8"]),
        (["--compare", "here.json", "nowhere.json"], ["here.json"]),
        (
            ["--compare", "here.json", "here.json", "--min-seconds", "1"],
            ["--compare measures nothing, so --min-seconds has no effect; drop it"],
        ),
    ],
    ids=" ".join,
)
def test_a_slip_is_one_line_before_anything_is_measured(invoke, tiny_bundle, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "here.json").write_text("{}")
    monkeypatch.setattr(conductor, "conduct", lambda *_: pytest.fail("measured"))
    bundles = [] if "--compare" in arguments else [tiny_bundle.path]
    given = ["empty" if each == "EMPTY" else each for each in arguments]
    invoke("benchmark", *bundles, *given).error(2, *parts)
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "here.json"}


def test_an_image_that_cannot_be_read_is_one_line(invoke, tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "x.png").write_text("no picture")
    monkeypatch.setattr(conductor, "conduct", lambda *_: pytest.fail("measured"))
    invoke("benchmark", tiny_bundle.path, "--images", tmp_path / "x.png").error(1, "x.png: not a PNG")


def test_a_bundle_that_is_none_is_one_line(invoke, tmp_path):
    invoke("benchmark", tmp_path).error(1, "not a bundle")


def test_a_bundle_without_an_engine_is_one_line(invoke, tiny_bundle):
    line = invoke("benchmark", tiny_bundle.path, "--backend", "tensorrt", "-q").error(4, "has no TensorRT engine")
    assert "--update --tensorrt --precision fp32" in line


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ([{}, {}], 0),
        ([{}, {"status": "export only", "reason": "no GPU", "exit_code": 4}], 0),
        ([{}, {"status": "failed", "reason": "no", "exit_code": 4}], 5),
        ([{"status": "failed", "reason": "no", "exit_code": 4}] * 2, 4),
        ([{"status": "export only", "reason": "no", "exit_code": 4}] * 2, 4),
        ([{"status": "failed", "reason": "no", "exit_code": code} for code in (4, 1)], 1),
    ],
    ids=["all ran", "export only", "some failed", "none for want of something", "only exported", "none"],
)
def test_the_exit_code(invoke, tiny_bundle, report, tmp_path, changes, code):
    report["rows"] = changes
    told = invoke(
        "benchmark", tiny_bundle.path, "--backend", "torch", "--backend", "onnxruntime", "--json", tmp_path / "x.json"
    )
    assert told.code == code
    ran = any("status" not in each for each in changes)
    assert (tmp_path / "x.json").exists() == ran
    if not ran:
        told.error(code, "torch fp32 side 33: no", "onnxruntime fp32 side 33: no")
    assert bool(told.out) == ran


@pytest.mark.parametrize(
    ("arguments", "breaches"),
    [
        (["--max-p95-ms", "10", "--min-speedup", "2", "--min-dice", "0.9"], 0),
        (["--max-p95-ms", "9"], 2),
        (["--min-speedup", "2.5"], 1),
        (["--max-p95-ms", "9", "--min-dice", "0.99"], 3),
    ],
)
def test_gates(invoke, tiny_bundle, report, tmp_path, arguments, breaches):
    report["rows"] = [{}, {"speedup": {"ratio": 2.0, "low": 1.9, "high": 2.1}, "dice_torch": 0.95}]
    backends = ["--backend", "torch", "--backend", "onnxruntime"]
    told = invoke("benchmark", tiny_bundle.path, *backends, *arguments, "--json", tmp_path / "x.json")
    assert told.code == (3 if breaches else 0)
    lines = told.err.splitlines()
    assert len(lines) == breaches
    assert all(line.startswith("error: ") for line in lines)
    assert (tmp_path / "x.json").exists()


def test_gates_before_failures(invoke, tiny_bundle, report):
    report["rows"] = [{}, {"status": "failed", "reason": "no", "exit_code": 1}]
    backends = ["--backend", "torch", "--backend", "onnxruntime"]
    assert invoke("benchmark", tiny_bundle.path, *backends, "--max-p95-ms", "1").code == 3


@pytest.mark.usefixtures("report")
def test_files_are_replaced_only_by_force(invoke, tiny_bundle, tmp_path):
    path = tmp_path / "x.json"
    path.write_text("mine")
    invoke("benchmark", tiny_bundle.path, "--json", path).error(2, "exists already")
    assert path.read_text() == "mine"
    assert invoke("benchmark", tiny_bundle.path, "--json", path, "--force").code == 0
    assert json.loads(path.read_text())["schema"] == 1


@pytest.mark.usefixtures("report")
def test_a_file_that_cannot_be_written_is_one_line_after_the_table(invoke, tiny_bundle, tmp_path, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("msformer_deploy.files.write_text", full)
    told = invoke("benchmark", tiny_bundle.path, "--json", tmp_path / "x.json")
    told.error(DeployError.exit_code, "x.json: cannot be written (No space left on device)")
    assert "torch fp32 side 33" in told.out


@pytest.mark.usefixtures("report")
def test_two_reports_are_compared(invoke, tiny_bundle, tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in files:
        assert invoke("benchmark", tiny_bundle.path, "--backend", "torch", "--json", path).code == 0
    report = json.loads(files[1].read_text())
    report["rows"][0] |= {"p50_ms": 5.0, "samples_ms": [5.0, 5.1, 4.9]}
    files[1].write_text(json.dumps(report))
    told = invoke("benchmark", "--compare", *files)
    assert told.code == 0
    (line,) = [line for line in told.out.splitlines() if line.startswith("torch fp32 side 33")]
    assert "2.00" in line
    assert "faster" in line


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs POSIX signals and /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(
    tiny_bundle: Bundle, images: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "msformer_deploy", "benchmark", str(tiny_bundle.path), "--images", str(images)]
    command += ["--backend", "torch", "--min-seconds", "60", "--json", str(tmp_path / "x.json")]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        # Shells start background jobs with this signal ignored, and so would be ours, were pytest one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "measuring" in line:
                break
        time.sleep(0.5)
        born = workers(process.pid)
        assert len(born) == 1
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err.strip()) == ("", "error: interrupted")
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "x.json").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in born)


def workers(parent: int) -> set[int]:
    """Children of a process, by id."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has just ended
            if f"\nPPid:\t{parent}\n" in status.read_text(encoding="utf-8"):
                found.add(int(status.parent.name))
    return found
