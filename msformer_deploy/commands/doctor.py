"""``msformer-deploy doctor``."""

from __future__ import annotations

import textwrap

import click

from . import options
from .options import Command, example
from .output import emit_json

_WIDTH = 100


@click.command(
    cls=Command,
    params=[
        options.json_flag(),
    ],
    epilog=example(
        "msformer-deploy doctor",
    ),
)
def doctor(as_json: bool) -> None:
    """Show what this machine can run.

    Each runtime does a small computation. If one fails, doctor shows the reason and what to install.
    """
    from ..doctor.diagnosis import diagnose

    diagnosis = diagnose()
    if as_json:
        emit_json(diagnosis)
        return
    machine = diagnosis["machine"]
    quota = "" if machine["cpu_quota"] is None else f" (CPU quota of {machine['cpu_quota']:g} cores)"
    click.echo(f"{machine['system']}, {machine['cpu']}, {machine['cores']} cores{quota}, Python {machine['python']}")
    for check in diagnosis["checks"]:
        click.echo(_wrapped(f"{'works' if check['works'] else 'no':<7}", f"{check['name']}: {check['detail']}"))
        if check["advice"]:
            click.echo(_wrapped(" " * 7, f"-> {check['advice']}"))


def _wrapped(mark: str, text: str) -> str:
    return textwrap.fill(
        text,
        width=_WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * (len(mark) + 3),
        break_long_words=False,
        break_on_hyphens=False,
    )
