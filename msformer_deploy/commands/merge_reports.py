"""``msformer-deploy report merge``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import EXIT_SOME_FAILED, UsageError
from . import options
from .options import PATH, REQUIRED, Argument, Command, example, option, under
from .output import conclude, say


@click.group()
def report() -> None:
    """Work with the reports that run has written."""


@report.command(
    cls=Command,
    params=[
        *under(
            REQUIRED,
            Argument(
                ["folders"],
                nargs=-1,
                required=True,
                type=PATH,
                metavar="DIR...",
                help="Folders that run has written. The reports of all shards in a folder are taken.",
            ),
            option("--output", required=True, type=PATH, metavar="DIR", help="Folder for the merged report."),
        ),
        *under("Existing results", options.force("Replace a report that exists.")),
    ],
    epilog=example(
        "msformer-deploy report merge results --output results",
        "msformer-deploy report merge monday tuesday --output week",
    ),
)
@click.pass_context
def merge(context: click.Context, folders: tuple[Path, ...], output: Path, force: bool) -> None:
    """Join the reports of several runs, or of the shards of one run.

    Writes report.json, measurements.csv and index.html, a gallery that opens offline. The results of the images stay
    where they are. Reports of shards that are missing, unfinished or of other settings are refused.
    """
    from ..errors import printable
    from ..results import merge as merging
    from ..results.report import GALLERY, REPORT

    parts = merging.read_parts(folders)
    merged = next((part for part in parts if part.file == output / REPORT), None)
    if merged is not None:
        raise UsageError(f"{merged.name}: would be replaced by a report that it is part of; choose another --output")
    for path in (output / name for name in merging.WHOLE):
        if os.path.lexists(path) and not force:
            raise UsageError(f"{printable(path)}: exists already; pass --force to replace it")
    content = merging.merge(parts, output)
    for what in ("backend", "provider"):
        if len({part.report[what] for part in parts}) > 1:
            say(f"not all images were segmented by the same {what}: {content[what]}")
    counts = content["summary"]
    conclude(
        f"{len(parts)} reports merged: {counts['images']} images, {counts['done']} segmented"
        + (f", {counts['skipped']} skipped" if counts["skipped"] else "")
        + (f", {counts['failed']} failed" if counts["failed"] else "")
        + (", of a run that was stopped" if content["interrupted"] else "")
        + f"; look at {printable(output / GALLERY)}"
    )
    if counts["failed"]:
        context.exit(EXIT_SOME_FAILED)
