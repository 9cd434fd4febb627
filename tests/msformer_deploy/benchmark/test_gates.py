"""Limits on made-up reports: kept, broken, and those that nothing can be judged by."""

from __future__ import annotations

import pytest
from benchmark_reports import failed, report, row

from msformer_deploy.benchmark.gates import breaches

NONE = (None, None, None)


def fast(ratio: float) -> dict[str, float]:
    return {"ratio": ratio, "low": ratio - 0.5, "high": ratio + 0.5}


MADE = report(
    row("torch fp32", [100.0, 100.0], speedup=fast(1.0), dice_torch=1.0),
    row("openvino fp32", [50.0, 50.0], speedup=fast(2.0), dice_torch=0.95),
    row("openvino bf16", [40.0, 40.0], speedup=fast(2.5), dice_torch=0.5, dice_truth=0.9),
    failed("tensorrt fp16"),
)


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        (NONE, []),
        ((100, None, None), []),
        ((99.9, None, None), ["torch fp32: p95 in ms is 100, and 99.9 is the most allowed"]),
        ((None, 2.0, None), []),
        ((None, 2.1, None), ["openvino fp32: speed-up is 2, and 2.1 is the least allowed"]),
        ((None, None, 0.9), []),
        ((None, None, 0.92), ["openvino bf16: DSC is 0.9, and 0.92 is the least allowed"]),
        ((None, None, 0.9500001), ["openvino fp32: DSC is 0.95", "openvino bf16: DSC is 0.9,"]),
        ((45, 2.1, None), ["torch fp32: p95", "openvino fp32: p95", "openvino fp32: speed-up"]),
    ],
)
def test_limits(limits: tuple[float | None, ...], broken: list[str]) -> None:
    found = breaches(MADE, *limits)
    assert len(found) == len(broken)
    for line, start in zip(found, broken, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    "rows", [[], [failed("openvino fp32")], [row("torch fp32", speedup=fast(1.0), dice_torch=1.0)]]
)
def test_a_limit_that_nothing_can_be_judged_by_is_not_kept(rows: list) -> None:
    made = report(*rows)
    assert [line.split(" has a ")[1].split(" to be")[0] for line in breaches(made, None, 0.1, 0.1)] == [
        "speed-up",
        "DSC",
    ]
    assert len(breaches(made, 1e9, None, None)) == (not any(each["status"] == "ok" for each in rows))


def test_torch_on_a_gpu_is_judged_by_torch_on_the_cpu() -> None:
    assert len(breaches(report(row("torch fp32", provider="cuda:0", dice_torch=0.5)), None, None, 0.6)) == 1


def test_a_score_that_is_no_number_breaks_a_limit() -> None:
    made = report(row("torch fp32"), row("openvino fp32", dice_torch=float("nan")))
    assert breaches(made, None, None, 0.1) == ["openvino fp32: DSC is nan, and 0.1 is the least allowed"]
