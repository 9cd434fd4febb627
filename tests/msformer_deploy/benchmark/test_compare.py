"""Comparisons of made-up reports: verdicts, what is in one report only, and files that are no reports."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from benchmark_reports import failed, report, row, samples

from msformer_deploy.benchmark import compare
from msformer_deploy.errors import UsageError


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (samples(200), samples(100, seed=1), "faster"),
        (samples(100), samples(200, seed=1), "slower"),
        (samples(100), samples(100, seed=1), "no clear difference"),
        (samples(100, spread=0.4), samples(110, seed=1, spread=0.4), "no clear difference"),
        (samples(100, 400, spread=0.001), samples(101, 400, 1, spread=0.001), "no clear difference"),  # within SAME
        (samples(101, 400, spread=0.001), samples(100, 400, 1, spread=0.001), "no clear difference"),
        (samples(104, 400, spread=0.001), samples(100, 400, 1, spread=0.001), "faster"),
        ([200.0], [100.0], "no clear difference"),  # nothing tells the spread
    ],
)
def test_verdicts(before: list[float], after: list[float], verdict: str) -> None:
    (found,) = compare.compare(report(row("torch fp32", before)), report(row("torch fp32", after)))
    assert found["verdict"] == verdict
    assert found["ratio"] == pytest.approx(found["a_p50_ms"] / found["b_p50_ms"])
    if found["low"] is not None:
        assert found["low"] <= found["ratio"] <= found["high"]


def test_rows_are_matched_by_name_and_strays_are_named() -> None:
    first = report(row("torch fp32"), row("openvino fp32"), row("openvino bf16"), failed("tensorrt fp16"))
    second = report(failed("openvino bf16"), row("onnxruntime fp32"), row("torch fp32"), failed("tensorrt fp16"))
    found = {each["name"]: each["verdict"] for each in compare.compare(first, second)}
    assert found == {
        "torch fp32": "no clear difference",
        "openvino fp32": "not in B",
        "openvino bf16": "failed in B",
        "tensorrt fp16": "failed in A, failed in B",
        "onnxruntime fp32": "not in A",
    }
    lines = compare.text(compare.compare(first, second)).splitlines()
    assert next(line for line in lines if line.startswith("openvino fp32")).split() == [
        *("openvino", "fp32", "849", "-", "-", "not", "in", "B")
    ]


def test_what_differs_beside_the_rows_is_told_in_one_line_each() -> None:
    first = report(row("torch fp32"))
    assert compare.remarks(first, deepcopy(first)) == []
    second = deepcopy(first)
    second["environment"] |= {"cpu": "Processor 2", "gpus": ["H200"], "date": "later"}
    second["environment"]["versions"]["torch"] = "2.14.0"
    second["settings"] |= {"images": 8}
    assert compare.remarks(first, second) == [
        "different machines: cpu Processor 1 -> Processor 2, gpus none -> H200;"
        " ratios tell them apart as much as the code",
        "different software: torch 2.13.0 -> 2.14.0",
        "different settings: images 4 -> 8",
    ]
    text = compare.text(compare.compare(first, second), compare.remarks(first, second))
    assert text.startswith("different machines: ")


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    written = report(row("torch fp32"), failed("tensorrt fp16"))
    path.write_text(json.dumps(written))
    assert compare.load(path) == written


def _without(key: str) -> dict[str, Any]:
    made = report(row("torch fp32"))
    del made[key]
    return made


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (json.dumps([1]), "is not a benchmark report"),
        (json.dumps({"schema": 1}), "is not a benchmark report"),
        (json.dumps(report(row("torch fp32"), schema=2)), "schema 2 is newer"),
        (json.dumps(report(row("torch fp32"), schema="1")), "is not a benchmark report"),
        (json.dumps(_without("environment")), "is not a benchmark report"),
        (json.dumps(_without("settings")), "is not a benchmark report"),
        (json.dumps(report(row("torch fp32"), row("torch fp32"))), "is not a benchmark report"),
        (json.dumps(report(rows=[3])), "is not a benchmark report"),
        *(
            (json.dumps(report(row("torch fp32") | {"samples_ms": value})), "is not a benchmark report")
            for value in ([], None, ["a"], [0.0], [True], [float("nan")], [float("inf")])
        ),
        (json.dumps(report(row("torch fp32", p50_ms=None))), "is not a benchmark report"),
    ],
)
def test_what_is_no_report_is_one_line(tmp_path: Path, content: str | bytes, reason: str) -> None:
    path = tmp_path / "a\nb.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=reason) as raised:
        compare.load(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path}/a\\nb.json: ")


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a.json")
    with pytest.raises(UsageError, match="cannot be read"):
        compare.load(tmp_path / "a.json")
