"""Percentiles, warnings and intervals against numbers worked out by hand or known from how the samples were made."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_reports import samples
from scipy.stats import theilslopes

from msformer_deploy.measures import statistics


def test_a_summary_clips_nothing() -> None:
    summary = statistics.summarise([*range(1, 100), 1000])
    assert summary["min_ms"] == 1
    assert summary["max_ms"] == 1000
    assert summary["p50_ms"] == 50.5
    assert summary["p90_ms"] == pytest.approx(90.1)
    assert summary["p95_ms"] == pytest.approx(95.05)
    assert summary["p99_ms"] == pytest.approx(99 + 0.01 * 901)
    assert summary["mean_ms"] == pytest.approx(59.5)
    assert summary["std_ms"] == pytest.approx(np.std([*range(1, 100), 1000], ddof=1))
    assert summary["cv"] == summary["std_ms"] / summary["mean_ms"]
    assert summary["iterations"] == 100


def test_a_single_sample_has_no_spread() -> None:
    summary = statistics.summarise([7.0])
    assert (summary["p50_ms"], summary["p99_ms"], summary["iterations"]) == (7, 7, 1)
    assert summary["std_ms"] is None
    assert summary["cv"] is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.summarise([]),
        lambda: statistics.warnings([]),
        lambda: statistics.speedup([], []),
        lambda: statistics.speedup([[1.0]], [[]]),
        lambda: statistics.speedup([[1.0], [1.0]], [[1.0]]),
    ],
)
def test_no_samples_are_an_error(call) -> None:
    with pytest.raises(ValueError, match=r"sample|block|zip"):
        call()


@pytest.mark.parametrize(
    ("count", "told"),
    [(1, "p50, p90, p95, p99 are"), (9, "p90, p95, p99 are"), (19, "p95, p99 are"), (99, "p99 is"), (100, None)],
)
def test_too_few_samples_for_a_percentile_are_told(count: int, told: str | None) -> None:
    found = statistics.warnings([5.0] * count)
    assert found == ([] if told is None else [f"few samples: {told} nearly the maximum; p99 needs 100 samples"])


@pytest.mark.parametrize(
    ("values", "noisy"),
    [
        (samples(100, 200, spread=0.05), False),
        (samples(100, 200, spread=0.13), True),
        ([100.0] * 120 + [60.0] * 80, True),  # spread without a tail
        ([100.0] * 188 + [125.0] * 12, True),  # a tail from p94 on: cv 6 %, p95 25 % above p50
        ([100.0] * 191 + [125.0] * 9, False),  # the same tail beyond p95
    ],
)
def test_noise(values: list[float], noisy: bool) -> None:
    rng = np.random.default_rng(0)
    found = statistics.warnings(rng.permutation(values).tolist())
    assert [line.split(":")[0] for line in found] == ["noisy"] * noisy


@pytest.mark.parametrize("count", [20, 300])
@pytest.mark.parametrize(("change", "told"), [(0.2, "20% slower"), (-0.2, "20% faster"), (0.03, None), (0.0, None)])
def test_drift(count: int, change: float, told: str | None) -> None:
    values = np.array(samples(100, count)) * np.linspace(1 - change / 2, 1 + change / 2, count)
    found = [line for line in statistics.warnings(values.tolist()) if line.startswith("drift")]
    assert len(found) == (told is not None)
    if told is not None:
        measured = float(found[0].split()[1].rstrip("%"))
        assert abs(measured - 20) <= 2
        assert told.split()[1] in found[0]


def test_images_in_rotation_are_no_drift() -> None:
    rotation = np.tile([80.0, 100, 130, 95, 110], 12)
    assert not any(line.startswith("drift") for line in statistics.warnings(rotation.tolist()))


def test_a_slope_that_may_be_chance_is_no_drift() -> None:
    slopes = [np.polyfit(range(12), samples(100, 12, seed, 0.1), 1)[0] * 12 for seed in range(20)]
    assert np.abs(slopes).max() > 10
    for seed in range(20):
        assert not any(line.startswith("drift") for line in statistics.warnings(samples(100, 12, seed, 0.1)))


def test_one_outlier_at_the_end_is_no_drift() -> None:
    assert not any(line.startswith("drift") for line in statistics.warnings([*samples(100, 30), 5000.0]))


def world(rng: np.random.Generator, ratio: float) -> tuple[list[list[float]], list[list[float]]]:
    """Six pairs of blocks on a host whose speed changes by 20 % from pair to pair."""
    host = np.exp(rng.normal(0, 0.2, (6, 1)))
    baseline, other = (scale * host * np.exp(np.abs(rng.normal(0, 0.03, (6, 8)))) for scale in (100 * ratio, 100))
    return baseline.tolist(), other.tolist()


def test_a_speedup_of_paired_blocks_is_blind_to_the_host() -> None:
    rng = np.random.default_rng(0)
    found = [statistics.speedup(*world(rng, 1.5)) for _ in range(40)]
    assert sum(each["low"] <= 1.5 <= each["high"] for each in found) >= 34
    assert np.mean([each["high"] / each["low"] for each in found]) < 1.035, "the host alone differs by far more"


def test_a_speedup_is_the_geometric_mean_of_paired_medians() -> None:
    found = statistics.speedup([[10.0, 20, 90], [40.0]], [[10.0], [10.0, 10.0]])
    assert found["ratio"] == pytest.approx((2 * 4) ** 0.5)
    assert found["low"] < found["ratio"] < found["high"]
    assert found == statistics.speedup([[10.0, 20, 90], [40.0]], [[10.0], [10.0, 10.0]])


def test_pairs_that_differ_widen_the_interval_of_a_speedup() -> None:
    steady = [[10.0] * 5] * 3
    found = statistics.speedup([[10.0] * 5, [20.0] * 5, [40.0] * 5], steady)
    assert (found["low"], found["ratio"], found["high"]) == pytest.approx((1, 2, 4))
    found = statistics.speedup([[20.0] * 5] * 3, steady)
    assert (found["low"], found["ratio"], found["high"]) == pytest.approx((2, 2, 2))


def test_a_speedup_of_two_samples_has_no_interval() -> None:
    assert statistics.speedup([[16.0]], [[16.0]]) == {"ratio": 1, "low": None, "high": None}


def test_the_interval_of_a_ratio_holds_the_truth_and_narrows() -> None:
    hits, widths = 0, []
    for seed in range(30):
        found = statistics.ratio_of_medians(samples(200, 60, 2 * seed, 0.05), samples(100, 60, 2 * seed + 1, 0.05))
        hits += found.low <= 2 <= found.high
        widths.append(found.high - found.low)
    assert hits >= 25
    more = statistics.ratio_of_medians(samples(200, 960, 0, 0.05), samples(100, 960, 1, 0.05))
    assert more.high - more.low < 0.5 * np.median(widths)


def test_consecutive_samples_that_resemble_one_another_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    ordered, other = np.sort(rng.normal(100, 5, 400)), rng.normal(100, 5, 400)
    waves = np.sin(np.arange(400) / 40).argsort().argsort()
    independent, wandering = (
        statistics.ratio_of_medians(ordered[order], other) for order in (rng.permutation(400), waves)
    )
    assert wandering.high - wandering.low > 1.5 * (independent.high - independent.low)


@pytest.mark.slow
def test_large_measurements_do_not_take_large_memory() -> None:
    import tracemalloc

    many = samples(100, 20_000)
    statistics.ratio_of_medians(many[:100], many[:100])
    tracemalloc.start()
    statistics.ratio_of_medians(many, many[:100])
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_a_ratio_of_single_samples_has_no_interval() -> None:
    assert statistics.ratio_of_medians([4.0], [2.0, 2.0, 2.0]) == (2, None, None)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("digits", [0, 1, 9], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize("count", [2, 3, 10, 20, 41])
def test_the_slope_of_theil_and_sen_is_that_of_scipy(count: int, digits: int, confidence: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = np.round(rng.normal(100, 1, count) + 0.05 * seed * np.arange(count), digits)
        expected = theilslopes(values, alpha=confidence)
        np.testing.assert_allclose(
            statistics.theil_sen(values, confidence),
            (expected.slope, expected.low_slope, expected.high_slope),
            rtol=0,
            atol=1e-12,
        )


def test_equal_values_have_no_slope() -> None:
    assert statistics.theil_sen(np.full(20, 7.0), 0.99) == (0, 0, 0)
