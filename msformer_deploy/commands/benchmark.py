"""``msformer-deploy benchmark``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import EXIT_SOME_FAILED, BackendUnavailable, DeployError, UsageError, ValidationMismatch
from ..registry import BACKENDS, MODES, PRECISIONS, PRESETS, Mode, Precision
from .bundles import SYSTEM, open_bundle
from .output import PATH, THREADS, complain, say, say_passed_over
from .reports import check_files, write_files

if TYPE_CHECKING:
    from ..benchmark.images import Images
    from ..bundle.folder import Bundle
    from ..images.inputs import PassedOver

POSITIVE = click.FloatRange(0, min_open=True)


@click.command()
@click.argument("bundles", nargs=-1, type=PATH, metavar="[BUNDLE]...")
@click.option("--images", multiple=True, type=PATH, help="Images or folders of them; by default three samples.")
@click.option("--masks", type=PATH, help="Folder of ground truth, by the images' names.")
@click.option("--backend", "backends", multiple=True, help=f"{', '.join(BACKENDS)}; by default all that are installed.")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="By default the bundle's own."
)
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), help="Images for one call; by default 1.")
@click.option("--refine", "modes", multiple=True, type=click.Choice(MODES), help="By default the bundle's own.")
@click.option("--system", type=SYSTEM, help="Whose default bundle to make where none is named; msformer by default.")
@click.option("--preset", "presets", multiple=True, type=click.Choice(PRESETS), help="Named way to run.")
@click.option("--whole-graph", is_flag=True, help="Also measure the whole method as one ONNX graph.")
@click.option("--compile", is_flag=True, help="Also measure mode full through torch.compile.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=THREADS, help="Threads for one operator; each runtime decides by default.")
@click.option("--baseline", help="BACKEND or BACKEND:PRECISION; by default the first row that runs.")
@click.option("--min-seconds", default=5.0, show_default=True, type=POSITIVE, help="Least time of each row's samples.")
@click.option(
    "--min-iterations", type=click.IntRange(1), help="Least calls of each row; by default 10, and 1 of mode full."
)
@click.option(
    "--warmup-seconds", default=2.0, show_default=True, type=click.FloatRange(0), help="Least time of calls before."
)
@click.option(
    "--concurrency", multiple=True, type=click.IntRange(1, 1024), help="Also measure so many threads sharing each row."
)
@click.option("--duration", default=10.0, show_default=True, type=POSITIVE, help="Seconds for each --concurrency.")
@click.option("--json", "json_file", type=PATH, help="File for the whole report.")
@click.option("--csv", "csv_file", type=PATH, help="File for the table, one line a row.")
@click.option("--raw", "raw_file", type=PATH, help="File for every sample, CSV.")
@click.option("--markdown", "markdown_file", type=PATH, help="File for the table, for a README.")
@click.option("--picture", "picture_file", type=PATH, help="File for latency and stages, .png or .svg.")
@click.option("--max-p95-ms", type=POSITIVE, help="Exit with 3 if a row is slower.")
@click.option("--min-speedup", type=POSITIVE, help="Exit with 3 if a row's speed-up is smaller.")
@click.option("--min-dice", type=click.FloatRange(0, 1), help="Exit with 3 if a row's DSC is smaller.")
@click.option("--compare", nargs=2, type=PATH, metavar="A B", help="Measure nothing; compare two files of --json.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def benchmark(
    context: click.Context,
    bundles: tuple[Path, ...],
    images: tuple[Path, ...],
    masks: Path | None,
    backends: tuple[str, ...],
    precisions: tuple[Precision, ...],
    batches: tuple[int, ...],
    modes: tuple[Mode, ...],
    system: str | None,
    presets: tuple[str, ...],
    whole_graph: bool,
    compile: bool,
    device: str,
    threads: int | None,
    baseline: str | None,
    min_seconds: float,
    min_iterations: int | None,
    warmup_seconds: float,
    concurrency: tuple[int, ...],
    duration: float,
    json_file: Path | None,
    csv_file: Path | None,
    raw_file: Path | None,
    markdown_file: Path | None,
    picture_file: Path | None,
    max_p95_ms: float | None,
    min_speedup: float | None,
    min_dice: float | None,
    compare: tuple[Path, Path] | None,
    force: bool,
    quiet: bool,
) -> None:
    """Measure backends, precisions, batches and refinements, end to end: from image files to the files of results."""
    if compare is not None:
        _compare(context, *compare)
        return
    files = {
        "json": json_file,
        "csv": csv_file,
        "raw": raw_file,
        "markdown": markdown_file,
        "picture": picture_file,
    }
    check_files([path for path in files.values() if path is not None], force)
    if picture_file is not None:
        from ..benchmark import picture

        if picture_file.suffix.lower() not in picture.FORMATS:
            raise UsageError(f"{picture_file}: pictures are {' or '.join(picture.FORMATS)}; choose another --picture")
        picture.require()
    from ..backends.base import parse_device
    from ..benchmark import plan
    from ..images.inputs import PassedOver

    request = plan.Request(backends, precisions, batches, modes, presets, whole_graph, baseline, compile)
    plan.check(request)  # a slip in an option is told before anything is made
    parse_device(device)
    passed_over = PassedOver()
    chosen = _images(images, masks, passed_over)
    rows = plan.rows(_bundles(bundles, system, presets, quiet), request)
    rows, beside = plan.with_baseline(rows, request)
    from ..benchmark import conductor, gates, table

    options = conductor.Options(
        min_seconds, min_iterations, warmup_seconds, device, threads, tuple(dict.fromkeys(concurrency)), duration
    )
    report = conductor.conduct(rows, beside, chosen, options, (lambda line: None) if quiet else say)
    _require_some(report)
    report["passed_over"] = passed_over.counts
    try:
        click.echo(table.terminal(report, shutil.get_terminal_size((120, 24)).columns), nl=False)
    finally:  # minutes of work are not lost to an output that is full
        _write(files, report)
    breaches = gates.breaches(report, max_p95_ms, min_speedup, min_dice)
    for breach in breaches:
        complain(breach)
    if breaches:
        context.exit(ValidationMismatch.exit_code)
    if any(row["status"] == "failed" for row in report["rows"]):
        context.exit(EXIT_SOME_FAILED)


def _compare(context: click.Context, before: Path, after: Path) -> None:
    """Print how two reports differ; other options would have no effect."""
    from click.core import ParameterSource

    from ..benchmark import compare

    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in ("compare", "quiet"):
            raise UsageError(f"--compare measures nothing; drop {parameter.opts[0]}")
    reports = compare.load(before), compare.load(after)
    click.echo(compare.text(compare.compare(*reports), compare.remarks(*reports)), nl=False)


def _images(paths: tuple[Path, ...], masks: Path | None, passed_over: PassedOver) -> Images:
    """The images to measure on, all of them read once."""
    from ..benchmark.images import choose_images
    from ..images.inputs import discover
    from ..images.pairing import pair, without_masks
    from ..images.samples import sample_images

    items = discover(paths or sample_images(), passed_over=passed_over)
    pairs = {} if masks is None else pair(items, masks, passed_over).pairs
    say_passed_over(passed_over)
    return choose_images([item.path for item in without_masks(items, say)] if masks is None else [*pairs], pairs)


def _bundles(paths: tuple[Path, ...], system: str | None, presets: tuple[str, ...], quiet: bool) -> list[Bundle]:
    """The bundles named; without any those of the presets, or the default one."""
    if paths:
        return [open_bundle(path, None, quiet, system=system) for path in dict.fromkeys(paths)]
    found = [open_bundle(None, preset, quiet, system=system) for preset in presets or (None,)]
    return list({bundle.path: bundle for bundle in found}.values())


def _require_some(report: dict[str, Any]) -> None:
    """Raise in one line what kept every row from running, if none did.

    Raises:
        BackendUnavailable: only what this machine lacks did.
        DeployError: something else did.
    """
    if any(row["status"] == "ok" for row in report["rows"]):
        return
    reasons = [f"{row['name']}: {row['reason']}" for row in report["rows"]]
    left_out = [line for line in report["warnings"] if " is left out: " in line]
    lacking = all(row["exit_code"] == BackendUnavailable.exit_code for row in report["rows"])
    raise (BackendUnavailable if lacking else DeployError)(" | ".join([*reasons, *left_out]))


def _write(files: dict[str, Path | None], report: dict[str, Any]) -> None:
    from ..benchmark import picture, table
    from ..files import write_text

    writers = {
        "json": lambda path: write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n"),
        "csv": lambda path: write_text(path, table.csv_text(report)),
        "raw": lambda path: write_text(path, table.raw_csv(report)),
        "markdown": lambda path: write_text(path, table.markdown(report)),
        "picture": lambda path: picture.write(report, path),
    }
    write_files({path: writers[kind] for kind, path in files.items() if path is not None})
