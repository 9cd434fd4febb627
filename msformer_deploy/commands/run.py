"""``msformer-deploy run``."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, DeployError, ImageError, UsageError, caused_by_interruption
from ..machine.cores import usable_cores
from ..machine.memory import REMEDY, is_out_of_memory
from ..registry import BACKENDS, KERNELS, MODES, PRECISIONS, PRESETS, Kernels, Mode, Precision
from ..results.pipeline import overlap
from .bundles import SYSTEM, open_bundle
from .output import PATH, SEED, THREADS, complain, conclude, say, say_passed_over

if TYPE_CHECKING:
    from ..images.inputs import Item
    from ..segmenter import Learned, Prepared, Segmenter

MOST_WRITERS = 4
MOST_FAILURES_IN_A_ROW = 3  # of calls of the segmenter; after that the rest is not tried


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
    if segmenter.max_batch is not None and batch > segmenter.max_batch:
        raise UsageError(
            f"--batch {batch} is more than the {segmenter.max_batch} that the engine takes; pass a smaller one, or"
            " build the engine with another --trt-batch of export"
        )
    batch_run = BatchRun(segmenter, items, output, batch, skip_existing, quiet, writing_threads())
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
        raise _unwritable(output, error) from error
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


class GivenUp(DeployError):
    """Segmenting fails on image after image; what was done is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class _Patience:
    """With one step of the work on image after image: at an end where the first try fails, or several in a row."""

    def __init__(self) -> None:
        self._failures_in_a_row, self._any_success = 0, False

    def success(self) -> None:
        self._failures_in_a_row, self._any_success = 0, True

    def failure(self, error: Exception) -> None:
        """Raise GivenUp, from the error, or let the work go on."""
        self._failures_in_a_row += 1
        if not self._any_success or self._failures_in_a_row == MOST_FAILURES_IN_A_ROW:
            times = f"{self._failures_in_a_row} times in a row" if self._any_success else "on the first images"
            raise GivenUp(
                f"segmenting failed {times}, the rest was not tried; see to it that it works, then go on with"
                " --skip-existing",
                error.exit_code if isinstance(error, DeployError) else GivenUp.exit_code,
            ) from error


