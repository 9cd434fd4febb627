"""``msformer-deploy run``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, UsageError
from ..machine.cores import usable_cores
from ..machine.memory import REMEDY, is_out_of_memory
from ..registry import BACKENDS, KERNELS, MODES, PRECISIONS, PRESETS, Kernels, Mode, Precision
from .bundles import SYSTEM, open_bundle
from .output import PATH, SEED, THREADS, complain, conclude, say, say_passed_over

if TYPE_CHECKING:
    from ..images.inputs import Item

MOST_WRITERS = 4


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="INPUT...")
@click.option("--output", required=True, type=PATH, help="Folder for the results.")
@click.option("--bundle", "bundle_path", type=PATH, help="Bundle to run; by default that of the preset, made once.")
@click.option("--system", type=SYSTEM, help="Whose default bundle to make where none is named; msformer by default.")
@click.option(
    "--backend", default="auto", show_default=True, help=f"What executes the encoder: auto, {', '.join(BACKENDS)}."
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of the encoder, where the bundle has it; its own by default. Mode full: fp32, on a GPU also fp16 and bf16.",
)
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N; an explicit one never falls back."
)
@click.option(
    "--kernels",
    type=click.Choice(KERNELS),
    default="auto",
    show_default=True,
    help="What runs the hot operations of --backend torch on a GPU; cuda never falls back to torch.",
)
@click.option("--threads", type=THREADS, help="Threads for one operator; the runtime decides by default.")
@click.option(
    "--refine", "mode", type=click.Choice(MODES), help="How to learn on each image; the bundle's own by default."
)
@click.option("--preset", type=click.Choice(PRESETS), help="Named way to run, see 'msformer-deploy list'.")
@click.option("--steps", type=click.IntRange(0), help="Override the number of refinement steps.")
@click.option("--seed", type=SEED, help="Draw what is learned anew; the bundle's own start by default.")
@click.option(
    "--foreground",
    default="auto",
    show_default=True,
    help="Which regions are the mask: auto, dermoscopy, regions, largest or cluster:ID.",
)
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Images for one encoder call.")
@click.option("--whole-graph", is_flag=True, help="Run encoder, learning and argmax as one ONNX graph, without torch.")
@click.option("--compile", is_flag=True, help="Run the training of mode full through torch.compile.")
@click.option("--repaired-losses", is_flag=True, help="Mode full of S3-Net: its losses as meant, not as published.")
@click.option("--force", is_flag=True, help="Replace results that exist.")
@click.option("--skip-existing", is_flag=True, help="Keep results that exist, do the rest.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def run(
    context: click.Context,
    inputs: tuple[Path, ...],
    output: Path,
    bundle_path: Path | None,
    system: str | None,
    backend: str,
    precision: Precision | None,
    device: str,
    kernels: Kernels,
    threads: int | None,
    mode: Mode | None,
    preset: str | None,
    steps: int | None,
    seed: int | None,
    foreground: str,
    batch: int,
    whole_graph: bool,
    compile: bool,
    repaired_losses: bool,
    force: bool,
    skip_existing: bool,
    quiet: bool,
) -> None:
    """Segment images, or folders of them: label maps, masks, overlays, records, a report and a gallery."""
    from ..images.inputs import PassedOver, discover, printable
    from ..results import report
    from ..results.batch import BatchRun, GivenUp, unwritable

    if force and skip_existing:
        raise UsageError("--force replaces existing results and --skip-existing keeps them; choose one")
    from ..backends.base import parse_device
    from ..foreground.rules import parse_rule

    parse_rule(foreground), parse_device(device)  # a slip in an option is told before anything is made
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"backend {backend!r} is unknown; choose one of auto, {', '.join(BACKENDS)}")
    passed_over = PassedOver()
    items = discover(inputs, output, passed_over)
    say_passed_over(passed_over)
    _say_masks(items)
    _prepare(output, items, keep=force or skip_existing)
    bundle = open_bundle(bundle_path, preset, quiet, system=system)
    from ..segmenter import Segmenter, resolve_refinement

    segmenter = Segmenter(
        bundle,
        backend=backend,
        precision=precision,
        device=device,
        kernels=kernels,
        threads=threads,
        settings=resolve_refinement(bundle, mode, preset, steps, repaired=repaired_losses),
        foreground_rule=foreground,
        seed=seed,
        whole_graph=whole_graph,
        compile=compile,
        learning_threads=learning_threads(threads),
    )
    if segmenter.most is not None and batch > segmenter.most:
        raise UsageError(
            f"--batch {batch} is more than the {segmenter.most} that the engine takes; pass a smaller one, or build"
            " the engine with another --trt-batch of export"
        )
    batch_run = BatchRun(segmenter, items, output, batch, skip_existing, quiet, writing_threads(), complain)
    interrupted, given_up = False, None
    try:
        batch_run.run()
    except KeyboardInterrupt:
        interrupted = True
    except GivenUp as error:
        given_up = error
    except Exception as error:
        if not is_out_of_memory(error) or os.environ.get("MSFORMER_DEPLOY_DEBUG"):
            raise
        given_up = GivenUp(f"there is not enough memory to go on; {REMEDY}, then go on with --skip-existing", 1)
    summary = report.build(
        batch_run.records(), segmenter, batch_run.seconds, interrupted or given_up is not None, passed_over.counts
    )
    try:
        report.write(output, summary)
    except OSError as error:
        raise unwritable(output, error) from error
    counts = summary["summary"]
    conclude(
        f"{counts['done']} of {len(items)} images segmented"
        + (f", {counts['skipped']} skipped" if counts["skipped"] else "")
        + (f", {counts['failed']} failed" if counts["failed"] else "")
        + f" in {counts['seconds']:.1f} s on {segmenter.backend_name} ({segmenter.provider});"
        + (f" masks in doubt: {counts['doubted']};" if counts["doubted"] else "")
        + f" look at {printable(output / report.GALLERY)}"
    )
    if interrupted:
        say("interrupted; go on with --skip-existing")
        context.exit(EXIT_INTERRUPTED)
    if given_up is not None:
        raise given_up
    if counts["failed"]:
        context.exit(EXIT_SOME_FAILED)


def writing_threads() -> int:
    """Threads that draw regions and masks and write: half as many as cores, for a GPU outruns a few; at least two."""
    return min(max(usable_cores() // 2, 2), MOST_WRITERS)


def learning_threads(threads: int | None) -> int:
    """Threads that learn on a CPU, at most those asked for: one core is left to those that read and write."""
    return max(min(threads or usable_cores(), usable_cores() - 1), 1)


def _say_masks(items: Sequence[Item]) -> None:
    """Say that files are masks by their names: run segments all that is there, and guesses no more."""
    from ..images.inputs import printable
    from ..images.pairing import masks_among

    masks = masks_among(items)
    if masks:
        say(
            f"masks of other images by their names: {len(masks)} ({printable(masks[0].path.name)}"
            f"{', ...' if len(masks) > 1 else ''}); they are segmented as well, so keep them in another folder"
        )


def _prepare(output: Path, items: Sequence[Item], keep: bool) -> None:
    """Make the output folder and see that it can be written and holds nothing that would be lost."""
    from ..images.inputs import printable
    from ..results import report

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{printable(output)}: cannot be made a folder ({error.strerror}); choose another") from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise UsageError(f"{printable(output)}: is not writable; choose another --output")
    if keep:
        return
    for path in (*report.all_files(items, output), output / report.REPORT, output / report.GALLERY):
        if os.path.lexists(path):  # unlike Path.exists, no error for a name too long: that fails its image only
            raise UsageError(
                f"{printable(path)}: exists already; pass --force to replace results or --skip-existing to keep them"
            )
