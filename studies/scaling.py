"""Time and memory against image side, batch, number of clusters and number of images, with fitted growth.

    python studies/scaling.py [--quick] [--axes side batch clusters images] [--json FILE] [--picture FILE]

Every point has a process of its own, so its peak memory is its own; a point that does not fit in memory is one line.
Bundles of each side and number of clusters are exported into a temporary folder, or into --work, where the next call
finds them. The number of images grows by repetition through ``msformer-deploy run``, on the smallest network, because
there it is the machinery around it that could grow. Axes that the --json file has are kept, if machine, backend
and threads are the same, and drawn as well: one that was disturbed can be measured again alone.

Growth is the slope of a straight line through the logarithms: 1 is linear, 2 is quadratic. Memory is fitted above
that of the same process with the smallest network, most of which is libraries; that of runs as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from script import exit_code

from msformer_deploy.benchmark import table
from msformer_deploy.benchmark.process import RowFailed, Worker
from msformer_deploy.bundle.folder import MANIFEST, load_bundle
from msformer_deploy.doctor import environment
from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.images.inputs import discover
from msformer_deploy.images.samples import sample_images
from msformer_deploy.registry import SYSTEMS

SMALLEST = 33  # side of the smallest network there is
DEFAULT = SYSTEMS["msformer"].sized()
FULL = {
    "side": (129, 193, 257, 385, 513, 769, 1025),
    "batch": (1, 2, 4, 8, 16, 32),
    "clusters": (10, 25, 50, 100, 200, 400),
    "images": (1, 10, 100, 1000, 10_000),
}
QUICK = {"side": (33, 65, 97, 129), "batch": (1, 2, 4), "clusters": (10, 50, 100), "images": (1, 10, 100)}
REFINEMENT = ("sample", "steps", "argmax", "figure", "refine")  # stages that make it up
MEMORY_WORDS = re.compile(
    r"memory|alloc|failed to map segment", re.IGNORECASE
)  # in what runtimes say when there is too little of it
COLOURS = {"encoder_ms": "#0072B2", "refine_ms": "#E69F00", "seconds": "#0072B2", "memory_mb": "#009E73"}  # Okabe & Ito
LABELS = {"encoder_ms": "encoder", "refine_ms": "refinement", "seconds": "whole run", "memory_mb": "peak memory"}
TITLES = {
    "side": "side of the network input, pixels",
    "batch": "images in one call",
    "clusters": "clusters K",
    "images": "images in one run",
}


def growth(points: Sequence[dict[str, Any]], key: str, base: float = 0.0) -> dict[str, float] | None:
    """Slope of log(value - base) over log(x), with its standard error; None with fewer than three usable points."""
    from scipy.stats import linregress

    usable = [(point["x"], point[key] - base) for point in points if point["status"] == "ok"]
    usable = [(x, value) for x, value in usable if value > 0]
    if len({x for x, _ in usable}) < 3:
        return None
    fit = linregress(*np.log(np.array(usable)).T)
    error = float(np.nan_to_num(fit.stderr))  # of values all equal it is 0 / 0
    return {"slope": float(fit.slope), "standard_error": error, "points": len(usable)}


def failure(x: int, reason: str) -> dict[str, Any]:
    """A point that has no numbers; one that wants too much memory is told apart from one that is broken."""
    status = "does not fit" if MEMORY_WORDS.search(reason) else "failed"
    return {"x": x, "status": status, "reason": " ".join(reason.split())}


def available_memory() -> int:
    """Bytes that new processes can have."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise DeployError("/proc/meminfo does not tell the memory available; pass --memory")