class BatchRun:
    """One pass over the images: failures are kept beside results, finished outputs are always whole."""

    def __init__(
        self,
        segmenter: Segmenter,
        items: Sequence[Item],
        output: Path,
        batch: int,
        skip_existing: bool,
        quiet: bool,
        writers: int,
    ) -> None:
        self._segmenter, self._items, self._output, self._writers = segmenter, items, output, writers
        self._batch, self._skip_existing, self._quiet = batch, skip_existing, quiet
        self._records: dict[Item, dict[str, Any]] = {}
        self._learning, self._finishing = _Patience(), _Patience()
        self.seconds = 0.0

    def records(self) -> list[dict[str, Any]]:
        """What is known so far, in input order."""
        return [self._records[item] for item in self._items if item in self._records]

    def run(self) -> None:
        """Segment everything that is not done or excluded; reading and writing overlap with segmenting.

        Raises:
            DeployError: the output folder cannot be written any more.
            GivenUp: the segmenter failed on the first images, or too many times in a row.
            KeyboardInterrupt: passed on, between two files.
        """
        from tqdm import tqdm

        start = time.perf_counter()
        pending = list(self._pending())
        # disable=None: off when stderr is not a terminal.
        with tqdm(total=len(pending), unit="image", disable=True if self._quiet else None) as self._bar:
            try:
                overlap(pending, self._batch, self._read, self._segment, self._write, self._written, self._writers)
            finally:
                self.seconds = time.perf_counter() - start

    def _pending(self) -> Iterator[Item]:
        from ..images.inputs import collisions, printable
        from ..results import report

        clashes = collisions(self._items)
        for item in self._items:
            if item in clashes:
                self._fail(
                    item,
                    f"{printable(item.path)}: its results would overwrite those of {printable(clashes[item].path)};"
                    " rename one or run them into separate folders",
                )
            elif self._skip_existing and (record := report.existing(item, self._output, self._segmenter)):
                if report.of_another_image(record, item):
                    self._fail(
                        item,
                        f"{printable(item.path)}: the results in its place are those of {printable(record['input'])};"
                        " choose another --output or replace them with --force",
                    )
                else:
                    self._records[item] = record
            else:
                yield item

    def _read(self, item: Item) -> tuple[Prepared | Exception, float]:
        """What the network takes of an image, or why it cannot be had, and the seconds it took to read it."""
        from ..images.read import read_image

        start = time.perf_counter()
        try:
            image = read_image(item.path)
        except ImageError as error:
            return error, time.perf_counter() - start
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return self._too_large(item, error), time.perf_counter() - start
        decode = time.perf_counter() - start
        try:
            return self._segmenter.prepare(image), decode
        except Exception as error:  # a failure of the segmenter, told when its turn comes
            return self._too_large(item, error) if is_out_of_memory(error) else error, decode

    def _segment(self, group: list[tuple[Item, tuple[Prepared | Exception, float]]]) -> list[tuple[Item, Learned]]:
        """What was learned on those images that could be read and segmented; the others fail."""
        images: dict[Item, Prepared | Exception] = {}
        decode = {}
        for item, (image, seconds) in group:
            if isinstance(image, ImageError):
                self._fail(item, str(image))
            else:
                images[item], decode[item] = image, seconds
        learned = self._segment_readable(images) if images else {}
        for item, each in learned.items():
            each.seconds.update(decode=decode[item])
        self._bar.update(len(group) - len(learned))
        return list(learned.items())

    def _segment_readable(self, images: dict[Item, Prepared | Exception]) -> dict[Item, Learned]:
        """What was learned on all images, or on none when the segmenter fails.

        Raises:
            GivenUp: it has failed too often.
        """
        from ..images.inputs import printable

        try:
            results = self._segmenter.learn(
                [_unless_failed(image) for image in images.values()],
                lambda step, most: self._bar.set_postfix_str(f"step {step}/{most}"),
            )
        except Exception as error:
            if caused_by_interruption(error):
                raise KeyboardInterrupt from error
            if os.environ.get("MSFORMER_DEPLOY_DEBUG"):
                raise
            for item in images:
                self._fail(item, f"{printable(item.path)}: {self._reason(error)}")
            self._learning.failure(error)
            return {}
        self._learning.success()
        return dict(zip(images, results, strict=True))

    def _write(self, item: Item, learned: Learned) -> Exception | str | None:
        """Write what was found in an image and keep its record; or say why it has none, with the segmenter's failure.

        Raises:
            DeployError: the output folder cannot be written any more.
        """
        from ..results import report

        try:
            result = self._segmenter.finish(learned)
        except Exception as error:
            if os.environ.get("MSFORMER_DEPLOY_DEBUG"):
                raise
            # Full size comes in here: what does not fit is the image.
            return self._reason(error) if is_out_of_memory(error) else error
        try:
            self._records[item] = report.write_results(item, self._output, result, self._segmenter)
        except Exception as error:
            if is_out_of_memory(error):
                return self._reason(error)
            if not isinstance(error, OSError):
                raise
            if error.errno != errno.ENAMETOOLONG:
                raise _unwritable(self._output, error) from error
            return "too long a name to write results for; rename it"
        return None

    def _written(self, item: Item, failure: Exception | str | None) -> None:
        """Take note of what became of an image.

        Raises:
            GivenUp: the segmenter has failed too often.
        """
        from ..images.inputs import printable

        reason = self._reason(failure) if isinstance(failure, Exception) else failure
        if reason is not None:
            self._fail(item, f"{printable(item.path)}: {reason}")
        self._bar.update()
        if isinstance(failure, Exception):
            self._finishing.failure(failure)
        else:
            self._finishing.success()

    def _reason(self, error: Exception) -> str:
        """What to tell of a failure in the midst of the work, in one line."""
        if is_out_of_memory(error):
            smaller = ", or pass a smaller --batch" if self._batch > 1 else ""
            return f"not enough memory to segment it; make the image smaller, end other programs{smaller}"
        if isinstance(error, DeployError):
            return str(error)
        told = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        return f"segmenting failed, {told}; MSFORMER_DEPLOY_DEBUG=1 shows the traceback"

    def _too_large(self, item: Item, error: Exception) -> ImageError:
        """The failure of an image that does not fit into memory, which is no failure of the segmenter."""
        from ..images.inputs import printable

        failure = ImageError(f"{printable(item.path)}: {self._reason(error)}")
        failure.__cause__ = error
        return failure

    def _fail(self, item: Item, reason: str) -> None:
        from ..results import report

        complain(reason)
        self._records[item] = report.failed(item, reason)


def _unless_failed(image: Prepared | Exception) -> Prepared:
    if isinstance(image, Exception):
        raise image
    return image


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


def _unwritable(output: Path, error: OSError) -> DeployError:
    from ..images.inputs import printable

    return DeployError(
        f"{printable(output)}: cannot be written ({error.strerror}); make room or choose another --output,"
        " then go on with --skip-existing"
    )
