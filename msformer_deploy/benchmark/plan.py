"""Which rows a benchmark has: every combination asked for, and the reason for those that cannot exist."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..bundle import engines, sidecar
from ..bundle.folder import WEIGHTS, Bundle, Graph
from ..errors import BackendUnavailable, DeployError, UsageError
from ..machine.extras import is_installed
from ..machine.versions import installed_versions
from ..registry import BACKENDS, DEFAULT, PRECISIONS, SYSTEMS, Mode, Precision, RefineSettings, find_system
from ..segmenter import resolve_refinement
from ..weights.packaged import packaged_bytes

_WHOLE_GRAPH = tuple(backend for backend in BACKENDS if backend != "torch")  # backends that have one
_MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "torch": "torch"}  # what each of them imports


class Failure(NamedTuple):
    """Why a row has no numbers, in one line, and the exit code of that kind of failure."""

    reason: str
    exit_code: int


@dataclass(frozen=True)
class Row:
    """One row to measure.

    Attributes:
        name: unique among the rows, and the same in every benchmark that has such a row.
        bundle, backend, precision, graph, batch: what runs, on how many images a call.
        settings: the refinement.
        preset: its name, where it was asked for by one.
        asked: whether what may keep it from running was asked for by name: that it does not run is then a failure.
        failure: why the row cannot exist, where that is known without trying.
        compiled: whether mode ``full`` runs through ``torch.compile``.
    """

    name: str
    bundle: Bundle
    backend: str
    precision: Precision
    graph: Graph
    batch: int
    settings: RefineSettings
    preset: str | None
    asked: bool
    failure: Failure | None = None
    compiled: bool = False

    @property
    def refine(self) -> str:
        """The refinement's mode; ``in graph`` where it is part of the graph."""
        return self.settings.mode if self.graph == "encoder" else "in graph"

    @property
    def artefact_bytes(self) -> int | None:
        """Size of the files that the backend opens; None where several engines could be the one."""
        if self.backend == "tensorrt":
            found = [record.bytes for record in _engines(self.bundle, self.graph, self.precision)]
            return found[0] if len(found) == 1 else None
        if self.backend == "torch":
            return self.bundle.file(WEIGHTS).stat().st_size
        return self.bundle.graph_file(self.graph, self.precision).stat().st_size + packaged_bytes(self.bundle.left_out)

    @property
    def has_engine(self) -> bool:
        """Whether it would run an engine that the bundle has."""
        return self.backend == "tensorrt" and bool(_engines(self.bundle, self.graph, self.precision))


@dataclass(frozen=True)
class Request:
    """What was asked for; empty where the default is meant.

    Attributes:
        backends: the default is all that are installed, and ``tensorrt`` where the bundle has engines.
        precisions: the default is each bundle's own.
        batches: images in one call; the default is 1.
        modes, presets: refinements; the default is each bundle's own.
        whole_graph: add the rows of the whole method in one graph.
        compile: add the rows of mode ``full`` through ``torch.compile``.
        baseline: ``BACKEND``, ``BACKEND:PRECISION`` or a row's name.
    """

    backends: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    batches: tuple[int, ...] = ()
    modes: tuple[Mode, ...] = ()
    presets: tuple[str, ...] = ()
    whole_graph: bool = False
    baseline: str | None = None
    compile: bool = False


def check(request: Request) -> None:
    """Refuse what no bundle could make right.

    Raises:
        UsageError: a backend, or that of the baseline, is unknown, or no backend asked for has a whole-method graph.
    """
    for backend in request.backends:
        if backend not in BACKENDS:
            raise UsageError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if request.whole_graph and request.backends and not set(request.backends) & set(_WHOLE_GRAPH):
        raise UsageError(
            f"--whole-graph: {', '.join(request.backends)} has no whole-method graph; add --backend onnxruntime"
        )
    if request.baseline is not None:
        _parse_baseline(request.baseline)


