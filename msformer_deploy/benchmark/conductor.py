"""Measures the rows: each in a process of its own, its samples in blocks that alternate with the baseline's."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.folder import Bundle
from ..doctor import environment
from ..errors import BackendUnavailable
from ..machine.extras import is_installed
from ..measures import statistics
from ..registry import RefineSettings
from . import accuracy
from .accuracy import Outcomes
from .images import Images
from .plan import Row
from .process import RowFailed, Worker

SCHEMA = 1
BLOCKS = 10  # at most, in which the samples of a row are taken, in turn with the baseline's
STAGES_OFF = 0.03  # of end to end, by which the sum of the stages may differ from it
ITERATIONS = 10  # least samples of a row, unless asked for

_MEASURED = (
    *("artefact_mb", "load_s", "first_run_ms"),
    *("p50_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "mean_ms", "std_ms", "cv"),
    *("iterations", "images_per_second", "peak_memory_mb", "peak_device_memory_mb", "cuda_graph", "speedup"),
    *("label_agreement", "dice_torch", "dice_truth", "stages_ms", "stages_sum", "samples_ms"),
)  # null unless a row ran


@dataclass(frozen=True)
class Options:
    """How long each row is measured, and with what.

    Attributes:
        min_seconds, min_iterations: of samples in each row, at least both; by default :data:`ITERATIONS`, and in mode
            ``full`` one.
        warmup_seconds: of calls that do not count, at least; and at least one for each image that accuracy is told on.
        device, threads: as :class:`.segmenter.Segmenter` takes them.
        concurrency: threads that share a segmenter, one load test each.
        duration: seconds of each load test.
    """

    min_seconds: float
    min_iterations: int | None
    warmup_seconds: float
    device: str = "auto"
    threads: int | None = None
    concurrency: tuple[int, ...] = ()
    duration: float = 10.0

    def iterations(self, row: Row) -> int:
        """Least samples of a row."""
        return self.min_iterations or (1 if row.refine == "full" else ITERATIONS)


@dataclass(eq=False)
class Open:
    """A row whose process is there, and what is known of it so far."""

    row: Row
    worker: Worker
    facts: dict[str, Any]
    memory_before: float | None  # in use on the GPUs before it was opened, MB
    blocks: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    speedup: dict[str, float | None] | None = None
    memory_most: float | None = None

    @property
    def samples(self) -> list[float]:
        return [value for block in self.blocks for value in block["samples_ms"]]

    def by_image(self, first: int = 0) -> list[list[float]]:
        """Milliseconds of one image, by block, from a block on."""
        return [[value / self.row.batch for value in block["samples_ms"]] for block in self.blocks[first:]]

    def stages(self) -> dict[str, list[float]]:
        """Milliseconds of every stage in every call; 0 where a call did not have it."""
        names = dict.fromkeys(stage for block in self.blocks for stage in block["stages_ms"])
        return {
            stage: [
                value
                for block in self.blocks
                for value in block["stages_ms"].get(stage, [0.0] * len(block["samples_ms"]))
            ]
            for stage in names
        }


class BaselineFailed(RowFailed):
    """The baseline failed while another row was measured beside it."""


class Conductor:
    """Measures the rows one after the other; beside the one that is measured, the baseline is there as well.

    Args:
        rows: see :func:`.plan.rows`.
        baseline: one of them, or None for the first that runs.
        images, options: see there.
        folder: for temporary files.
        say: takes lines of progress.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        baseline: Row | None,
        images: Images,
        options: Options,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self._rows, self._wanted, self._images, self._options = rows, baseline, images, options
        self._folder, self._say = folder, say
        self._baseline: Open | None = None
        self._outcomes: dict[str, Outcomes] = {}  # by the row's name
        self._references: dict[tuple[str, RefineSettings], Outcomes] = {}
        self.found: dict[str, dict[str, Any]] = {}  # by the row's name
        self.load: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.threads: int | None = None
        self.baseline_name: str | None = None

    def run(self) -> None:
        """Measure everything."""
        order = [self._wanted, *(row for row in self._rows if row is not self._wanted)] if self._wanted else self._rows
        try:
            for row in order:
                with self._failing(row):
                    self._measure(row)
            if self._baseline is not None:
                with self._failing(self._baseline.row):
                    self._finish_baseline(self._baseline)
        finally:
            if self._baseline is not None:
                self._baseline.worker.close(at_once=True)
        for row in self._rows:
            if row.name in self._outcomes:
                self._judge(row)

    @contextmanager
    def _failing(self, row: Row) -> Iterator[None]:
        """A failure inside is the row's, and not that of the others."""
        try:
            yield
        except RowFailed as error:
            self._fail(row, error)

    def _fail(self, row: Row, error: RowFailed) -> None:
        if row is self._wanted:
            self.warnings.append(f"no speed-up is told: the baseline {row.name} failed")
        unavailable = error.exit_code == BackendUnavailable.exit_code
        if unavailable and not row.has_engine and not row.asked:
            self.warnings.append(f"{row.name} is left out: {error.reason}")
            return
        status = "export only" if unavailable and row.has_engine else "failed"
        self._say(f"{row.name}: {status}, {error.reason}")
        told = {"status": status, "reason": error.reason, "exit_code": error.exit_code}
        self.found[row.name] = {**_described(row), **told}

    def _measure(self, row: Row) -> None:
        if row.failure is not None:
            raise RowFailed(*row.failure)
        self._say(f"{row.name}: loading and warming up")
        memory = environment.device_memory_mb()
        with ExitStack() as stack:
            opened = self._open(row, stack.enter_context(Worker()), memory)
            if self.baseline_name is None and self._wanted in (None, row):
                self._baseline, self.baseline_name = opened, row.name
                stack.pop_all()  # it stays
                return
            self._say(f"{row.name}: measuring")
            self._measure_beside_baseline(opened)
            self._finish(opened)

    def _open(self, row: Row, worker: Worker, memory: float | None) -> Open:
        worker.ask("open", **self._request(row))
        opened = Open(row, worker, worker.ask("first"), memory)
        if row.refine == "full":
            opened.warnings.append("mode full takes long: warmed up with one call, accuracy told on the images met")
        else:
            calls = math.ceil(self._images.judged / row.batch) - 1
            worker.ask("warm", seconds=self._options.warmup_seconds, calls=calls)
        return opened

    def _request(self, row: Row) -> dict[str, Any]:
        return {
            "bundle": str(row.bundle.path),
            "backend": row.backend,
            "device": self._options.device,
            "precision": row.precision,
            "threads": self._options.threads,
            "whole_graph": row.graph == "segmenter",
            "compile": row.compiled,
            "settings": asdict(row.settings),
            "images": [str(path) for path in self._images.paths],
            "judged": self._images.judged,
            "batch": row.batch,
            "folder": str(self._folder),
        }

    def _measure_beside_baseline(self, opened: Open) -> None:
        """Samples of a row in blocks that take turns with the baseline's, and the speed-up, by image."""
        baseline = self._baseline
        if baseline is None:
            self._sample_in_turns([opened])
            return
        known = len(baseline.blocks)
        try:
            self._sample_in_turns([baseline, opened])
        except BaselineFailed as error:
            self._baseline = None
            self.warnings.append(f"{opened.row.name} and what follows have no speed-up: the baseline failed")
            self._fail(baseline.row, error)
            baseline.worker.close(at_once=True)
            opened.blocks.clear()
            self._sample_in_turns([opened])
            return
        opened.speedup = statistics.speedup(baseline.by_image(known), opened.by_image())

    def _sample_in_turns(self, rows: Sequence[Open]) -> None:
        blocks = min(BLOCKS, *map(self._calls_to_come, rows))
        for _ in range(blocks):
            for each in rows:
                try:
                    self._sample(each, blocks)
                except RowFailed as error:
                    if each is rows[-1]:
                        raise
                    raise BaselineFailed(error.reason, error.exit_code) from error

    def _calls_to_come(self, opened: Open) -> int:
        """At least so many, a call taking no longer than the first: a block has at least one."""
        fitting = int(1e3 * self._options.min_seconds / opened.facts["first_run_ms"])
        return max(self._options.iterations(opened.row), fitting)

    def _sample(self, opened: Open, blocks: int) -> None:
        calls = math.ceil(self._options.iterations(opened.row) / blocks)
        opened.blocks.append(opened.worker.ask("block", seconds=self._options.min_seconds / blocks, calls=calls))
        if opened.memory_before is not None and (memory := environment.device_memory_mb()) is not None:
            opened.memory_most = max(opened.memory_most or 0.0, memory - opened.memory_before)

    def _finish_baseline(self, baseline: Open) -> None:
        if not baseline.blocks:  # no other row ran
            self._say(f"{baseline.row.name}: measuring")
            self._sample_in_turns([baseline])
        self._finish(baseline)

    def _finish(self, opened: Open) -> None:
        """All that is told of a row that was measured."""
        row = opened.row
        path = self._folder / "outcomes.npz"
        ended = opened.worker.ask("finish", path=str(path))
        for concurrency in self._options.concurrency:
            self._say(f"{row.name}: {concurrency} threads at once")
            told = opened.worker.ask("load", concurrency=concurrency, seconds=self._options.duration)
            del told["warnings"]
            self.load.append({"name": row.name, **told})
        samples, facts = opened.samples, opened.facts
        stages = opened.stages()
        whole, parts = float(np.mean(samples)), float(sum(np.mean(values) for values in stages.values()))
        if abs(parts / whole - 1) > STAGES_OFF:
            opened.warnings.append(f"the stages' sum is {parts / whole:.1%} of end to end")
        size = row.artefact_bytes
        self.threads = self.threads or facts["threads"]
        self._outcomes[row.name] = accuracy.load(path)
        self.found[row.name] = {
            **_described(row),
            "status": "ok",
            "provider": facts["provider"],
            "precision": facts["precision"],
            "artefact_mb": None if size is None else size / 1e6,
            "load_s": facts["load_s"],
            "first_run_ms": facts["first_run_ms"],
            **statistics.summarise(samples),
            "images_per_second": 1e3 * row.batch / whole,
            "peak_memory_mb": ended["peak_memory_mb"],
            "peak_device_memory_mb": opened.memory_most if facts["cuda_graph"] is not None else None,
            "cuda_graph": facts["cuda_graph"],
            "speedup": opened.speedup,
            "stages_ms": {stage: float(np.median(values)) for stage, values in stages.items()},
            "stages_sum": parts / whole,
            "samples_ms": samples,
            "warnings": [*statistics.warnings(samples), *opened.warnings, *ended["warnings"]],
        }
        self._say(f"{row.name}: {self.found[row.name]['p50_ms']:.1f} ms (median of {len(samples)})")

    def _judge(self, row: Row) -> None:
        outcomes = self._outcomes[row.name]
        self.found[row.name]["dice_truth"] = accuracy.dice_truth(outcomes, self._images.truth)
        reference = self._reference(row)
        if reference is not None:
            self.found[row.name] |= accuracy.compared(outcomes, reference)

    def _reference(self, row: Row) -> Outcomes | None:
        """What torch gives in fp32 on the CPU, from the row that is just that or from a process for it."""
        key = (str(row.bundle.path), row.settings)
        if key not in self._references:
            lacking = _lacking_to_compare(row.bundle)
            if lacking is not None:
                self.warnings.append(f"label maps are not compared with those of torch: {lacking}")
                self._references[key] = {}
            else:
                self._references[key] = self._found_reference(row) or self._computed_reference(row)
        return self._references[key] or None

    def _found_reference(self, row: Row) -> Outcomes:
        for each in self._rows:
            told = self.found.get(each.name, {})
            kind = (each.bundle.path, each.settings, each.graph, each.compiled)
            same = kind == (row.bundle.path, row.settings, "encoder", False)
            if same and (each.backend, told.get("precision"), told.get("provider")) == ("torch", "fp32", "cpu"):
                return self._outcomes[each.name]
        return {}

    def _computed_reference(self, row: Row) -> Outcomes:
        self._say(f"{row.name}: torch in fp32, to compare with")
        path = self._folder / "reference.npz"
        plain = {"backend": "torch", "device": "cpu", "precision": "fp32", "whole_graph": False, "compile": False}
        request = self._request(row) | plain
        try:
            with Worker() as worker:
                worker.ask("open", **request | {"batch": 1})
                worker.ask("warm", seconds=0, calls=1 if row.refine == "full" else self._images.judged)
                worker.ask("finish", path=str(path))
        except RowFailed as error:
            self.warnings.append(f"nothing to compare with, torch failed: {error.reason}")
            return {}
        return accuracy.load(path)


