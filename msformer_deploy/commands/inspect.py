"""``msformer-deploy inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bundle import ENGINES
from ..errors import BundleError, UsageError
from .output import PATH, emit_json, judged, proved

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..engines import Record


@click.command()
@click.argument("path", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def inspect(path: Path, as_json: bool) -> None:
    """Describe a bundle, an ONNX file or an engine's engine.json without running it; a bundle is verified first."""
    from ..engines import SIDECAR

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
    from ..bundle import load_bundle
    from ..engines import records
    from ..inputs import printable

    bundle = load_bundle(path)
    engines = records(bundle)
    if as_json:
        sidecars = {folder: record.as_dict() for folder, record in engines.items()}
        emit_json({"kind": "bundle", "path": str(path), **bundle.manifest, "sidecars": sidecars})
        return
    manifest = bundle.manifest
    sizes, refinement = manifest["model"], manifest["refinement"]
    channels = manifest.get("preprocessing", {}).get("channels", "")
    click.echo(f"{printable(path)}: {bundle.system} bundle, schema {manifest['schema_version']}, verified")
    click.echo(f"  input       {sizes['side']} x {sizes['side']} {channels}")
    click.echo(f"  network     width {sizes['width']}, {sizes['clusters']} clusters, {sizes['blocks']} blocks a branch")
    click.echo(f"  seed        {bundle.seed}")
    click.echo("  refinement  " + ", ".join(f"{key} {value}" for key, value in refinement.items()))
    click.echo(f"  precision   {bundle.precision} by default, of {', '.join(bundle.precisions)}")
    for name, entry in manifest["files"].items():
        if not name.startswith(f"{ENGINES}/"):
            click.echo(f"  {name:<20} {entry['bytes'] / 1e6:8.2f} MB  sha256 {entry['sha256'][:16]}")
    for name in ("encoder.onnx", "segmenter.onnx"):
        for output, errors in manifest.get("validation", {}).get(name, {}).items():
            click.echo(f"  {name} {output}: " + ", ".join(f"{key} {value:.3g}" for key, value in errors.items()))
    for precision, judgement in manifest.get("precisions", {}).items():
        click.echo(f"  {precision} beside fp32: {judged(judgement)}")
    for folder, record in engines.items():
        proof = proved(manifest.get("engines", {}).get(folder))
        click.echo(f"  {folder}: {_fault(bundle, folder, record) or f'{record.bytes / 1e6:.2f} MB, {proof}'}")


def _fault(bundle: Bundle, folder: str, record: Record) -> str | None:
    """Why an engine of a bundle can run nowhere, if that is so."""
    from ..engines import is_stale, verified

    if is_stale(record, bundle):
        return "stale, rebuild it: it was made from another graph"
    try:
        verified(bundle, folder, record)
    except BundleError:
        return "damaged, rebuild it: it is not what was built"
    return None


def _engine(path: Path, as_json: bool) -> None:
    from ..engines import PORTABLE, read_record
    from ..inputs import printable

    record = read_record(path)
    if as_json:
        emit_json({"kind": "engine", "path": str(path), **record.as_dict()})
        return
    click.echo(f"{printable(path)}: {record.precision} {record.graph} of {record.flavour} {record.flavour_version}")
    click.echo(f"  built     on {record.gpu or 'no GPU'}, {record.platform}, CUDA {record.cuda or 'unknown'},")
    click.echo(f"            in {record.build_seconds:.1f} s, {record.bytes / 1e6:.2f} MB, sha256 {record.sha256[:16]}")
    click.echo(f"  from      ONNX sha256 {record.onnx_sha256[:16]}")
    everywhere = PORTABLE in record.compute_capabilities
    targets = "8.0 and newer, RTX" if everywhere else ", ".join(record.compute_capabilities)
    least, likeliest, most = record.options.batch
    click.echo(f"  runs on   compute capability {targets}")
    click.echo(f"  batch     {least}" + ("" if least == most else f" to {most}, best {likeliest}"))
    click.echo(f"  kernels   {record.kernels}")
    for kind, tensors in (("input", record.inputs), ("output", record.outputs)):
        for tensor in tensors:
            click.echo(f"  {kind:<9} {_signature(tensor)}")
    click.echo(f"  layers    {record.layers}; types as read back from the {record.precisions_of}:")
    for layer, types in record.precisions.items():
        click.echo(f"            {layer}: " + ", ".join(f"{name} x{count}" for name, count in types.items()))


def _graph(path: Path, as_json: bool) -> None:
    from ..graph_info import describe_file
    from ..inputs import printable

    info = describe_file(path)
    if as_json:
        emit_json({"kind": "onnx", "path": str(path), **info})
        return
    click.echo(f"{printable(path)}: ONNX graph, {info['nodes']} nodes, {info['initializers']} initializers")
    for kind in ("inputs", "outputs"):
        for tensor in info[kind]:
            click.echo(f"  {kind[:-1]:<8} {_signature(tensor)}")
    click.echo("  opsets   " + ", ".join(f"{domain} {version}" for domain, version in info["opsets"].items()))
    click.echo("  functions " + (", ".join(info["functions"]) or "none"))
    click.echo("  operators " + ", ".join(f"{name} x{count}" for name, count in info["operators"].items()))


def _signature(tensor: Mapping[str, Any]) -> str:
    return f"{tensor['name']}: {tensor['dtype'].lower()} ({', '.join(str(dim) for dim in tensor['shape'])})"