def rows(bundles: Sequence[Bundle], request: Request) -> list[Row]:
    """Every row, in order of bundle, refinement, backend, precision and batch.

    A combination that cannot exist is there with its reason where everything that rules it out was asked for by name,
    and left out where a part of that is a default.

    Raises:
        UsageError: a preset is unknown or fits no bundle, or nothing is left to measure.
    """
    check(request)
    for preset in request.presets:
        if not any(_fits(preset, each) for each in bundles):
            resolve_refinement(bundles[0], preset=preset)  # says what it needs
    once: dict[tuple[object, ...], Row] = {}
    for bundle in bundles:
        for row in _of_bundle(bundle, request):
            once.setdefault(_identity(row), row)
    found = list(once.values())
    possible = [row for row in found if row.failure is None or row.asked]
    if not possible:
        reasons = dict.fromkeys(row.failure.reason for row in found if row.failure)
        raise UsageError("; ".join(reasons) or "no backend is installed; install msformer-deploy[cpu]")
    if request.compile and not any(row.compiled for row in possible):
        raise UsageError("--compile only affects backend torch in mode 'full'; add --refine full, or drop --compile")
    return _named(possible)


def with_baseline(found: list[Row], request: Request) -> tuple[list[Row], Row | None]:
    """The rows and the baseline among them, added in front if it is not; None where the first that runs is meant.

    The baseline is the first row of its backend and precision: of the first bundle and the first refinement.
    """
    if request.baseline is None:
        return found, None
    for row in found:
        if row.name == request.baseline:
            return found, row
    backend, precision = _parse_baseline(request.baseline)
    for row in found:
        if row.backend == backend and precision in (None, row.precision):
            return found, row
    first = found[0]
    wanted = Request((backend,), (precision,) if precision else (), (first.batch,))
    (added,) = _of_bundle(first.bundle, wanted, (first.settings, first.preset))
    named = _named([added, *found])
    return named, named[0]


