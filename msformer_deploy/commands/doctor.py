"""``msformer-deploy doctor``."""

from __future__ import annotations

import click

from .output import emit_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(as_json: bool) -> None:
    """What this machine can run: a real session is opened with every provider, and what fails says why."""
    from ..diagnosis import diagnose

    diagnosis = diagnose()
    if as_json:
        emit_json(diagnosis)
        return
    machine = diagnosis["machine"]
    click.echo(f"{machine['system']}, {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}")
    for check in diagnosis["checks"]:
        mark = "works" if check["works"] else "no"
        click.echo(f"  {check['name']:<40} {mark:<6} {check['detail']}")
        if check["advice"]:
            click.echo(f"  {'':<40} {'':<6} {check['advice']}")
