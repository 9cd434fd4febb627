"""What commands share: types of options, and how they speak: JSON for scripts, a line for people, errors on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is told by what reads it
SEED = click.IntRange(0, 2**63 - 1)  # torch takes no larger one
THREADS = click.IntRange(1, 1024)  # more than any machine has, and within the runtimes' integers


def emit_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    click.echo(json.dumps(data, indent=1))


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    click.echo(line, err=True)


def complain(message: str) -> None:
    """Print an error as one line on stderr, whatever line breaks it carries."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
