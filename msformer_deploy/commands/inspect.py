"""``msformer-deploy inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bundle.folder import ENGINES
from ..errors import BundleError, UsageError
from ..registry import find_system
from . import options
from .options import PATH, REQUIRED, Argument, Command, example, under
from .output import emit_json, judged, proved

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..bundle.sidecar import Record


@click.command(
    cls=Command,
    params=[
        *under(
            REQUIRED, Argument(["path"], type=PATH, help="Bundle, ONNX file, or an engine's folder or engine.json.")
        ),
        options.json_flag(),
    ],
    epilog=example(
        "msformer-deploy inspect bundle",
    ),
)
def inspect(path: Path, as_json: bool) -> None:
    """Describe a bundle, an ONNX file or an engine.

    Nothing is executed. A bundle is verified first: every file must have the size and the hash that bundle.json lists.
    """
    from ..bundle.sidecar import SIDECAR

    if path.is_dir() and (path / SIDECAR).is_file():
        path = path / SIDECAR
    if path.is_dir():
        _bundle(path, as_json)
    elif not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    elif path.name == SIDECAR:
        _engine(path, as_json)
    else:
        _graph(path, as_json)


def _bundle(path: Path, as_json: bool) -> None:
    from ..bundle.engines import damaged, records
    from ..bundle.folder import LEARNED_HEAD, load_bundle

    bundle = load_bundle(path)
    head = None
    if LEARNED_HEAD in bundle.manifest["files"]:
        from ..refinement import head_file

        head = head_file.of_bundle(bundle)
    engines = records(bundle)
    faults = {folder: fault for folder, record in engines.items() if (fault := _fault(bundle, folder, record))}
    faults |= {folder: f"damaged, rebuild it: {reason}" for folder, reason in damaged(bundle).items()}
    if as_json:
        sidecars = {folder: record.as_dict() for folder, record in engines.items()}
        like = None if head is None else {"source": head.source, "images": head.images, "weight": head.part}
        told = {"sidecars": sidecars, "faults": faults, "like": like}
        emit_json({"kind": "bundle", "path": str(path), **bundle.manifest, **told})
        return
    manifest = bundle.manifest
    sizes, refinement = manifest["model"], manifest["refinement"]
    channels = manifest.get("preprocessing", {}).get("channels", "")
    _tell(f"{path}: {bundle.system} bundle, schema {manifest['schema_version']}, verified")
    _tell(f"  input       {sizes['side']} x {sizes['side']} {channels}")
    variant = f", variant {sizes['variant']}" if sizes.get("variant") else ""
    if find_system(bundle.system).trained:
        _tell(f"  network     width {sizes['width']}, {sizes['clusters']} classes{variant}")
        for name, said in manifest.get("training", {}).get("weights", {}).items():
            _tell(f"  weights     {name}, sha256 {said['sha256'][:16]}")
    else:
        blocks = f"{sizes['blocks']} blocks a branch"
        _tell(f"  network     width {sizes['width']}, {sizes['clusters']} clusters, {blocks}{variant}")
        _tell(f"  seed        {bundle.seed}")
        _tell("  refinement  " + ", ".join(f"{key} {value}" for key, value in refinement.items()))
    _tell(f"  precision   {bundle.precision} by default, of {', '.join(bundle.precisions)}")
    if head is not None:
        images = f"{head.images} corrected {'image' if head.images == 1 else 'images'}"
        _tell(f"  like        {images} (weight of what they taught: {head.part:g})")
    for name, entry in manifest["files"].items():
        if not name.startswith(f"{ENGINES}/"):
            _tell(f"  {name:<20} {entry['bytes'] / 1e6:8.2f} MB  sha256 {entry['sha256'][:16]}")
    for name in ("encoder.onnx", "segmenter.onnx"):
        for output, errors in manifest.get("validation", {}).get(name, {}).items():
            _tell(f"  {name} {output}: " + ", ".join(f"{key} {value:.3g}" for key, value in errors.items()))
    for precision, judgement in manifest.get("precisions", {}).items():
        _tell(f"  {precision} beside fp32: {judged(judgement)}")
    for folder, record in engines.items():
        if folder not in faults:
            proof = proved(manifest.get("engines", {}).get(folder, {}))
            _tell(f"  {folder}: {record.bytes / 1e6:.2f} MB, {proof}")
    for folder, fault in faults.items():
        _tell(f"  {folder}: {fault}")


def _fault(bundle: Bundle, folder: str, record: Record) -> str | None:
    """Why an engine of a bundle can run nowhere, if that is so."""
    from ..bundle.engines import is_stale, verified

    if is_stale(record, bundle):
        return "stale, rebuild it: it was made from another graph"
    try:
        verified(bundle, folder, record)
    except BundleError:
        return "damaged, rebuild it: it is missing or not what was built"
    return None


def _engine_fault(sidecar: Path, record: Record) -> str | None:
    """Why the engine beside a sidecar is not the one it tells of, if that is so."""
    from ..bundle.folder import sha256
    from ..bundle.sidecar import ENGINE

    try:
        found = sha256(sidecar.with_name(ENGINE))
    except OSError as error:
        return f"{ENGINE} is missing or cannot be read ({error.strerror}), rebuild it"
    return None if found == record.sha256 else f"{ENGINE} is damaged, rebuild it: it is not what was built"


def _engine(path: Path, as_json: bool) -> None:
    from ..bundle.sidecar import PORTABLE, read_record

    record = read_record(path)
    fault = _engine_fault(path, record)
    if as_json:
        emit_json({"kind": "engine", "path": str(path), **record.as_dict(), "fault": fault})
        return
    _tell(f"{path}: {record.precision} {record.graph} of {record.flavour} {record.flavour_version}")
    _tell(f"  built     on {record.gpu or 'no GPU'}, {record.platform}, CUDA {record.cuda or 'unknown'},")
    _tell(f"            in {record.build_seconds:.1f} s, {record.bytes / 1e6:.2f} MB, sha256 {record.sha256[:16]}")
    _tell(f"  engine    {fault or 'model.engine is what was built'}")
    _tell(f"  from      ONNX sha256 {record.onnx_sha256[:16]}")
    everywhere = PORTABLE in record.compute_capabilities
    targets = "8.0 and newer, RTX" if everywhere else ", ".join(record.compute_capabilities)
    least, likeliest, most = record.options.batch
    _tell(f"  runs on   compute capability {targets}")
    _tell(f"  batch     {least}" + ("" if least == most else f" to {most}, best {likeliest}"))
    _tell(f"  kernels   {record.kernels}")
    for kind, tensors in (("input", record.inputs), ("output", record.outputs)):
        for tensor in tensors:
            _tell(f"  {kind:<9} {_signature(tensor)}")
    _tell(f"  layers    {record.layers}; types as read back from the {record.precisions_of}:")
    for layer, types in record.precisions.items():
        _tell(f"            {layer}: " + ", ".join(f"{name} x{count}" for name, count in types.items()))


def _graph(path: Path, as_json: bool) -> None:
    from ..bundle.graph_info import describe_file

    info = describe_file(path)
    if as_json:
        emit_json({"kind": "onnx", "path": str(path), **info})
        return
    _tell(f"{path}: ONNX graph, {info['nodes']} nodes, {info['initializers']} initializers")
    for kind in ("inputs", "outputs"):
        for tensor in info[kind]:
            _tell(f"  {kind[:-1]:<8} {_signature(tensor)}")
    _tell("  opsets   " + ", ".join(f"{domain} {version}" for domain, version in info["opsets"].items()))
    _tell("  functions " + (", ".join(info["functions"]) or "none"))
    _tell("  operators " + ", ".join(f"{name} x{count}" for name, count in info["operators"].items()))


def _tell(line: str) -> None:
    """Print one line: names in a file that another made may hold line breaks and terminal codes."""
    from ..errors import printable

    click.echo(printable(line))


def _signature(tensor: Mapping[str, Any]) -> str:
    return f"{tensor['name']}: {tensor['dtype'].lower()} ({', '.join(str(dim) for dim in tensor['shape'])})"
