"""The commands of the program by what a user types, for tests of help and documents."""

from __future__ import annotations

import click

from msformer_deploy.cli import cli


def every_command(group: click.Group = cli, before: str = "") -> dict[str, click.Command]:
    """All commands, those of groups as ``report merge``."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= every_command(command, f"{before}{name} ")
        else:
            found[before + name] = command
    return found
