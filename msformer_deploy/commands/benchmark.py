"""``msformer-deploy benchmark``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import EXIT_SOME_FAILED, BackendUnavailable, DeployError, UsageError, ValidationMismatch
from ..registry import BACKENDS, MODES, PRECISIONS, PRESETS, Mode, Precision
from . import options
from .bundles import open_bundle
from .options import PATH, Argument, Command, example, option, under
from .output import complain, say, say_passed_over
from .reports import check_files, write_files

if TYPE_CHECKING:
    from ..benchmark.images import Images
    from ..bundle.folder import Bundle
    from ..images.inputs import PassedOver

POSITIVE = click.FloatRange(0, min_open=True)


@click.command(
    cls=Command,
    params=[
        *under(
            "Input",
            Argument(
                ["bundles"],
                nargs=-1,
                type=PATH,
                metavar="[BUNDLE]...",
                help="Bundles to measure. Default: that of the system and the preset, made on first use"
                " if torch is installed.",
            ),
            options.system(without="BUNDLE"),
            option(
                "--images",
                multiple=True,
                type=PATH,
                metavar="PATH",
                help="Images or folders of images.",
                unset="three sample images",
            ),
            option("--masks", type=PATH, metavar="DIR", help="Folder of ground-truth masks, matched by name."),
        ),
        *under(
            "What is measured (every combination is a row)",
            option(
                "--backend",
                "backends",
                multiple=True,
                metavar="NAME",
                help=f"Backend: {', '.join(BACKENDS)}.",
                unset="all that are installed",
            ),
            option(
                "--precision",
                "precisions",
                multiple=True,
                type=click.Choice(PRECISIONS),
                help="Encoder precision.",
                unset="the bundle's",
            ),
            option(
                "--batch",
                "batches",
                multiple=True,
                type=click.IntRange(1),
                metavar="N",
                help="Number of images per call.",
                unset="1",
            ),
            option(
                "--refine",
                "modes",
                multiple=True,
                type=click.Choice(MODES),
                help="What learns on each image.",
                unset="the preset's",
            ),
            option(
                "--preset",
                "presets",
                multiple=True,
                type=click.Choice(PRESETS),
                help="Named sizes and refinement settings.",
                unset="the bundle's",
            ),
            option("--whole-graph", is_flag=True, help="Also measure the whole method as one ONNX graph."),
            option("--compile", is_flag=True, help="Also measure mode full through torch.compile."),
            option(
                "--baseline",
                metavar="ROW",
                help="Row to compare the others with: BACKEND or BACKEND:PRECISION.",
                unset="the first row that runs",
            ),
        ),
        *under("Machine", options.device(), options.threads()),
        *under(
            "Measurement",
            option(
                "--min-seconds",
                default=5.0,
                type=POSITIVE,
                metavar="S",
                help="Minimum time of measured calls per row, in seconds.",
            ),
            option(
                "--min-iterations",
                type=click.IntRange(1),
                metavar="N",
                help="Minimum number of measured calls per row.",
                unset="10, in mode full 1",
            ),
            option(
                "--warmup-seconds",
                default=2.0,
                type=click.FloatRange(0),
                metavar="S",
                help="Minimum time of unmeasured calls before, in seconds.",
            ),
            option(
                "--concurrency",
                multiple=True,
                type=click.IntRange(1, 1024),
                metavar="N",
                help="Also measure each row with N threads that share it.",
            ),
            option(
                "--duration",
                default=10.0,
                type=POSITIVE,
                metavar="S",
                help="Time per --concurrency, in seconds.",
            ),
        ),
        *under(
            "Report",
            options.file("json", "the whole report with every sample"),
            options.file("csv", "one line per row"),
            options.file("markdown", "the table as Markdown"),
            options.file("picture", "a picture of latency and stages (.png or .svg)"),
            options.force(),
            option(
                "--compare",
                nargs=2,
                type=PATH,
                metavar="A B",
                help="Measure nothing; compare two files that --json wrote.",
            ),
        ),
        *under(
            "Limits (a broken one ends with exit code 3)",
            option("--max-p95-ms", type=POSITIVE, metavar="MS", help="Maximum 95th percentile of each row's latency."),
            option("--min-speedup", type=POSITIVE, metavar="X", help="Minimum speed-up of each row."),
            option("--min-dice", type=click.FloatRange(0, 1), metavar="X", help="Minimum DSC of each row."),
        ),
        options.quiet(),
    ],
    epilog=example(
        "msformer-deploy benchmark --images scans/ --picture latency.png",
    ),
)
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
    markdown_file: Path | None,
    picture_file: Path | None,
    max_p95_ms: float | None,
    min_speedup: float | None,
    min_dice: float | None,
    compare: tuple[Path, Path] | None,
    force: bool,
    quiet: bool,
) -> None:
    """Measure latency, from image files to result files.

    Each backend, precision, batch size and mode that is asked for becomes one row.
    """
    if compare is not None:
        _compare(context, *compare)
        return
    files = {
        "json": json_file,
        "csv": csv_file,
        "markdown": markdown_file,
        "picture": picture_file,
    }
    check_files([path for path in files.values() if path is not None], force)
    if picture_file is not None:
        from ..benchmark import picture

        if picture_file.suffix.lower() not in picture.FORMATS:
            raise UsageError(f"{picture_file}: --picture must end in {' or '.join(picture.FORMATS)}")
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

    measurement = conductor.Options(
        min_seconds, min_iterations, warmup_seconds, device, threads, tuple(dict.fromkeys(concurrency)), duration
    )
    report = conductor.conduct(rows, beside, chosen, measurement, (lambda line: None) if quiet else say)
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
            raise UsageError(f"--compare measures nothing, so {parameter.opts[0]} has no effect; drop it")
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
    from ..machine.extras import is_installed

    # Without these only the whole method can run, which the package has.
    whole_only = not (is_installed("torch") and is_installed("onnxscript"))
    found = [
        open_bundle(None, preset, quiet, system=system, suffices=lambda _: whole_only) for preset in presets or (None,)
    ]
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
        "markdown": lambda path: write_text(path, table.markdown(report)),
        "picture": lambda path: picture.write(report, path),
    }
    write_files({path: writers[kind] for kind, path in files.items() if path is not None})
