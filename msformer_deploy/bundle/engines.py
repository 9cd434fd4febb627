"""TensorRT engines of a bundle: what their sidecars say, and whether one fits this machine, before it is opened.

An engine is executable code, and TensorRT runs it unchecked. So only an engine that the bundle's manifest lists, whose
bytes are those its sidecar vouches for, and that was built from this bundle's graph for this TensorRT and GPU is ever
handed to TensorRT; anything else is refused with the command that builds it again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

from ..errors import BackendUnavailable, BundleError, UsageError
from ..machine.driver import Gpu
from ..machine.trt_flavour import EXTRAS, one_line
from ..registry import Precision, TrtFlavour
from .folder import ENGINES, MANIFEST, Bundle, Graph, graph_name

SCHEMA_VERSION = 1
SIDECAR = "engine.json"
ENGINE = "model.engine"
PORTABLE = "portable"  # TensorRT-RTX's engines for every GPU it supports from 8.0 on
Compatibility = Literal["none", "same-compute-capability", "ampere-plus"]
COMPATIBILITIES: tuple[Compatibility, ...] = ("none", "same-compute-capability", "ampere-plus")
Plugins = Literal["auto", "always", "never"]
PLUGINS: tuple[Plugins, ...] = ("auto", "always", "never")


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built. Recorded beside it, and told again in the command that rebuilds it.

    Attributes:
        batch: least, likeliest and most images in one call.
        workspace_mb: most scratch memory a layer may take, MiB; TensorRT's own limit by default.
        compatibility: other GPUs that a full TensorRT's engine also runs on.
        compute_capabilities: of the GPUs TensorRT-RTX builds for, kept in order and each once; empty for one engine for
            all from 8.0 on.
        refit: whether weights may be changed in the engine.
        plugins: whether our kernels go into the engine: ``auto`` where TensorRT takes them.
        version_compatible: whether later versions of the same major may run a full TensorRT's engine.
    """

    batch: tuple[int, int, int] = (1, 1, 1)
    workspace_mb: int | None = None
    compatibility: Compatibility = "none"
    compute_capabilities: tuple[str, ...] = ()
    refit: bool = False
    plugins: Plugins = "auto"
    version_compatible: bool = False

    def __post_init__(self) -> None:
        least, likeliest, most = self.batch
        if not 1 <= least <= likeliest <= most:
            raise UsageError(f"engine batch sizes must be 1 <= minimum <= most likely <= maximum, got {self.batch}")
        # In one order, because an engine's folder is named after them.
        ordered = sorted(set(self.compute_capabilities), key=lambda each: (_numbers(each), each))
        object.__setattr__(self, "compute_capabilities", tuple(ordered))

    def arguments(self) -> list[str]:
        """Command-line options of ``export`` that give these, those at their default left out."""
        defaults, given = EngineOptions(), []
        if self.batch != defaults.batch:
            given += ["--trt-batch", *map(str, self.batch)]
        if self.workspace_mb is not None:
            given += ["--trt-workspace", str(self.workspace_mb)]
        if self.compatibility != defaults.compatibility:
            given += ["--trt-compatibility", self.compatibility]
        for capability in self.compute_capabilities:
            given += ["--trt-compute-capability", capability]
        if self.refit:
            given.append("--trt-refit")
        if self.plugins != defaults.plugins:
            given += ["--trt-plugins", self.plugins]
        if self.version_compatible:
            given.append("--trt-version-compatible")
        return given


class TensorInfo(TypedDict):
    """An input or output: its type by TensorRT's name, such as FLOAT; -1 for the number of images."""

    name: str
    dtype: str
    shape: list[int]


