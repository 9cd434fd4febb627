"""The CUDA kernels on this machine's GPU: loaded, checked against float64, and timed against torch.

    python studies/gpu_check.py [--json FILE] [--checks-only] [--side 257] [--batches 1,16]

Checks: fresh random inputs (the seed is printed), memory poisoned with NaN, errors against float64 of the very inputs;
again under compute-sanitizer where it is installed, on small inputs. Times: CUDA events around replays of a CUDA graph,
which leaves the launches' cost on the host out, and around plain calls, which has it in; inputs in rotation, together
larger than the L2 cache; medians. The floor is the larger of two times on this GPU as measured in this run: the bytes
that must move at the rate of a device-to-device copy, and the operations at the rate of torch's matrix product.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from script import exit_code
from torch import Tensor

from msformer_deploy import kernels
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.kernels import compile as images
from msformer_deploy.kernels import launch, reference
from msformer_deploy.kernels.ops import head_refine_loop
from msformer_deploy.machine.versions import installed_versions
from msformer_deploy.registry import SYSTEMS, RefineSettings

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Largest ||got - exact|| / ||exact|| that is rounding and nothing else.
TOLERANCES = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
LABEL_TOLERANCE = 1e-5  # how far a label's score may lie below the best, of the largest score
WIDTH, CLUSTERS = 100, 100  # the default bundle's; its features have 2 x WIDTH channels

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One operation at one size: how to draw its inputs, run it, judge it, and what it must cost at least."""

    operation: str
    dtype: str
    batch: int
    draw: Callable[[torch.Generator], Inputs]
    ours: Callable[..., Any]
    torch_eager: Callable[..., Any]
    error: Callable[[Inputs, Any], float]  # against float64; NaN or infinity fails
    tolerance: float
    bytes_moved: int
    operations: int
    compiled: bool = False  # whether torch.compile is a rival too


@dataclass(frozen=True)
class Timing:
    """Milliseconds for one call, medians."""

    operation: str
    dtype: str
    batch: int
    ours: float
    ours_with_launches: float
    torch_eager: float
    torch_eager_with_launches: float
    torch_compiled: float | None
    floor_bytes: float
    floor_operations: float

    @property
    def floor(self) -> float:
        return max(self.floor_bytes, self.floor_operations)


def cases(side: int, batches: Sequence[int], device: torch.device) -> list[Case]:
    """Every operation in every dtype and batch size, on images of side x side."""
    return [
        make(DTYPES[dtype], dtype, batch, side, device)
        for make in (argmax_case, attention_case, step_case, loop_case)
        for dtype in DTYPES
        for batch in batches
    ]


