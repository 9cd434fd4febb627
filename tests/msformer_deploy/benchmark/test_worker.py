"""A worker answers requests, one line each, whatever goes wrong; served in this process, and once in its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from run_results import SUFFIXES, names_in

from msformer_deploy import Segmenter
from msformer_deploy.benchmark import accuracy, worker
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.results import report

Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def opening(tiny_bundle: Bundle, images: Path, tmp_path: Path) -> dict[str, Any]:
    """The request that opens a row on three images."""
    (tmp_path / "results").mkdir()
    return {
        "do": "open",
        "bundle": str(tiny_bundle.path),
        "backend": "onnxruntime",
        "device": "cpu",
        "precision": "fp32",
        "threads": 2,
        "whole_graph": False,
        "settings": asdict(tiny_bundle.refinement),
        "images": [str(images / name) for name in ("a.png", "b.jpg", "more/c.tif")],
        "judged": 2,
        "batch": 1,
        "folder": str(tmp_path / "results"),
    }


@pytest.fixture
def ask(opening: dict[str, Any]) -> Ask:
    """The answers to opening a row, with changes, and to further requests."""

    def serve(*requests: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
        answers = io.StringIO()
        worker.serve(
            io.StringIO("".join(json.dumps(each) + "\n" for each in ({**opening, **changes}, *requests))), answers
        )
        return [json.loads(line) for line in answers.getvalue().splitlines()]

    return serve


def test_what_runs_and_what_it_takes(ask, tmp_path):
    opened, first = ask({"do": "first"})
    assert "error" not in opened
    assert first["provider"] == "CPUExecutionProvider"
    assert (first["precision"], first["cuda_graph"], first["threads"]) == ("fp32", None, 2)
    assert first["load_s"] > 0
    assert first["first_run_ms"] > 0
    assert names_in(tmp_path / "results") == {f"0{suffix}" for suffix in SUFFIXES}


@pytest.mark.parametrize("batch", [1, 2])
def test_samples_are_whole_calls_on_images_in_rotation(ask, tmp_path, batch):
    _, block = ask({"do": "block", "seconds": 0, "calls": 2}, batch=batch)
    assert len(block["samples_ms"]) == 2
    stages = block["stages_ms"]
    assert {"decode", "preprocess", "encoder", "foreground", "write"} < set(stages)
    assert (next(iter(stages)), list(stages)[-1]) == ("decode", "write")
    for place, sample in enumerate(block["samples_ms"]):
        assert 0.5 * sample < sum(values[place] for values in stages.values()) <= sample
    records = {path.stem for path in (tmp_path / "results").glob("*.json")}
    assert records == ({"0", "1"} if batch == 1 else {"0", "1", "2"})


@pytest.mark.parametrize(("batch", "expected"), [(1, "0120"), (2, "01201201")])
def test_every_call_takes_the_next_images(ask, monkeypatch, batch, expected):
    met = []
    monkeypatch.setattr(report, "write_results", lambda item, *_: met.append(item.relative.name))
    ask({"do": "block", "seconds": 0, "calls": 4}, batch=batch)
    assert "".join(met) == expected


def test_time_and_count_are_both_least(ask, monkeypatch):
    clock = SimpleNamespace(perf_counter=(tick / 8 for tick in count()).__next__, perf_counter_ns=time.perf_counter_ns)
    monkeypatch.setattr(worker, "time", clock)
    _, few, many = ask({"do": "block", "seconds": 0, "calls": 3}, {"do": "warm", "seconds": 0.5, "calls": 1})
    assert len(few["samples_ms"]) == 3
    assert many["calls"] == 4, "one, and as many as the clock is read before the time is over"


def test_outcomes_are_kept_of_the_judged(ask, opening, tiny_bundle, tmp_path):
    path = tmp_path / "outcomes.npz"
    *_, ended = ask({"do": "warm", "seconds": 0, "calls": 5}, {"do": "finish", "path": str(path)})
    assert 50 < ended["peak_memory_mb"] < 10_000
    outcomes = accuracy.load(path)
    assert list(outcomes) == [0, 1]
    for place, outcome in outcomes.items():
        expected = Segmenter(tiny_bundle).segment(opening["images"][place])
        assert np.array_equal(outcome.labels, expected.network_labels)
        assert np.array_equal(outcome.mask, expected.mask)


@pytest.mark.parametrize("batch", [1, 2])
def test_load(ask, tmp_path, batch):
    _, told = ask({"do": "load", "concurrency": 2, "seconds": 0.1}, batch=batch)
    assert told["concurrency"] == 2
    assert told["images"] >= 2 * batch
    assert told["images"] % batch == 0
    assert list((tmp_path / "results").iterdir()) == []


def fails_with(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (BackendUnavailable("no\nsuch device"), {"error": "no such device", "exit_code": 4}),
        (MemoryError(), {"error": "memory ran out; pass a smaller --batch", "exit_code": 1}),
        (ValueError("invalid\ncapsule"), {"error": "ValueError: invalid capsule", "exit_code": 1}),
    ],
)
def test_what_fails_is_told_and_the_next_request_answered(ask, monkeypatch, error, answer):
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "__init__", fails_with(error))
        assert ask()[0] == answer
    monkeypatch.setattr(worker.Sampler, "warm", fails_with(error))
    _, told, first = ask({"do": "warm", "seconds": 0, "calls": 1}, {"do": "first"})
    assert told == answer
    assert "error" not in first


def test_warnings_are_told_once(ask, monkeypatch):
    real = Segmenter.segment_batch

    def warned(*arguments: Any) -> Any:
        warnings.warn("torch runs in place\nof kernels", RuntimeWarning, stacklevel=1)
        return real(*arguments)

    monkeypatch.setattr(Segmenter, "segment_batch", warned)
    opened, *answers = ask({"do": "first"}, {"do": "warm", "seconds": 0, "calls": 3})
    assert opened["warnings"] == []
    assert [each["warnings"] for each in answers] == [["torch runs in place of kernels"]] * 2


@pytest.mark.slow
def test_memory_is_this_process_alone():
    """What getrusage tells of a new process on Linux begins with the memory of the one that started it."""
    code = "from msformer_deploy.benchmark.worker import peak_memory_mb; print(peak_memory_mb())"
    ballast = np.ones(50_000_000)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 5 < float(printed) < 1e-6 * ballast.nbytes
    assert worker.peak_memory_mb() > 1e-6 * ballast.nbytes


@pytest.mark.skipif(os.name != "posix", reason="a system without /proc is posed as")
def test_memory_without_proc(monkeypatch):
    told = worker.peak_memory_mb()
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert worker.peak_memory_mb() == pytest.approx(told, rel=0.2)


def test_nothing_but_answers_is_printed(opening):
    """In a process of its own; libraries that print go to stderr."""
    code = "import os, sys; from msformer_deploy.benchmark import worker\n"
    code += "sys.argv = ['worker']; real = worker.serve\n"
    code += "def serve(*pipes):\n    print('hello'); os.write(1, b'from C\\n'); real(*pipes)\n"
    code += "worker.serve = serve; worker.main()"
    finished = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(opening) + "\n", capture_output=True, text=True, check=True
    )
    assert json.loads(finished.stdout) == {"warnings": []}
    assert {"hello", "from C"} <= set(finished.stderr.split("\n"))
