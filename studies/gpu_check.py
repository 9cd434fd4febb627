"""The CUDA kernels on this machine's GPU: loaded, checked against float64, and timed against torch.

    python studies/gpu_check.py [--json FILE] [--parts checks,times,compiled,sanitizer] [--side 257] [--batches 1,16]

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
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from script import exit_code
from torch import Tensor

from msformer_deploy import kernels
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.files import write_text
from msformer_deploy.kernels import compile as images
from msformer_deploy.kernels import launch, reference
from msformer_deploy.kernels.capture import captured
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
    capturable: bool = True  # into a CUDA graph; what replays a graph of its own is not


@dataclass
class Timing:
    """Milliseconds for one call, medians; None where it was not or could not be measured, and why not."""

    operation: str
    dtype: str
    batch: int
    floor_bytes: float
    floor_operations: float
    ours: float | None = None
    ours_with_launches: float | None = None
    torch_eager: float | None = None
    torch_eager_with_launches: float | None = None
    torch_compiled: float | None = None
    failures: dict[str, str] = field(default_factory=dict)

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
        return labels.view(batch, side, side).to(torch.uint8), count_labels(labels)

    def error(inputs: Inputs, outputs: Any) -> float:
        (features, head), (labels, counts) = inputs, outputs
        if not torch.equal(counts, count_labels(labels.long().flatten(1))):
            return math.inf

        def of_image(image: Tensor, chosen: Tensor) -> float:
            scores = torch.matmul(head[0].double(), image.flatten(1).double())
            missed = scores.amax(dim=0) - scores.gather(0, chosen.long().flatten().unsqueeze(0)).squeeze(0)
            return float(missed.max() / scores.abs().max())

        return max(map(of_image, features, labels))

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
        return worst(inputs, outputs, reference.cross_scale_attention)

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


PARTS = ("checks", "times", "compiled", "sanitizer")
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
        features, head = clusters_apart(batch, channels, pixels, generator, device)
        return features.to(dtype), head, 0.01 * normal((batch, CLUSTERS, channels), generator, device)

    def ours(*inputs: Tensor) -> Any:
        return kernels.head_refine_step(*inputs, **options)

    def torch_way(*inputs: Tensor) -> Any:
        return reference.head_refine_step(*inputs, **options)

    def error(inputs: Inputs, outputs: Any) -> float:
        return worst(inputs, outputs[:3], lambda *image: torch_way(*image)[:3])

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
        features, head = clusters_apart(batch, channels, pixels, generator, device)
        return features.to(dtype), head

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
        return worst(inputs, (outputs,), lambda *image: (torch_way(*image),))

    n = len(range(0, pixels, settings.stride))
    return Case(
        f"{settings.steps} refinement steps",
        name,
        batch,
        draw,
        ours,
        torch_way,
        error,
        1e-5,
        bytes_moved=batch * (pixels * channels * dtype.itemsize + settings.steps * n * channels * 4),
        operations=4 * settings.steps * batch * n * channels * CLUSTERS,
        capturable=False,
    )


def clusters_apart(
    batch: int, channels: int, pixels: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features (batch, channels, pixels) around one centre for each cluster, and heads (batch, clusters, channels).

    No pixel is near the border of two clusters. There rounding alone would choose its label, and one label more or less
    changes a head by more than all rounding.
    """
    centres = normal((CLUSTERS, channels), generator, device)
    own = torch.randint(CLUSTERS, (batch, pixels), generator=generator, device=device)
    features = torch.stack([centres[each].T for each in own])
    features += 0.3 * normal((batch, channels, pixels), generator, device)
    return features, 0.02 * (centres + 0.5 * normal((batch, CLUSTERS, channels), generator, device))


def normal(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator, device=device)


def distance(got: Tensor, exact: Tensor) -> float:
    """``||got - exact|| / ||exact||``, of losses and cosines (B,) against 1; infinity where anything is not finite."""
    if not bool(got.isfinite().all()):
        return math.inf
    size = exact.norm().clamp_min(1 if exact.dim() == 1 else 1e-30)
    return float((got.double() - exact).norm() / size)


def worst(inputs: Inputs, outputs: Inputs, function: Callable[..., Inputs]) -> float:
    """The largest distance of an output from ``function`` in float64, image by image: a batch would need gigabytes."""
    return max(
        distance(output[image : image + 1], right)
        for image in range(len(inputs[0]))
        for output, right in zip(outputs, function(*(each[image : image + 1].double() for each in inputs)), strict=True)
    )


def count_labels(labels: Tensor) -> Tensor:
    """Pixels of each cluster (B, K) of labels (B, N). Unlike ``bincount``, it does not wait for the device."""
    return labels.new_zeros((len(labels), CLUSTERS)).scatter_add_(1, labels, torch.ones_like(labels))


