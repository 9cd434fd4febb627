"""``msformer-deploy import-weights``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import options
from .options import PATH, REQUIRED, Argument, Command, example, option, under
from .output import conclude
from .reports import check_files

if TYPE_CHECKING:
    from ..weights.checkpoint_import import Source

SUFFIX = ".safetensors"


@click.command(
    "import-weights",
    cls=Command,
    params=[
        *under(
            REQUIRED,
            Argument(["source"], type=PATH, help="File of published weights, .pth or .safetensors."),
            option(
                "--system",
                required=True,
                type=click.Choice(["msnet", "m2snet", "res2net"]),
                help="System of the weights; res2net is the backbone of the other two, trained on ImageNet.",
            ),
            option("--output", required=True, type=PATH, metavar="FILE", help="File to write, .safetensors."),
        ),
        options.force("Replace the file if it exists."),
    ],
    epilog=example(
        "msformer-deploy import-weights m2snet.pth --system m2snet \\",
        "    --output m2snet.safetensors",
    ),
)
def import_weights(source: Path, system: Source, output: Path, force: bool) -> None:
    """Convert published weights to a checked .safetensors file.

    Code in the published file is never run.
    """
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