@contextlib.contextmanager
def limited(limit: int) -> Iterator[None]:
    """Let processes started inside have no more address space than ``limit`` bytes: they fail, and not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def export(path: Path, side: int, clusters: int) -> None:
    """Make the bundle at ``path``; in a process of its own."""
    from msformer_deploy.export.build import build_bundle

    build_bundle(dataclasses.replace(DEFAULT, side=side, clusters=clusters), path)


class Scaling:
    """Measures points, one process after the other.

    Args:
        work: folder for bundles.
        images: files that are segmented.
        limit: bytes that a process may have.
        arguments: backend, threads, seconds.
    """

    def __init__(self, work: Path, images: Sequence[Path], limit: int, arguments: argparse.Namespace) -> None:
        self._work, self._images, self._limit, self._arguments = work, images, limit, arguments

    def bundle(self, side: int = DEFAULT.side, clusters: int = DEFAULT.clusters) -> Path:
        """The bundle of these sizes, made when it is not there yet.

        Raises:
            DeployError: it cannot be made.
        """
        path = self._work / f"side{side}-clusters{clusters}"
        if (path / MANIFEST).is_file():
            return load_bundle(path).path
        print(f"  exporting side {side}, {clusters} clusters", flush=True)
        with limited(self._limit), ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                pool.submit(export, path, side, clusters).result()
            except Exception as error:
                raise DeployError(f"export: {type(error).__name__}: {error}" + _killed(error)) from error
        return path

    def point(self, x: int, bundle: Path, batch: int = 1) -> dict[str, Any]:
        """Median milliseconds of encoder, refinement and whole call, and peak memory, for ``batch`` images a call."""
        loaded = load_bundle(bundle)
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            with limited(self._limit):
                worker = Worker()
            with worker:
                worker.ask(
                    "open",
                    bundle=str(bundle),
                    backend=self._arguments.backend,
                    device="cpu",
                    precision=None,
                    threads=self._arguments.threads,
                    whole_graph=False,
                    settings=dataclasses.asdict(loaded.refinement),
                    images=[str(path) for path in self._images],
                    judged=0,
                    batch=batch,
                    folder=folder,
                )
                first = worker.ask("first")
                block = worker.ask("block", seconds=self._arguments.seconds, calls=3)
                ended = worker.ask("finish", path=str(Path(folder, "outcomes.npz")))
        stages = table.steps_as_one({name: statistics.median(each) for name, each in block["stages_ms"].items()})
        return {
            "x": x,
            "status": "ok",
            "calls": len(block["samples_ms"]),
            "load_s": first["load_s"],
            "first_run_ms": first["first_run_ms"],
            "total_ms": statistics.median(block["samples_ms"]),
            "encoder_ms": stages["encoder"],
            "refine_ms": sum(stages.get(name, 0.0) for name in REFINEMENT),
            "memory_mb": ended["peak_memory_mb"],
        }

    def run(self, count: int, bundle: Path) -> dict[str, Any]:
        """``msformer-deploy run`` on ``count`` images, which are copies of few under as many names."""
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            source, output = Path(folder, "images"), Path(folder, "results")
            repeat(self._images, count, source)
            command = [sys.executable, "-P", "-m", "msformer_deploy", "run", source, "--output", output, "-q"]
            command += ["--bundle", bundle, "--backend", self._arguments.backend]
            if self._arguments.threads:
                command += ["--threads", str(self._arguments.threads)]
            with limited(self._limit), tempfile.TemporaryFile() as said:
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
                memory = _watched(process)
                if process.returncode != 0:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines()
                    raise DeployError(" | ".join(lines[-3:]) or f"killed ({process.returncode}): memory ran out")
            summary = json.loads((output / "report.json").read_text(encoding="utf-8"))["summary"]
        return {
            "x": count,
            "status": "ok",
            "seconds": summary["seconds"],
            "images_per_second": summary["images_per_second"],
            "memory_mb": max(memory),
            "checkpoints_mb": checkpoints(memory, 10),
        }

    def axis(self, name: str, values: Sequence[int], side: int) -> list[dict[str, Any]]:
        """All points of an axis, printed as they come; ``side`` is that of the axes that do not vary it."""
        points = []
        for value in values:
            try:
                match name:
                    case "side":
                        found = self.point(value, self.bundle(value))
                    case "batch":
                        found = self.point(value, self.bundle(side), batch=value)
                    case "clusters":
                        found = self.point(value, self.bundle(side, value))
                    case _:
                        found = self.run(value, self.bundle(SMALLEST))
            except (RowFailed, DeployError) as error:
                found = failure(value, str(error))
            points.append(found)
            print(f"  {name} {value:>6}: {shown(found)}", flush=True)
        return points


def _killed(error: Exception) -> str:
    """What a process pool leaves unsaid."""
    return "; most likely memory ran out" if type(error).__name__ == "BrokenProcessPool" else ""


def _watched(process: subprocess.Popen[bytes]) -> list[float]:
    """Resident memory of a process until it ends, MB, twenty times a second."""
    status = Path(f"/proc/{process.pid}/status")
    memory = [0.0]
    while process.poll() is None:
        with contextlib.suppress(OSError):  # it has just ended
            found = re.search(r"VmRSS:\s+(\d+)", status.read_text(encoding="utf-8"))
            if found:
                memory.append(int(found[1]) * 1024 / 1e6)
        time.sleep(0.05)
    return memory


def repeat(images: Sequence[Path], count: int, folder: Path) -> None:
    """Fill ``folder`` with ``count`` files: small copies of the images, and further names of these."""
    folder.mkdir()
    small = []
    for index, path in enumerate(images[:count]):
        with Image.open(path) as image:
            small.append(folder / f"{index:06}.png")
            image.convert("RGB").resize((96, 96)).save(small[-1])
    for index in range(len(small), count):
        os.link(small[index % len(small)], folder / f"{index:06}.png")


def checkpoints(values: Sequence[float], count: int) -> list[float]:
    """The largest value of each of ``count`` equal parts, or the values themselves where there are no more."""
    return [float(part.max()) for part in np.array_split(np.asarray(values), min(count, len(values)))]


def shown(point: dict[str, Any]) -> str:
    """One point as a line."""
    if point["status"] != "ok":
        return f"{point['status']}: {point['reason']}"
    if "seconds" in point:
        marks = " ".join(f"{each:.0f}" for each in point["checkpoints_mb"])
        return (
            f"{point['seconds']:.1f} s, {point['images_per_second']:.1f} images/s, peak {point['memory_mb']:.0f} MB"
            f" (by tenths of the run: {marks})"
        )
    return (
        f"encoder {table.number(point['encoder_ms'])} ms, refinement {table.number(point['refine_ms'])} ms,"
        f" call {table.number(point['total_ms'])} ms, peak {point['memory_mb']:.0f} MB"
    )


def growths(name: str, points: Sequence[dict[str, Any]], base: float) -> dict[str, dict[str, float] | None]:
    """Fitted growth of everything an axis measures."""
    times = ("seconds",) if name == "images" else ("encoder_ms", "refine_ms")
    memory = growth(points, "memory_mb", 0.0 if name == "images" else base)
    return {**{key: growth(points, key) for key in times}, "memory_mb": memory}


def per_thousand(points: Sequence[dict[str, Any]]) -> float | None:
    """MB of peak memory for each further 1000 images of a run, between the two longest runs."""
    done = [point for point in points if point["status"] == "ok"][-2:]
    if len(done) < 2:
        return None
    return 1000 * (done[1]["memory_mb"] - done[0]["memory_mb"]) / (done[1]["x"] - done[0]["x"])


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture: a column per axis, time above and memory below, on logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axes_names = [name for name in FULL if name in report["axes"]]
    figure = Figure((3.6 * len(axes_names) + 0.6, 6.4), dpi=100, layout="constrained")
    plots = figure.subplots(2, len(axes_names), squeeze=False, sharex="col")
    for column, name in enumerate(axes_names):
        points = report["axes"][name]["points"]
        done = [point for point in points if point["status"] == "ok"]
        lost = [point["x"] for point in points if point["status"] != "ok"]
        for key, fit in report["axes"][name]["growth"].items():
            plot = plots[int(key == "memory_mb"), column]
            slope = "" if fit is None else f": slope {fit['slope']:.2f} ± {fit['standard_error']:.2f}"
            values = [point[key] for point in done]
            plot.plot([point["x"] for point in done], values, "o-", color=COLOURS[key], label=LABELS[key] + slope)
        for plot in plots[:, column]:
            plot.set_xscale("log")
            plot.set_yscale("log")
            for place, x in enumerate(lost):
                plot.axvline(x, color="#D55E00", linestyle=":", label=None if place else "does not fit, or failed")
            low, high = plot.get_ylim()
            low, high = min(low, high / 3), max(high, 3 * low)  # what hardly changes is to look like it
            plot.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
            plot.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
            plot.legend(loc="upper left", fontsize=8, frameon=False)
            plot.grid(color="#dddddd", linewidth=0.7)
            plot.spines[["top", "right"]].set_visible(False)
            plot.yaxis.set_major_formatter("{x:g}")
            plot.yaxis.set_minor_formatter(NullFormatter())
        ticks = [point["x"] for point in points]
        plots[1, column].set_xticks(ticks, [str(each) for each in ticks], fontsize=8)
        plots[1, column].xaxis.set_minor_locator(NullLocator())
        plots[1, column].set_xlabel(TITLES[name])
        plots[0, column].set_ylabel("s" if name == "images" else "ms for one call")
        plots[1, column].set_ylabel("MB")
    figure.suptitle(table.machine(report), fontsize=11)
    figure.savefig(path, metadata={"Software": None})


def main() -> int:
    """Print every point and the growth of every axis; 2 if an option is wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small points")
    parser.add_argument("--axes", nargs="+", choices=tuple(FULL), default=list(FULL))
    parser.add_argument("--images", nargs="+", type=Path, help="by default scikit-image's samples")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=3.0, help="of samples for each point; at least three calls")
    parser.add_argument("--memory", type=float, help="GB that a point may have; by default 90 %% of what is available")
    parser.add_argument("--work", type=Path, help="folder for bundles, kept; by default a temporary one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="a .png")
    arguments = parser.parse_args()
    return exit_code(measure, arguments)


def measure(arguments: argparse.Namespace) -> int:
    images = [item.path for item in discover(arguments.images)] if arguments.images else sample_images()
    limit = int(1e9 * arguments.memory if arguments.memory else 0.9 * available_memory())
    values, side = (QUICK, 129) if arguments.quick else (FULL, DEFAULT.side)
    facts = environment.describe([], arguments.threads)
    report: dict[str, Any] = {
        "environment": facts,
        "settings": {"backend": arguments.backend, "threads": arguments.threads, "limit_mb": limit / 1e6},
        "axes": kept(arguments.json, facts, arguments) if arguments.json else {},
    }
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        scaling = Scaling(work, images, limit, arguments)
        print(f"{table.machine(report)}; at most {limit / 1e9:.1f} GB a point", flush=True)
        base = scaling.point(SMALLEST, scaling.bundle(SMALLEST))["memory_mb"]
        report["base_memory_mb"] = base
        print(f"libraries and the smallest network: {base:.0f} MB", flush=True)
        for name in arguments.axes:
            print(name, flush=True)
            points = scaling.axis(name, values[name], side)
            fitted = growths(name, points, base)
            report["axes"][name] = {"points": points, "growth": fitted}
            for key, fit in fitted.items():
                told = "too few points" if fit is None else f"{fit['slope']:.2f} +- {fit['standard_error']:.2f}"
                print(f"  growth of {LABELS[key]}: {told}", flush=True)
            if name == "images":
                report["axes"][name]["mb_per_thousand"] = more = per_thousand(points)
                print(f"  each further 1000 images: {'unknown' if more is None else f'{more:.1f} MB'}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.picture:
        draw(report, arguments.picture)
    return 0


def kept(path: Path, facts: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Axes of an earlier call; none if there is no file.

    Raises:
        UsageError: the file is no such report, or one of another machine, backend or number of threads.
    """
    if not path.exists():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        machine, settings, axes = report["environment"], report["settings"], dict(report["axes"])
        same = all(machine[each] == facts[each] for each in ("cpu", "affinity"))
        same = same and all(settings[each] == getattr(arguments, each) for each in ("backend", "threads"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: is no report to go on with ({error}); remove it or name another") from error
    if not same:
        raise UsageError(f"{path}: is of another machine, backend or --threads; remove it or name another --json")
    return axes


if __name__ == "__main__":
    sys.exit(main())