def check(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """Run a case twice on fresh inputs and poisoned memory: the error, and whether both runs agree to the last bit.

    ``ok`` is None where the GPU's memory is too small, and ``error`` is a message where the case fails.
    """
    facts: dict[str, Any] = {"operation": case.operation, "dtype": case.dtype, "batch": case.batch}
    try:
        inputs = case.draw(generator)
        torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
        try:
            with kernels.using("cuda"):
                first, second = case.ours(*inputs), case.ours(*inputs)
        finally:
            torch.use_deterministic_algorithms(False)
        error = case.error(inputs, first)
        same = all(map(torch.equal, tensors(first), tensors(second)))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {**facts, "ok": None, "error": "not enough memory on this GPU"}
    except Exception as failure:
        return {**facts, "ok": False, "error": one_line(failure)}
    return {
        **facts,
        "error": error if math.isfinite(error) else "not finite",
        "tolerance": case.tolerance,
        "same_twice": same,
        "ok": same and error <= case.tolerance,
    }


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


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
        with captured(graph, stream):
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


def measure(
    case: Case, timer: Timer, rates: dict[str, float], generator: torch.Generator, parts: Sequence[str]
) -> Timing:
    """Time one case against torch, with its floor; what fails is said, and the rest is timed."""
    timing = Timing(
        case.operation,
        case.dtype,
        case.batch,
        1e3 * case.bytes_moved / rates["bytes_per_second"],
        1e3 * case.operations / rates[f"operations_per_second_{case.dtype}"],
    )
    try:
        sets = timer.draw(case, generator)
    except torch.OutOfMemoryError as error:
        timing.failures["inputs"] = one_line(error)
        return timing

    def fill(name: str, way: Callable[[], float]) -> None:
        try:
            setattr(timing, name, way())
        except Exception as error:
            timing.failures[name] = one_line(error)
            torch.cuda.empty_cache()

    with kernels.using("cuda"):
        fill("ours_with_launches", lambda: timer.called(case.ours, sets))
        if case.capturable:
            fill("ours", lambda: timer.replayed(case.ours, sets))
        else:
            timing.ours = timing.ours_with_launches
    if "times" in parts:
        fill("torch_eager_with_launches", lambda: timer.called(case.torch_eager, sets))
        fill("torch_eager", lambda: timer.replayed(case.torch_eager, sets))
    if "compiled" in parts and case.compiled:
        fill("torch_compiled", lambda: timer.called(torch.compile(case.torch_eager, dynamic=False), sets))
    return timing


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
        f"| {t.operation} | {t.dtype} | {t.batch} | {t.floor:.4f} | {_number(t.ours)} | {_share(t.floor, t.ours)} |"
        f" {_number(t.torch_eager)} | {_ratio(t.torch_eager, t.ours)} | {_number(t.ours_with_launches)} |"
        f" {_number(t.torch_eager_with_launches)} | {_ratio(t.torch_eager_with_launches, t.ours_with_launches)} |"
        f" {_number(t.torch_compiled)} | {_ratio(t.torch_compiled, t.ours_with_launches)} |"
        for t in timings
    ]
    return "\n".join([head, *rows])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _ratio(value: float | None, ours: float | None) -> str:
    return "-" if value is None or ours is None else f"{value / ours:.1f}"


def _share(floor: float, ours: float | None) -> str:
    return "-" if ours is None else f"{floor / ours:.0%}"


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
    capability, driver = 10 * major + minor, launch.launcher().driver_version
    loaded = []
    for source in images.SOURCES:
        start = time.perf_counter()
        image = images.shipped_cubin(source, capability, driver) or images.load(source, capability)
        seconds = time.perf_counter() - start
        loaded.append({"source": source, "kind": image.kind, "origin": image.origin, "seconds": seconds})
    return loaded


OURS = re.compile(r"\b(cluster_argmax|attention_(context|merge|apply)|head_(gradient|update)|sample_phases)_?\w*")


