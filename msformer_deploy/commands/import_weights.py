"""``msformer-deploy import-weights``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from .output import PATH, conclude
from .reports import check_files

if TYPE_CHECKING:
    from ..weights.checkpoint_import import Source

SUFFIX = ".safetensors"


@click.command("import-weights")
@click.argument("source", type=PATH)
@click.option(
    "--system",
    required=True,
    type=click.Choice(["msnet", "m2snet", "res2net"]),
    help="Whose weights they are; res2net is the backbone of the other two, trained on ImageNet.",
)
@click.option("--output", required=True, type=PATH, help="File to write, .safetensors.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def import_weights(source: Path, system: Source, output: Path, force: bool) -> None:
    """Turn published weights (.pth, .safetensors) into a checked .safetensors file; code in them is never run."""
    from ..bundle.folder import sha256
    from ..errors import printable
    from ..weights import checkpoint_import

    if output.suffix != SUFFIX:
        raise UsageError(f"{printable(output)}: weights go into a {SUFFIX} file; change --output")
    check_files([output], force)
    weights = checkpoint_import.import_weights(source, system)
    metadata = {"system": system, "source": source.name, "source_sha256": sha256(source)}
    checkpoint_import.write_weights(output, weights, metadata)
    count = sum(tensor.numel() for tensor in weights.values())
    conclude(f"{printable(output)}: {system}, {len(weights)} tensors, {count:,} numbers")
