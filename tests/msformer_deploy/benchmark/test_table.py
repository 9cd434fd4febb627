"""Tables of made-up reports: everything is there, aligned, within the width."""

from __future__ import annotations

import csv
import io
import re

import pytest
from benchmark_reports import STAGES, failed, report, row, samples

from msformer_deploy.benchmark import table

LONG = "onnxruntime-tensorrt fp16 batch 8 side 257 head whole graph"
SPEEDUP = {"ratio": 1.234, "low": 1.2, "high": 1.3}


@pytest.fixture
def full() -> dict:
    """Every kind of row, and all that a report can have."""
    return report(
        row("torch fp32", samples(1040)),
        row("onnxruntime fp32", samples(880), speedup=SPEEDUP, warnings=["noisy: much", "few: some"]),
        row(LONG, samples(88), speedup=SPEEDUP, peak_device_memory_mb=812.0, warnings=["few: some"]),
        failed("openvino bf16", "openvino is not installed;\n install msformer-deploy[openvino] and then try it again"),
        failed("tensorrt fp16", "built for another GPU", "export only"),
        load=[
            {"name": "torch fp32", "concurrency": 4, "duration_s": 10.0, "images": 44, "images_per_second": 4.4}
            | {f"{name}_ms": 900.0 for name in ("p50", "p90", "p95", "p99", "max")}
        ],
        warnings=["load average 3.0 at the start"],
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_everything_is_within_the_width(full: dict, width: int) -> None:
    text = table.terminal(full, width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    heads = "p50 p90 p95 p99 min max mean std cv calls images speed-up labels DSC artefact load first peak decode write"
    assert [head for head in heads.split() if head not in words] == []
    assert "1.23 (1.20-1.30)" in text
    assert "baseline" in text
    assert "openvino bf16: failed, openvino is not installed; install msformer-deploy[openvino]" in words
    assert "tensorrt fp16: export only, built for another GPU" in words
    assert "load average 3.0 at the start" in words


@pytest.mark.parametrize("width", [80, 90, 100, 110, 120, 130])
def test_columns_that_belong_together_stay_together(full: dict, width: int) -> None:
    full["rows"] = full["rows"][:2]
    lines = table.terminal(full, width).splitlines()
    for first, last in (("images", "speed-up"), ("labels", "DSC"), ("artefact", "peak")):
        assert sum(first in line and last in line for line in lines) == 1


def test_a_narrower_terminal_gets_the_least_width(full: dict) -> None:
    assert table.terminal(full, 10) == table.terminal(full, table.NARROWEST)


def test_wide_terminals_have_one_table_of_latencies(full: dict) -> None:
    full["rows"] = full["rows"][:2]
    lines = table.terminal(full, 200).splitlines()
    (summary,) = [line for line in lines if line.startswith("onnxruntime fp32 ") and "(1.20-1.30)" in line]
    p50 = full["rows"][1]["p50_ms"]
    assert summary.split()[2] == f"{p50:.0f}"
    assert summary.split()[-4:] == ["45.2", "0.830", "1200", "1220"]


def test_columns_are_aligned_on_the_right(full: dict) -> None:
    full["rows"] = full["rows"][:2]
    parts = table.terminal(full, 200).split("\n\n")
    heads, units, first, second = parts[1].splitlines()
    ends = [match.end() for match in re.finditer(r"\S+", heads)]
    for end in ends:
        for line in (units, first, second):
            assert end <= len(line)
            assert end == len(line) or line[end] == " "
            assert line[end - 1] != " " or line is units, "only calls and such have no unit"


def test_the_refinement_is_one_stage_among_the_stages(full: dict) -> None:
    stages = next(part for part in table.terminal(full, 200).split("\n\n") if "decode" in part).splitlines()
    heads = "decode preprocess encoder sample steps argmax foreground write sum"
    assert stages[0].split() == heads.split()
    assert stages[2].split()[2:] == ["20.0", "4.00", "700", "3.00", "22.0", "14.0", "12.0", "75.0", "99.8"]


def test_columns_without_values_are_left_out_and_missing_values_are_dashes() -> None:
    text = table.terminal(report(row("torch fp32"), row("torch fp32 two", dice_truth=0.91234)), 200)
    assert "GPU peak" not in text
    heads = next(line for line in text.splitlines() if "DSC" in line)
    assert heads.count("DSC") == 2
    assert "0.9123" in text
    assert next(line for line in text.splitlines() if line.startswith("torch fp32  ")).split().count("-") == 1


def test_a_warning_of_several_rows_is_told_once(full: dict) -> None:
    words = " ".join(table.terminal(full, 200).split())
    assert f"onnxruntime fp32, {LONG}: few: some" in words
    assert words.count("few: some") == 1
    for each in full["rows"][:3]:
        each["warnings"] = ["few: some"]
    assert "all rows: few: some" in table.terminal(full, 200)


def test_a_report_of_failures_only_is_a_table_without_latencies() -> None:
    text = table.terminal(report(failed("tensorrt fp16")), 80)
    assert "tensorrt fp16: failed, there is no GPU" in text
    assert "p50" not in text


def test_the_machine_is_one_line() -> None:
    known = report(row("torch fp32"))
    assert table.machine(known) == "Processor 1, 2 cores, 2 threads, 2026-11-21"
    known["environment"] |= {"gpus": ["H\n200"], "cores": 1, "threads": None}
    assert table.machine(known) == "H 200, Processor 1, 1 core, 2026-11-21"
    known["environment"] = {}
    assert table.machine(known) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.01234, "0.012"),
        (0.9994, "0.999"),
        (0.9996, "1.00"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (12345.6, "12346"),
        (0, "0.000"),
    ],
)
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert table.number(value) == shown


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_is_a_table_with_as_many_cells_in_every_line(full: dict) -> None:
    full["rows"][1]["name"] = "torch fp32 a|b"
    full["rows"][3]["reason"] = "no <plugin> | none"
    text = table.markdown(full)
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 3
    for lines in tables:
        assert len({len(cells(line)) for line in lines}) == 1
        assert all(cell.strip("-:") == "" for cell in cells(lines[1]))
    heads, values = cells(tables[0][0]), cells(tables[0][3])
    assert heads[:4] == ["row", "p50, ms", "p95, ms", "p99, ms"]
    assert dict(zip(heads, values, strict=True))["speed-up, times (95 %)"] == "1.23 (1.20-1.30)"
    assert values[0] == r"torch fp32 a\|b"
    assert r"- openvino bf16: failed, no &lt;plugin> \| none" in text


def test_csv_has_a_line_for_every_row(full: dict) -> None:
    heads, *lines = csv.reader(io.StringIO(table.csv_text(full)))
    rows = [dict(zip(heads, line, strict=True)) for line in lines]
    assert [each["name"] for each in rows] == [each["name"] for each in full["rows"]]
    known = set(full["rows"][0]) - {"samples_ms", "stages_ms", "speedup", "warnings"}
    assert known <= set(heads), "a scalar of the report is missing"
    second = rows[1]
    assert float(second["p50_ms"]) == full["rows"][1]["p50_ms"], "numbers are not rounded"
    assert [float(second[f"speedup_{end}"]) for end in SPEEDUP] == list(SPEEDUP.values())
    assert [float(second[f"stage_{stage.replace(' ', '_')}_ms"]) for stage in STAGES] == list(STAGES.values())
    assert second["warnings"] == "noisy: much; few: some"
    assert rows[3]["status"] == "failed"
    assert rows[3]["reason"] == full["rows"][3]["reason"]
    assert rows[3]["p50_ms"] == rows[3]["stage_encoder_ms"] == ""