def _parse_baseline(text: str) -> tuple[str, Precision | None]:
    backend, _, rest = re.sub(r"[:\s]+", " ", text.strip()).partition(" ")
    if backend not in BACKENDS:
        raise UsageError(f"baseline {text!r}: backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    for precision in PRECISIONS:
        if rest == precision or rest.startswith(f"{precision} "):
            return backend, precision
    if rest:
        raise UsageError(f"baseline {text!r}: {rest!r} is not a precision; give BACKEND or BACKEND:PRECISION")
    return backend, None


def _of_bundle(
    bundle: Bundle, request: Request, refinement: tuple[RefineSettings, str | None] | None = None
) -> Iterator[Row]:
    refinements = [refinement] if refinement else _refinements(bundle, request)
    backends = request.backends or [each for each in BACKENDS if _is_default(each, bundle)]
    for (settings, preset), backend in itertools.product(refinements, backends):
        in_torch = backend == "torch" or settings.mode == "full"
        learns = bundle.complete and is_installed("torch")  # else only the whole graph can run
        precisions = request.precisions or (("fp32",) if in_torch else (bundle.precision,))
        for precision, batch in itertools.product(precisions, request.batches or (1,)):
            other = settings != bundle.refinement  # than what is built into the graph
            if learns or in_torch or other:
                row = _row(bundle, backend, precision, "encoder", batch, settings, preset, request)
                yield row
                if request.compile and row.refine == "full" and backend == "torch":
                    yield replace(row, compiled=True)
            if (request.whole_graph or not (learns or other)) and backend in _WHOLE_GRAPH:
                yield _row(bundle, backend, precision, "segmenter", batch, bundle.refinement, None, request)


def _refinements(bundle: Bundle, request: Request) -> list[tuple[RefineSettings, str | None]]:
    found: list[tuple[RefineSettings, str | None]] = [
        *((resolve_refinement(bundle, mode), None) for mode in request.modes),
        *((resolve_refinement(bundle, preset=preset), preset) for preset in request.presets if _fits(preset, bundle)),
    ]
    return found or ([] if request.presets else [(bundle.refinement, None)])


def _fits(preset: str, bundle: Bundle) -> bool:
    known = find_system(bundle.system).presets.get(preset)
    return known is not None and known.fits(bundle.sizes.side, bundle.sizes.blocks)


def _is_default(backend: str, bundle: Bundle) -> bool:
    """Whether a backend is tried without being asked for: by what is installed, not by what would work."""
    if backend == "tensorrt":
        return bool(engines.records(bundle))
    if backend == "onnxruntime-tensorrt":
        return "onnxruntime-gpu" in installed_versions()
    return is_installed(_MODULES[backend])


def _row(
    bundle: Bundle,
    backend: str,
    precision: Precision,
    graph: Graph,
    batch: int,
    settings: RefineSettings,
    preset: str | None,
    request: Request,
) -> Row:
    row = Row("", bundle, backend, precision, graph, batch, settings, preset, asked=backend in request.backends)
    refinement = bool(request.modes or request.presets)
    given = {"backend": row.asked, "precision": bool(request.precisions), "refinement": refinement}
    for parts, error in _obstacles(row):
        return replace(row, asked=all(given[part] for part in parts), failure=Failure(str(error), error.exit_code))
    return row


def _obstacles(row: Row) -> Iterator[tuple[tuple[str, ...], DeployError]]:
    """Why the row cannot exist, where that needs no process to find out, and which parts of it together are why."""
    if row.refine == "full" and row.backend == "torch":
        if row.precision == "int8":
            told = "refinement mode 'full' trains the network in fp32, fp16 or bf16, not in int8"
            yield ("backend", "precision"), UsageError(told)
        return  # its weights are those of the bundle, whatever graphs there are
    if row.backend == "torch" and row.precision != "fp32":
        yield (
            ("backend", "precision"),
            BackendUnavailable(
                f"backend torch computes in fp32, not {row.precision};"
                " pass --precision fp32 or choose another --backend"
            ),
        )
    if row.refine == "full":
        yield (
            ("backend", "refinement"),
            UsageError(f"refinement mode 'full' trains the network, which needs --backend torch, not {row.backend}"),
        )
    try:
        row.bundle.graph_file(row.graph, row.precision)
    except UsageError as error:
        yield ("precision",), error
    if row.backend == "tensorrt" and not row.has_engine:
        command = engines.rebuild_command(row.bundle.path, row.precision, None, sidecar.EngineOptions())
        yield (
            ("backend",),
            BackendUnavailable(
                f"{row.bundle.path}: has no TensorRT engine of the {row.precision} {row.graph}; build it: {command}"
            ),
        )


def _engines(bundle: Bundle, graph: Graph, precision: Precision) -> list[sidecar.Record]:
    return [
        record for record in engines.records(bundle).values() if (record.graph, record.precision) == (graph, precision)
    ]


def _identity(row: Row) -> tuple[object, ...]:
    parts = (row.backend, row.precision, row.graph, row.batch, row.settings, row.preset, row.compiled)
    return str(row.bundle.path), *parts


def _named(found: list[Row]) -> list[Row]:
    """The rows with their names; rows that would share one are told apart by their bundle's folder, then by number."""
    short = [_short_name(row) for row in found]
    shared = {name for name, count in Counter(short).items() if count > 1}
    names = [
        f"{name} {row.bundle.path.name}" if name in shared else name for name, row in zip(short, found, strict=True)
    ]
    met: Counter[str] = Counter()
    named = []
    for name, row in zip(names, found, strict=True):
        met[name] += 1
        named.append(replace(row, name=name if met[name] == 1 else f"{name} #{met[name]}"))
    return named


def _short_name(row: Row) -> str:
    """Backend and precision, and whatever differs from one image, MS-Former, the system's side and mode ``head``."""
    parts = [row.backend, row.precision]
    system = SYSTEMS[row.bundle.system]
    if system.name != DEFAULT:
        parts.append(" ".join([system.name, row.bundle.sizes.variant]).strip())
    if row.batch != 1:
        parts.append(f"batch {row.batch}")
    if row.bundle.sizes.side != system.side:
        parts.append(f"side {row.bundle.sizes.side}")
    if row.graph == "segmenter":
        parts.append("whole graph")
    elif row.preset is not None:
        parts.append(row.preset)
    elif row.settings.mode != "head" and not system.trained:
        parts.append(f"refine {row.settings.mode}")
    if row.compiled:
        parts.append("compiled")
    return " ".join(parts)