@dataclass(frozen=True)
class Record:
    """What ``engine.json`` says of the engine beside it.

    Attributes:
        graph, precision: what was built.
        flavour, flavour_version: the TensorRT that built it.
        platform: operating system and processor, such as linux_x86_64.
        gpu: name of the GPU it was built on; None without one.
        compute_capabilities: it runs on; ``portable`` for all from 8.0 on.
        cuda, driver: CUDA versions of TensorRT's libraries and of the driver, where known.
        onnx_sha256: of the graph it was built from.
        options: how.
        kernels: ``plugins`` where our kernels are in it, ``inlined`` where TensorRT compiled the functions' bodies,
            with the reason.
        inputs, outputs: name, dtype and shape of each.
        layers: how many TensorRT's parser made of the graph.
        precisions: layers by class and type, read back from ``precisions_of``.
        precisions_of: ``engine`` where it could be inspected, ``network`` where no GPU was there to open it.
        sha256, bytes: of the engine.
        build_seconds: parsing included.
    """

    graph: Graph
    precision: Precision
    flavour: TrtFlavour
    flavour_version: str
    platform: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    cuda: str | None
    driver: str | None
    onnx_sha256: str
    options: EngineOptions
    kernels: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    layers: int
    precisions: dict[str, dict[str, int]]
    precisions_of: Literal["engine", "network"]
    sha256: str
    bytes: int
    build_seconds: float
    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)

    @property
    def folder(self) -> str:
        """Where the engine lies in a bundle: one folder per graph, precision and target."""
        target = "-".join(
            f"sm{each.replace('.', '')}" if each != PORTABLE else each for each in self.compute_capabilities
        )
        return f"{ENGINES}/{self.graph}-{self.precision}-{self.flavour}-{self.flavour_version}-{target}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in ``engine.json``."""
        return asdict(self)


def this_platform() -> str:
    """Operating system and processor, as in :attr:`Record.platform`."""
    return f"{platform.system()}_{platform.machine()}".lower()


def read_record(path: Path) -> Record:
    """Read an ``engine.json``.

    Raises:
        BundleError: it is not one, or from a newer version.
    """
    try:
        found = _parse(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); build the engine again") from error
    if isinstance(found, str):
        raise BundleError(f"{path}: {found}; build the engine again")
    return found


def _parse(data: bytes) -> Record | str:
    """A sidecar's content, or in one line why it is none."""
    try:
        content = json.loads(data)
        version = content["schema_version"]
        if version > SCHEMA_VERSION:
            return f"schema version {version} is newer than this program's {SCHEMA_VERSION} (upgrade msformer-deploy)"
        return _typed({**content, "options": _typed(content["options"], EngineOptions)}, Record)
    except (ValueError, KeyError, TypeError, AttributeError, UsageError, RecursionError) as error:
        return f"not an engine's sidecar ({type(error).__name__}: {one_line(error)[:100]})"


Plain = TypeVar("Plain", EngineOptions, Record)


def _typed(data: dict[str, Any], kind: type[Plain]) -> Plain:
    """An instance from JSON; what is decided by it, or printed in a command, is of its declared type."""
    hints = get_type_hints(kind)
    values = {each.name: data[each.name] for each in fields(kind)}
    for name, value in values.items():
        if get_origin(hints[name]) is tuple:
            value = values[name] = tuple(value) if isinstance(value, list) else value
        if not _is(value, hints[name]):
            raise ValueError(f"{name} is {value!r}")
    return kind(**values)