def sanitized(tool: str, seconds: float) -> dict[str, Any]:
    """The checks again, on small inputs, under compute-sanitizer: bad accesses, then races in shared memory.

    Its records on kernels of libraries are counted and not judged.

    Returns:
        for each tool the ``verdict``, "clean", "found", "failed" or "no time", with the first records on our kernels.
    """
    found: dict[str, Any] = {}
    for check_for in ("memcheck", "racecheck"):
        command = [
            tool,
            "--tool",
            check_for,
            sys.executable,
            __file__,
            "--parts",
            "checks",
            "--side",
            "33",
            "--batches",
            "2",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            found[check_for] = {"verdict": "no time", "seconds": seconds}
            continue
        found[check_for] = judged(done.stdout + done.stderr, done.returncode)
    return found


def judged(output: str, code: int) -> dict[str, Any]:
    """What compute-sanitizer's output says of our kernels. A record is a line and the indented lines after it."""
    records: list[list[str]] = []
    for line in output.splitlines():
        text = line.removeprefix("=========")
        if text == line or not text.strip():
            continue
        if text.startswith("  ") and records:
            records[-1].append(text.strip())
        else:
            records.append([text.strip()])
    records = [
        part for part in records if re.match(r"Invalid|Misaligned|Race|Error:|Warning:|Leaked|Program hit", part[0])
    ]
    ours = [part for part in records if any(OURS.search(line) for line in part)]
    verdict = "found" if ours else "failed" if code else "clean"
    facts: dict[str, Any] = {"verdict": verdict, "of_libraries": len(records) - len(ours)}
    if ours:
        facts["records"] = [" / ".join(part[:4]) for part in ours[:5]]
    elif code:
        facts["output"] = output[-2000:]
    return facts


def main() -> int:
    """Load, check, time; 0 if every check passed, 3 if one did not, 4 without a GPU or a launcher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the full numbers go")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to do, with commas between; of all: %(default)s")
    parser.add_argument("--side", type=int, default=257, help="of the square images")
    parser.add_argument("--batches", default="1,16", help="batch sizes, comma-separated")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each time")
    parser.add_argument("--sanitizer-seconds", type=float, default=600, help="for each of its two tools")
    arguments = parser.parse_args()
    arguments.parts = arguments.parts.split(",")
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))} is unknown; choose of {', '.join(PARTS)}")
    return exit_code(run, arguments)


def gpu() -> torch.device:
    """The GPU that is checked.

    Raises:
        BackendUnavailable: there is none, or nothing can launch kernels on it.
    """
    if not torch.cuda.is_available():
        raise BackendUnavailable("no CUDA GPU: nothing was checked and nothing was timed")
    launch.launcher()
    return torch.device("cuda", torch.cuda.current_device())


def run(arguments: argparse.Namespace) -> int:
    device = gpu()
    seed = int.from_bytes(os.urandom(4), "little")
    generator = torch.Generator(device).manual_seed(seed)
    report: dict[str, Any] = {"environment": environment(device), "seed": seed, "loaded": load_all(device)}

    def save() -> None:  # after every step, because the next one may end the process
        if arguments.json is not None:
            write_text(arguments.json, json.dumps(report, indent=1, allow_nan=False) + "\n")

    save()
    print(json.dumps(report, indent=1))
    everything = cases(arguments.side, [int(batch) for batch in arguments.batches.split(",")], device)
    report["checks"] = checks = []
    for case in everything if "checks" in arguments.parts else ():
        checks.append(check(case, generator))
        save()
        print(described(checks[-1]), flush=True)
    if {"times", "compiled"}.intersection(arguments.parts):
        timer = Timer(device, arguments.seconds)
        try:
            time_all(everything, timer, device, generator, arguments.parts, report, save)
        except Exception as error:
            report["timing_failed"] = one_line(error)
            print(f"timing failed: {report['timing_failed']}")
    if "sanitizer" in arguments.parts:
        tool = shutil.which("compute-sanitizer")
        report["sanitizer"] = "not installed" if tool is None else sanitized(tool, arguments.sanitizer_seconds)
        save()
        print(f"compute-sanitizer: {json.dumps(report['sanitizer'], indent=1)}")
    wrong = sum(each["ok"] is False for each in checks)
    passed = sum(each["ok"] is True for each in checks)
    print(
        f"{passed} of {len(checks)} checks passed, {wrong} failed, {len(checks) - passed - wrong} had not enough memory"
    )
    sanitizer = report.get("sanitizer")
    bad = isinstance(sanitizer, dict) and any(each["verdict"] in ("found", "failed") for each in sanitizer.values())
    unchecked = "checks" in arguments.parts and not passed
    return 3 if wrong or bad or unchecked or "timing_failed" in report else 0


def described(found: dict[str, Any]) -> str:
    """A check in one line."""
    verdict = {True: "ok", False: "WRONG", None: "memory"}[found["ok"]]
    error = found["error"]
    return (
        f"{verdict:<7}{found['operation']:<22} {found['dtype']:<9} batch {found['batch']:<3} "
        + (f"error {error:.1e}" if isinstance(error, float) else str(error))
        + ("" if found.get("same_twice", True) else ", and two runs differ")
    )


def time_all(
    everything: Sequence[Case],
    timer: Timer,
    device: torch.device,
    generator: torch.Generator,
    parts: Sequence[str],
    report: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """Time every case, and put each time into the report at once."""
    report["rates"], report["timings"] = measured_rates(timer, device), []
    save()
    print("\n".join(f"{name}: {rate:.3e}" for name, rate in report["rates"].items()))
    timings = []
    for case in everything:
        timings.append(measure(case, timer, report["rates"], generator, parts))
        report["timings"].append(asdict(timings[-1]))
        save()
        for name, reason in timings[-1].failures.items():
            print(f"not timed: {case.operation} {case.dtype} batch {case.batch}, {name}: {reason}", flush=True)
    print(table(timings), flush=True)


if __name__ == "__main__":
    sys.exit(main())
