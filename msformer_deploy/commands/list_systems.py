"""``msformer-deploy list``."""

from __future__ import annotations

import click

from ..registry import SYSTEMS
from .output import emit_json


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def list_systems(as_json: bool) -> None:
    """Systems, their state and their presets."""
    if as_json:
        emit_json([system.as_dict() for system in SYSTEMS.values()])
        return
    for system in SYSTEMS.values():
        click.echo(
            f"{system.name:<10} {system.state:<8} {system.side} x {system.side} {system.channels:<5} {system.regime}"
        )
        click.echo(f"{'':<10} {system.paper} ({system.code}, {system.licence})")
        for name, preset in system.presets.items():
            learning = preset.refinement
            sizes = "any size" if preset.side is None else f"side {preset.side}, blocks {preset.blocks}"
            click.echo(f"{'':<10} preset {name}: {sizes}, {learning.mode}, {learning.steps} steps, lr {learning.lr}")