def _is(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is UnionType:
        return any(_is(value, each) for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return len(value) == len(kinds) and all(map(_is, value, kinds))
    if is_typeddict(hint):
        keys = get_type_hints(hint)
        return (
            isinstance(value, dict)
            and value.keys() == keys.keys()
            and all(_is(value[each], keys[each]) for each in keys)
        )
    if origin is list:
        return isinstance(value, list) and all(_is(each, arguments[0]) for each in value)
    if hint is float:
        return type(value) in (int, float)
    return hint is Any or type(value) is (origin or hint)


def write_record(folder: Path, record: Record) -> None:
    """Write ``engine.json`` into the folder of an engine that is being made."""
    (folder / SIDECAR).write_text(json.dumps(record.as_dict(), indent=1) + "\n", encoding="utf-8")


def records(bundle: Bundle) -> dict[str, Record]:
    """Every engine whose sidecar is the one that the manifest lists, by its folder. The others are :func:`damaged`.

    What the manifest does not list is no part of the bundle. The engines' own bytes are for :func:`verified`.
    """
    return {folder: found for folder, found in _sidecars(bundle).items() if isinstance(found, Record)}


def damaged(bundle: Bundle) -> dict[str, str]:
    """Engines that the manifest lists and whose sidecar is lost, by their folder: why, in one line."""
    return {folder: found for folder, found in _sidecars(bundle).items() if isinstance(found, str)}


def _sidecars(bundle: Bundle) -> dict[str, Record | str]:
    """By the folder of every engine or sidecar that the manifest lists: the record, or why there is none."""
    files = sorted(map(PurePosixPath, bundle.manifest["files"]))
    folders = [str(each.parent) for each in files if each.parts[0] == ENGINES and each.name in (SIDECAR, ENGINE)]
    return {folder: _sidecar(bundle, f"{folder}/{SIDECAR}") for folder in folders}


def _sidecar(bundle: Bundle, name: str) -> Record | str:
    if name not in bundle.manifest["files"]:
        return f"{SIDECAR}: not listed in {MANIFEST}"
    try:
        data = bundle.file(name).read_bytes()
    except OSError as error:
        return f"{SIDECAR}: cannot be read ({error.strerror})"
    if hashlib.sha256(data).hexdigest() != bundle.manifest["files"][name].get("sha256"):
        return f"{SIDECAR}: its SHA-256 is not the manifest's"
    found = _parse(data)
    return f"{SIDECAR}: {found}" if isinstance(found, str) else found


def rebuild_command(bundle: Path, precision: Precision, flavour: TrtFlavour | None, options: EngineOptions) -> str:
    """The command that builds a bundle's engines of one precision on this machine and for it."""
    command = ["msformer-deploy", "export", "--output", str(bundle), "--update", "--tensorrt"]
    if flavour is not None:
        command += ["--trt-flavour", flavour]
    return shlex.join([*command, "--precision", precision, *options.arguments()])


class Engine(NamedTuple):
    """An engine that fits, in memory: what TensorRT opens are the very bytes that were checked."""

    path: Path
    record: Record
    data: bytes


def select(
    bundle: Bundle,
    graph: Graph,
    precision: Precision,
    versions: dict[TrtFlavour, str],
    gpu: Gpu,
    folder: str | None = None,
) -> Engine:
    """The engine of a graph that fits this machine, its bytes checked.

    Args:
        bundle: a verified bundle.
        graph, precision: what to run.
        versions: of the flavours of TensorRT at hand, the preferred one first; at least one.
        gpu: the device to run on.
        folder: of the only engine to consider; any by default.

    Raises:
        BackendUnavailable: there is none, or none that fits, with the command that builds it.
        BundleError: the engine's bytes are not those its sidecar vouches for, or none fits and a sidecar is lost.
    """
    candidates = {
        each: record
        for each, record in records(bundle).items()
        if (record.graph, record.precision) == (graph, precision) and folder in (None, each)
    }
    preferred: Sequence[TrtFlavour] = list(versions)
    reasons = []
    for each, record in sorted(candidates.items(), key=lambda item: _preference(item[1], preferred)):
        reason = mismatch(record, bundle, versions, gpu)
        if reason is None:
            return Engine(bundle.file(f"{each}/{ENGINE}"), record, verified(bundle, each, record))
        way_out = _way_out(bundle, precision, record.flavour, record.options, versions, gpu)
        reasons.append(f"{bundle.path}/{each}: {reason}; {way_out}")
    anew = _way_out(bundle, precision, preferred[0], EngineOptions(), versions, gpu)
    for each, reason in damaged(bundle).items():
        if each.startswith(f"{ENGINES}/{graph}-{precision}-") and folder in (None, each):
            raise BundleError(f"{bundle.path}/{each}: damaged, {reason}; {anew}")
    if not reasons:
        where = bundle.path if folder is None else bundle.file(folder)
        raise BackendUnavailable(f"{where}: has no TensorRT engine of the {precision} {graph}; {anew}")
    raise BackendUnavailable(reasons[0])


def _preference(record: Record, flavours: Sequence[TrtFlavour]) -> tuple[int, bool]:
    """The flavour decides, then whether the engine was built for certain GPUs."""
    order = flavours.index(record.flavour) if record.flavour in flavours else len(flavours)
    return order, PORTABLE in record.compute_capabilities


def _way_out(
    bundle: Bundle,
    precision: Precision,
    flavour: TrtFlavour,
    options: EngineOptions,
    versions: dict[TrtFlavour, str],
    gpu: Gpu,
) -> str:
    """What to do for an engine that runs here: by the flavour and options that were, as far as this machine can."""
    able = [each for each in versions if each != "rtx" or _rtx_supports(gpu)]
    if not able:
        return f"TensorRT-RTX cannot run it on {gpu.name} ({gpu.capability}) at all, install {EXTRAS['tensorrt']}"
    chosen = flavour if flavour in able else able[0]
    command = rebuild_command(bundle.path, precision, chosen, options_for(options, chosen, gpu))
    return f"build it here: {command}"


def options_for(options: EngineOptions, flavour: TrtFlavour, gpu: Gpu) -> EngineOptions:
    """These options, without those that a flavour does not have or with which the engine would not run on the GPU."""
    if flavour == "rtx":
        return replace(
            options,
            compatibility="none",
            compute_capabilities=options.compute_capabilities if gpu.capability in options.compute_capabilities else (),
            plugins="auto" if options.plugins == "always" else options.plugins,
            version_compatible=False,
        )
    compatibility: Compatibility = options.compatibility if _is_ampere(gpu) else "none"
    return replace(options, compatibility=compatibility, compute_capabilities=())


def _is_ampere(gpu: Gpu) -> bool:
    """Or newer."""
    return _numbers(gpu.capability) >= (8, 0)


def _rtx_supports(gpu: Gpu) -> bool:
    """GeForce and RTX from Ampere on: no Orin (8.7), no Hopper, no data centre Blackwell, no Thor."""
    number = _numbers(gpu.capability)
    return number >= (12, 0) or (number[0] == 8 and number != (8, 7))


def is_stale(record: Record, bundle: Bundle) -> bool:
    """Whether the graph that an engine was built from is another now."""
    listed = bundle.manifest["files"].get(graph_name(record.graph, record.precision), {})
    return bool(record.onnx_sha256 != listed.get("sha256"))


def mismatch(record: Record, bundle: Bundle, versions: dict[TrtFlavour, str], gpu: Gpu) -> str | None:
    """Why an engine does not fit the bundle or this machine; None when it does."""
    if is_stale(record, bundle):
        return f"is stale: it was built from another {graph_name(record.graph, record.precision)}"
    if record.flavour not in versions:
        return f"was built by {record.flavour} {record.flavour_version}, which is not installed here"
    version = versions[record.flavour]
    if not _version_fits(record, version):
        return f"was built by {record.flavour} {record.flavour_version}, this machine has {version}"
    if record.platform != this_platform():
        return f"was built for {record.platform}, this machine is {this_platform()}"
    return _gpu_mismatch(record, gpu)


def _version_fits(record: Record, version: str) -> bool:
    if record.options.version_compatible:
        built, here = _numbers(record.flavour_version)[:3], _numbers(version)[:3]
        return built[:1] == here[:1] and built <= here
    return record.flavour_version == version


def _gpu_mismatch(record: Record, gpu: Gpu) -> str | None:
    here = f"this GPU is {gpu.name} ({gpu.capability})"
    if PORTABLE in record.compute_capabilities:
        return None if _rtx_supports(gpu) else f"is for RTX GPUs of compute capability 8.0 and newer, {here}"
    if record.options.compatibility == "ampere-plus":
        return None if _is_ampere(gpu) else f"is for compute capability 8.0 and newer, {here}"
    if gpu.capability not in record.compute_capabilities:
        return f"was built for compute capability {', '.join(record.compute_capabilities)}, {here}"
    alone = record.flavour == "tensorrt" and record.options.compatibility == "none"
    return f"was built for {record.gpu} alone, {here}" if alone and record.gpu != gpu.name else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def verified(bundle: Bundle, folder: str, record: Record) -> bytes:
    """The engine beside a record, checked against it and against the manifest.

    Args:
        bundle: a verified bundle.
        folder, record: an entry of :func:`records`.

    Raises:
        BundleError: it cannot be read, or is not the one that was built.
    """
    name = f"{folder}/{ENGINE}"
    path = bundle.file(name)
    command = rebuild_command(bundle.path, record.precision, record.flavour, record.options)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); copy the bundle again, or: {command}") from error
    listed = bundle.manifest["files"].get(name, {}).get("sha256")
    if not hashlib.sha256(data).hexdigest() == listed == record.sha256:
        raise BundleError(
            f"{path}: damaged, its SHA-256 is not the one it was built with; copy the bundle again, or: {command}"
        )
    return data
