"""``msformer-deploy inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from .output import PATH, emit_json


@click.command()
@click.argument("path", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def inspect(path: Path, as_json: bool) -> None:
    """Describe a bundle or an ONNX file without running it; a bundle is verified first."""
    from ..graph_info import describe_file
    from ..inputs import printable

    if path.is_dir():
        from ..bundle import load_bundle

        bundle = load_bundle(path)
        if as_json:
            emit_json({"kind": "bundle", "path": str(path), **bundle.manifest})
            return
        manifest = bundle.manifest
        sizes, refinement = manifest["model"], manifest["refinement"]
        click.echo(f"{printable(path)}: {bundle.system} bundle, schema {manifest['schema_version']}, verified")
        click.echo(
            f"  input       {sizes['side']} x {sizes['side']} {manifest.get('preprocessing', {}).get('channels', '')}"
        )
        click.echo(
            f"  network     width {sizes['width']}, {sizes['clusters']} clusters, {sizes['blocks']} blocks a branch"
        )
        click.echo(f"  seed        {bundle.seed}")
        click.echo("  refinement  " + ", ".join(f"{key} {value}" for key, value in refinement.items()))
        for name, entry in manifest["files"].items():
            click.echo(f"  {name:<20} {entry['bytes'] / 1e6:8.2f} MB  sha256 {entry['sha256'][:16]}")
        for name in ("encoder.onnx", "segmenter.onnx"):
            for output, errors in manifest.get("validation", {}).get(name, {}).items():
                click.echo(f"  {name} {output}: " + ", ".join(f"{key} {value:.3g}" for key, value in errors.items()))
        return
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
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


def _signature(tensor: dict[str, Any]) -> str:
    return f"{tensor['name']}: {tensor['dtype']} ({', '.join(str(dim) for dim in tensor['shape'])})"
