"""TensorRT engines of a bundle: whether one fits this machine, decided by its sidecar before it is opened.

An engine is executable code, and TensorRT runs it unchecked. So only an engine that the bundle's manifest lists, whose
bytes are those its sidecar vouches for, and that was built from this bundle's graph for this TensorRT and GPU is ever
handed to TensorRT; anything else is refused with the command that builds it again.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import BackendUnavailable, BundleError
from ..machine.driver import Gpu
from ..machine.trt_flavour import EXTRAS
from ..registry import Precision, TrtFlavour
from .folder import ENGINES, MANIFEST, Bundle, Graph, graph_name
from .sidecar import ENGINE, PORTABLE, SIDECAR, Compatibility, EngineOptions, Record, numbers, parse, this_platform


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
    found = parse(data)
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
    able = [each for each in versions if each != "rtx" or rtx_supports(gpu)]
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
    return numbers(gpu.capability) >= (8, 0)


def rtx_supports(gpu: Gpu) -> bool:
    """GeForce and RTX from Ampere on: no Orin (8.7), no Hopper, no data centre Blackwell, no Thor."""
    number = numbers(gpu.capability)
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
        built, here = numbers(record.flavour_version)[:3], numbers(version)[:3]
        return built[:1] == here[:1] and built <= here
    return record.flavour_version == version


def _gpu_mismatch(record: Record, gpu: Gpu) -> str | None:
    here = f"this GPU is {gpu.name} ({gpu.capability})"
    if PORTABLE in record.compute_capabilities:
        return None if rtx_supports(gpu) else f"is for RTX GPUs of compute capability 8.0 and newer, {here}"
    if record.options.compatibility == "ampere-plus":
        return None if _is_ampere(gpu) else f"is for compute capability 8.0 and newer, {here}"
    if gpu.capability not in record.compute_capabilities:
        return f"was built for compute capability {', '.join(record.compute_capabilities)}, {here}"
    alone = record.flavour == "tensorrt" and record.options.compatibility == "none"
    return f"was built for {record.gpu} alone, {here}" if alone and record.gpu != gpu.name else None


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
