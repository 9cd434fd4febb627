"""``msformer-deploy list``."""

from __future__ import annotations

import click

from ..registry import SYSTEMS
from . import options
from .options import Command, example
from .output import emit_json


@click.command(
    "list",
    cls=Command,
    params=[
        options.json_flag(),
    ],
    epilog=example(
        "msformer-deploy list",
    ),
)
def list_systems(as_json: bool) -> None:
    """List the systems, their variants and presets."""
    if as_json:
        emit_json([system.as_dict() for system in SYSTEMS.values()])
        return
    for system in SYSTEMS.values():
        click.echo(f"{system.name:<10} {system.regime}; input {system.side} x {system.side}, {system.input}")
        click.echo(f"{'':<10} {system.paper} ({system.code}, {system.licence})")
        if system.classes:
            click.echo(f"{'':<10} classes {', '.join(system.classes)}")
        if system.variants:
            click.echo(f"{'':<10} variants {', '.join(system.variants)}")
        click.echo(f"{'':<10} commands {', '.join(system.commands)}")
        for name, preset in system.presets.items():
            learning = preset.refinement
            sizes = "any size" if preset.side is None else f"side {preset.side}, blocks {preset.blocks}"
            how = "" if learning.mode == "none" else f", {learning.steps} steps, lr {learning.lr}"
            click.echo(f"{'':<10} preset {name}: {sizes}, {learning.mode}{how}")