def argmax_case(dtype: torch.dtype, name: str, batch: int, side: int, device: torch.device) -> Case:
    channels, pixels = 2 * WIDTH, side * side

    def draw(generator: torch.Generator) -> Inputs:
        features = normal((batch, channels, side, side), generator, device).to(dtype)
        return features, normal((1, CLUSTERS, channels), generator, device).to(dtype)

    def torch_way(features: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.matmul(head, features.flatten(2)).argmax(dim=1)
        counts = [torch.bincount(image, minlength=CLUSTERS) for image in labels]
        return labels.view(batch, side, side).to(torch.uint8), torch.stack(counts)

    def error(inputs: Inputs, outputs: Any) -> float:
        features, head = (each.double() for each in inputs)
        labels, counts = outputs
        scores = torch.matmul(head, features.flatten(2))
        chosen = scores.gather(1, labels.long().flatten(1).unsqueeze(1)).squeeze(1)
        if not torch.equal(counts, count_labels(labels)):
            return math.inf
        return float((scores.amax(dim=1) - chosen).max() / scores.abs().max())

    size = dtype.itemsize
    return Case(
        "cluster_argmax",
        name,
        batch,
        draw,
        kernels.cluster_argmax,
        torch_way,
        error,
        LABEL_TOLERANCE,
        bytes_moved=batch * pixels * (channels * size + 1),
        operations=2 * batch * pixels * channels * CLUSTERS,
    )


def attention_case(dtype: torch.dtype, name: str, batch: int, side: int, device: torch.device) -> Case:
    positions = (side * side, ((side + 1) // 2) ** 2)

    def draw(generator: torch.Generator) -> Inputs:
        shapes = [shape for n in positions for shape in ((batch, n, WIDTH), (batch, WIDTH, n), (batch, n, WIDTH))]
        return tuple(normal(shape, generator, device).to(dtype) for shape in shapes)

    def torch_way(*inputs: Tensor) -> tuple[Tensor, ...]:
        fine, context_fine = reference.linear_attention(*inputs[:3])
        coarse, context_coarse = reference.linear_attention(*inputs[3:])
        return fine, coarse, context_fine, context_coarse, reference.context_consistency(context_fine, context_coarse)

    def error(inputs: Inputs, outputs: Any) -> float:
        exact = reference.cross_scale_attention(*(each.double() for each in inputs))
        return max(distance(got, right) for got, right in zip(outputs, exact, strict=True))

    return Case(
        "cross_scale_attention",
        name,
        batch,
        draw,
        kernels.cross_scale_attention,
        torch_way,
        error,
        TOLERANCES[name],
        bytes_moved=batch * 4 * sum(positions) * WIDTH * dtype.itemsize,
        operations=batch * 4 * sum(positions) * WIDTH * WIDTH,
        compiled=True,
    )


SETTINGS = SYSTEMS["msformer"].preset().refinement


def step_case(dtype: torch.dtype, name: str, batch: int, side: int, device: torch.device) -> Case:
    channels, pixels = 2 * WIDTH, side * side
    options = {
        "offset": 3 % SETTINGS.stride,
        "stride": SETTINGS.stride,
        "lr": SETTINGS.lr,
        "momentum": SETTINGS.momentum,
    }

    def draw(generator: torch.Generator) -> Inputs:
        features = normal((batch, channels, pixels), generator, device).to(dtype)
        head = 0.1 * normal((batch, CLUSTERS, channels), generator, device)
        return features, head, 0.01 * normal((batch, CLUSTERS, channels), generator, device)

    def ours(*inputs: Tensor) -> Any:
        return kernels.head_refine_step(*inputs, **options)

    def torch_way(*inputs: Tensor) -> Any:
        return reference.head_refine_step(*inputs, **options)

    def error(inputs: Inputs, outputs: Any) -> float:
        exact = reference.head_refine_step(*(each.double() for each in inputs), **options)
        return max(distance(got, right) for got, right in zip(outputs[:3], exact[:3], strict=True))

    n = len(range(options["offset"], pixels, SETTINGS.stride))
    return Case(
        "head_refine_step",
        name,
        batch,
        draw,
        ours,
        torch_way,
        error,
        1e-5,
        bytes_moved=batch * n * channels * dtype.itemsize,
        operations=4 * batch * n * channels * CLUSTERS,
    )


def loop_case(dtype: torch.dtype, name: str, batch: int, side: int, device: torch.device) -> Case:
    channels, pixels = 2 * WIDTH, side * side
    # No early stop: the time of all steps is what is asked for.
    settings = RefineSettings(**{**asdict(SETTINGS), "stop_labels": 1, "head_scale": 1.0})
    options = {key: getattr(settings, key) for key in ("steps", "stride", "lr", "momentum", "stop_labels")}

    def draw(generator: torch.Generator) -> Inputs:
        features = normal((batch, channels, pixels), generator, device).to(dtype)
        return features, 0.1 * normal((batch, CLUSTERS, channels), generator, device)

    def torch_way(features: Tensor, head: Tensor) -> Tensor:
        velocity = torch.zeros_like(head)
        for step in range(settings.steps):
            head, velocity, _, _ = reference.head_refine_step(
                features, head, velocity, step % settings.stride, settings.stride, settings.lr, settings.momentum
            )
        return head

    def ours(features: Tensor, head: Tensor) -> Tensor:
        done = head_refine_loop(features, head, **options)
        return torch_way(features, head) if done is None else done.head

    def error(inputs: Inputs, outputs: Any) -> float:
        return distance(outputs, torch_way(*(each.double() for each in inputs)))

    n = len(range(0, pixels, settings.stride))
    return Case(
        f"{settings.steps} refinement steps",
        name,
        batch,
        draw,
        ours,
        torch_way,
        error,
        # Rounding can turn the label of a pixel between two clusters, and the head learns on from there.
        1e-3,
        bytes_moved=batch * (pixels * channels * dtype.itemsize + settings.steps * n * channels * 4),
        operations=4 * settings.steps * batch * n * channels * CLUSTERS,
    )


def normal(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator, device=device)


def distance(got: Tensor, exact: Tensor) -> float:
    """``||got - exact|| / ||exact||``; infinity where anything is not finite."""
    if not bool(got.isfinite().all()):
        return math.inf
    return float((got.double() - exact).norm() / exact.norm().clamp_min(1e-30))


def count_labels(labels: Tensor) -> Tensor:
    return torch.stack([torch.bincount(image.flatten().long(), minlength=CLUSTERS) for image in labels])


def check(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """Run a case twice on fresh inputs and poisoned memory: the error, and whether both runs agree to the last bit."""
    inputs = case.draw(generator)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    try:
        with kernels.using("cuda"):
            first, second = case.ours(*inputs), case.ours(*inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    error = case.error(inputs, first)
    same = all(map(torch.equal, tensors(first), tensors(second)))
    return {
        "operation": case.operation,
        "dtype": case.dtype,
        "batch": case.batch,
        "error": error,
        "tolerance": case.tolerance,
        "same_twice": same,
        "ok": same and error <= case.tolerance,
    }


def tensors(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


class Timer:
    """Times on one GPU: events, medians, inputs in rotation."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device, self._seconds = device, seconds
        self._l2 = torch.cuda.get_device_properties(device).L2_cache_size

    def draw(self, case: Case, generator: torch.Generator) -> list[Inputs]:
        """Inputs that together are at least three times the L2 cache."""
        first = case.draw(generator)
        size = sum(each.numel() * each.element_size() for each in first)
        return [first] + [case.draw(generator) for _ in range(min(15, 3 * self._l2 // size))]

    def replayed(self, function: Callable[..., Any], sets: list[Inputs]) -> float:
        """Milliseconds for one call, all sets in one CUDA graph."""
        stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(stream):
            for inputs in sets[:1] * 3:
                function(*inputs)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            kept = [function(*inputs) for inputs in sets]
        milliseconds = self._median(graph.replay) / len(sets)
        del kept
        return milliseconds

    def called(self, function: Callable[..., Any], sets: list[Inputs]) -> float:
        """Milliseconds for one plain call, the sets one after another."""
        return self._median(lambda: [function(*inputs) for inputs in sets]) / len(sets)

    def _median(self, function: Callable[[], Any]) -> float:
        for _ in range(3):
            function()
        samples, end = [], time.perf_counter() + self._seconds
        while len(samples) < 10 or (time.perf_counter() < end and len(samples) < 1000):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            stop.record()
            stop.synchronize()
            samples.append(start.elapsed_time(stop))
        return statistics.median(samples)


def measure(case: Case, timer: Timer, rates: dict[str, float], generator: torch.Generator) -> Timing:
    """Time one case against torch, with its floor."""
    sets = timer.draw(case, generator)

    def graph_or_nan(function: Callable[..., Any]) -> float:
        try:
            return timer.replayed(function, sets)
        except RuntimeError:  # torch.bincount waits for the device, which a graph cannot
            return math.nan

    loop = case.operation.endswith("steps")  # replays a graph of its own, which cannot be recorded into another
    with kernels.using("cuda"):
        plain = timer.called(case.ours, sets)
        ours = plain if loop else timer.replayed(case.ours, sets)
    compiled = None
    if case.compiled:
        compiled = timer.called(torch.compile(case.torch_eager, dynamic=False), sets)
    return Timing(
        case.operation,
        case.dtype,
        case.batch,
        ours,
        plain,
        graph_or_nan(case.torch_eager),
        timer.called(case.torch_eager, sets),
        compiled,
        1e3 * case.bytes_moved / rates["bytes_per_second"],
        1e3 * case.operations / rates[f"operations_per_second_{case.dtype}"],
    )


def measured_rates(timer: Timer, device: torch.device) -> dict[str, float]:
    """What this GPU reaches: bytes of a large copy, read and written, and operations of torch's matrix products."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = {"bytes_per_second": 2e3 * source.numel() / timer.called(target.copy_, [(source,)])}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(8192, 8192, device=device).to(dtype) for _ in range(2))
        rates[f"operations_per_second_{name}"] = 2e3 * 8192**3 / timer.called(torch.matmul, [(a, b)])
    return rates


def table(timings: Sequence[Timing]) -> str:
    """Times in milliseconds, one line for each case; ``x`` are ratios of torch to ours."""
    head = (
        "| operation | dtype | batch | floor | ours | of floor | torch eager | x | with launches: ours | torch | x |"
        " torch.compile | x |\n|" + "---|" * 13
    )
    rows = [
        f"| {t.operation} | {t.dtype} | {t.batch} | {t.floor:.4f} | {t.ours:.4f} | {t.floor / t.ours:.0%} |"
        f" {_number(t.torch_eager)} | {_ratio(t.torch_eager, t.ours)} | {t.ours_with_launches:.4f} |"
        f" {t.torch_eager_with_launches:.4f} | {_ratio(t.torch_eager_with_launches, t.ours_with_launches)} |"
        f" {_number(t.torch_compiled)} | {_ratio(t.torch_compiled, t.ours_with_launches)} |"
        for t in timings
    ]
    return "\n".join([head, *rows])


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def _ratio(value: float | None, ours: float) -> str:
    return "-" if value is None or math.isnan(value) else f"{value / ours:.1f}"


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers belong to."""
    properties = torch.cuda.get_device_properties(device)
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": driver.stdout.strip() or "unknown",
        "torch_cuda": torch.version.cuda,
        "launcher": launch.describe()[1],
        "commit": commit.stdout.strip() or "unknown",
        "versions": installed_versions(),
    }


def load_all(device: torch.device) -> list[dict[str, Any]]:
    """Load every source for the device; say where its code came from and how long that took."""
    major, minor = torch.cuda.get_device_capability(device)
    loaded = []
    for source in images.SOURCES:
        start = time.perf_counter()
        image = images.load(source, 10 * major + minor)
        loaded.append(
            {"source": source, "origin": image.origin, "isa": image.isa, "seconds": time.perf_counter() - start}
        )
    return loaded


def sanitized(tool: str) -> str:
    """The checks again, on small inputs, under compute-sanitizer: bad accesses, then races in shared memory."""
    for check_for in ("memcheck", "racecheck"):
        command = [tool, "--tool", check_for, "--error-exitcode", "9", sys.executable, __file__]
        done = subprocess.run(
            [*command, "--checks-only", "--side", "33", "--batches", "2"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return f"exit {done.returncode}, {check_for}: {(done.stdout + done.stderr)[-2000:]}"
    return "clean"


def main() -> int:
    """Load, check, time; 0 if every check passed, 3 if one did not, 4 without a GPU or a launcher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the full numbers go")
    parser.add_argument("--checks-only", action="store_true", help="no times, no sanitizer")
    parser.add_argument("--side", type=int, default=257, help="of the square images")
    parser.add_argument("--batches", default="1,16", help="batch sizes, comma-separated")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each time")
    arguments = parser.parse_args()
    return exit_code(run, arguments)


def run(arguments: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        raise BackendUnavailable("no CUDA GPU: nothing was checked and nothing was timed")
    launch.launcher()  # or the reason why there is none
    device = torch.device("cuda", torch.cuda.current_device())
    seed = int.from_bytes(os.urandom(4), "little")
    generator = torch.Generator(device).manual_seed(seed)
    report: dict[str, Any] = {"environment": environment(device), "seed": seed, "loaded": load_all(device)}
    print(json.dumps(report, indent=1))
    everything = cases(arguments.side, [int(batch) for batch in arguments.batches.split(",")], device)
    report["checks"] = [check(case, generator) for case in everything]
    for each in report["checks"]:
        verdict = "ok" if each["ok"] else "WRONG"
        print(
            f"{verdict:<6}{each['operation']:<22} {each['dtype']:<9} batch {each['batch']:<3} error {each['error']:.1e}"
        )
    if not arguments.checks_only:
        tool = shutil.which("compute-sanitizer")
        report["sanitizer"] = sanitized(tool) if tool else "compute-sanitizer is not installed"
        print(f"compute-sanitizer: {report['sanitizer']}")
        timer = Timer(device, arguments.seconds)
        rates = measured_rates(timer, device)
        timings = [measure(case, timer, rates, generator) for case in everything]
        report["rates"], report["timings"] = rates, [asdict(timing) for timing in timings]
        print("\n".join(f"{name}: {rate:.3e}" for name, rate in rates.items()), table(timings), sep="\n")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    wrong = sum(not each["ok"] for each in report["checks"])
    print(f"{len(report['checks']) - wrong} of {len(report['checks'])} checks passed")
    return 3 if wrong or str(report.get("sanitizer", "")).startswith("exit") else 0


if __name__ == "__main__":
    sys.exit(main())
