"""How commands speak: JSON for scripts, a line for people, errors on stderr."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import click

from .streams import OutputLost

if TYPE_CHECKING:
    from ..images.inputs import PassedOver


def emit_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    click.echo(json.dumps(data, indent=1))


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    click.echo(line, err=True)


def say_passed_over(files: PassedOver) -> None:
    """Print which kinds of files in folders were not taken, if there are any."""
    line = files.line()
    if line is not None:
        say(line)


def conclude(line: str) -> None:
    """Print, on stdout, what a command made whose product are files: they are there, whether stdout takes it or not."""
    with contextlib.suppress(OutputLost, BrokenPipeError):
        click.echo(line)


def complain(message: str) -> None:
    """Print an error as one line on stderr, whatever line breaks it carries."""
    click.echo(f"error: {' '.join(message.split())}", err=True)


def judged(record: dict[str, Any]) -> str:
    """What a judgement of :func:`.export.judge.judge` says, in short."""
    if "dsc" not in record:
        return "not judged"
    loss = record["dsc"]["loss"]
    change = "unknown" if loss is None else f"{round(-loss, 4) + 0.0:+.4f}"  # without a minus before zero
    same = set(record.get("calibration", [])) & set(record.get("judged_on", []))
    return (
        f"features within {record['features']:.1e}, labels agree on {record['agreement']['matched']['mean']:.2%},"
        f" DSC {change} on {record['images']} images"
        + (", which also calibrated it" if same else "")
        + ("" if record["accepted"] else "; kept by --accept-loss")
    )


def proved(record: dict[str, Any]) -> str:
    """The same of an engine, which may have been built without being run."""
    return f"built, not run: {record['not_run']}" if "not_run" in record else judged(record)