def _lacking_to_compare(bundle: Bundle) -> str | None:
    """Why torch cannot run a bundle to compare with, or its labels cannot be matched; None if nothing is lacking."""
    for module in ("torch", "scipy"):  # SciPy matches the clusters
        if not is_installed(module):
            return f'{module} is not installed; pip install "msformer-deploy[torch]"'
    return None if bundle.complete else "the default bundles of the package have no weights for that"


def conduct(
    rows: Sequence[Row],
    baseline: Row | None,
    images: Images,
    options: Options,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The report of a benchmark, plain data as described in ``docs/reference/reports.md``."""
    bundles: dict[str, Bundle] = {str(row.bundle.path): row.bundle for row in rows}
    around = environment.describe(bundles.values(), options.threads)
    with tempfile.TemporaryDirectory(prefix="msformer-benchmark-") as folder:
        conductor = Conductor(rows, baseline, images, options, Path(folder), say)
        conductor.run()
    around["threads"]["used"] = conductor.threads
    return {
        "schema": SCHEMA,
        "rows": [conductor.found[row.name] for row in rows if row.name in conductor.found],
        "load": [load for row in rows for load in conductor.load if load["name"] == row.name],
        "environment": around,
        "settings": {
            "min_seconds": options.min_seconds,
            "min_iterations": options.min_iterations or ITERATIONS,
            "warmup_seconds": options.warmup_seconds,
            "images": len(images.paths),
            "judged": images.judged,
            "baseline": conductor.baseline_name,
            "threads": options.threads,
            "device": options.device,
        },
        "warnings": [*environment.warnings(around), *conductor.warnings],
    }


def _described(row: Row) -> dict[str, Any]:
    """What is known of a row before it runs, and nothing else yet."""
    return {
        "name": row.name,
        "bundle": str(row.bundle.path),
        "backend": row.backend,
        "provider": None,
        "precision": row.precision,
        "graph": row.graph,
        "batch": row.batch,
        "side": row.bundle.sizes.side,
        "refine": row.refine,
        "compiled": row.compiled,
        "preset": row.preset,
        "status": None,
        "reason": None,
        "exit_code": None,
        **dict.fromkeys(_MEASURED),
        "warnings": [],
    }
