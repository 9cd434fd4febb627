"""``msformer-deploy pretrain``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from ..errors import EXIT_SOME_FAILED, DeployError, ImageError, UsageError, ValidationMismatch
from ..pretraining.settings import PretrainSettings, steps_of
from ..registry import PRESETS, find_system
from .output import PATH, SEED, THREADS, complain, conclude, say, say_passed_over

if TYPE_CHECKING:
    from ..bundle.folder import ModelSizes
    from ..images.inputs import Item, PassedOver
    from ..models.msformer import MSFormer
    from ..pretraining.images import Split
    from ..pretraining.judging import Mask, Verdict
    from ..registry import Preset, RefineSettings

MOST_NAMED = 5  # files in one line
DEFAULTS = PretrainSettings()


@click.command()
@click.argument("folders", nargs=-1, required=True, type=PATH, metavar="FOLDER...")
@click.option("--output", required=True, type=PATH, help="Bundle to make, if the adapted encoder is the better one.")
@click.option(
    "--masks", type=PATH, help="Ground truth by the images' names: its DSC then decides, nothing learns of it."
)
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Sizes and refinement of the bundle, as in export; the first by default.",
)
@click.option("--steps", type=click.IntRange(1), help=f"Updates; {DEFAULTS.steps} by default.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images, in place of --steps.")
@click.option(
    "--side",
    default=DEFAULTS.side,
    show_default=True,
    type=int,
    help="Of the square on which the network trains, whatever the bundle's.",
)
@click.option(
    "--holdout",
    default=0.2,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the images that is judged on and never trained on; two at least, with --masks one.",
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="Draws network, held-out images and batches.")
@click.option("--threads", type=THREADS, help="Threads for one operator; the runtime decides by default.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def pretrain(
    context: click.Context,
    folders: tuple[Path, ...],
    output: Path,
    masks: Path | None,
    preset: str | None,
    steps: int | None,
    epochs: int | None,
    side: int,
    holdout: float,
    seed: int,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Adapt the encoder to unlabelled images; a bundle is made only if that helps on images it has not seen."""
    if steps is not None and epochs is not None:
        raise UsageError("--steps and --epochs both say how long to train; drop one")
    if not 0 < holdout < 1:  # NaN is within any range, for click
        raise UsageError(f"--holdout {holdout} is no share; give a number between 0 and 1")
    settings = replace(DEFAULTS, side=side)
    system = find_system("msformer")
    refinement = _refinement(system.preset(preset))
    system = system.sized(preset)
    from ..bundle.folder import ModelSizes, free_place
    from ..images.inputs import PassedOver, discover

    _check_place(free_place(output, force))
    passed_over = PassedOver()
    items = discover(folders, passed_over=passed_over)
    failures: list[ImageError] = []

    def fail(error: ImageError) -> None:
        failures.append(error)
        complain(str(error))

    items, paired = _paired(items, masks, passed_over)
    say_passed_over(passed_over)
    chosen, truths = _choose(items, paired, holdout, seed, fail, quiet)
    if epochs is not None:
        steps = steps_of(epochs, len(chosen.training), settings.batch)
    settings = replace(settings, steps=steps or DEFAULTS.steps)
    if not quiet:
        held_out = f"{len(chosen.held_out)} ({_named(chosen.held_out)})"
        say(f"images to learn from: {len(chosen.training)}, held out: {held_out}")
    sizes = ModelSizes.of(system)
    network, adapted = _adapt(sizes, chosen, settings, seed, threads, quiet)
    verdict = _judge(network, adapted, chosen, truths, system.name, seed, refinement, threads, quiet)
    conclude(verdict.summary())
    if not verdict.better:
        raise NoGain(verdict.refusal())
    from ..export.build import Pretrained, build_bundle
    from ..images.inputs import printable

    pretrained = Pretrained(adapted, _provenance(chosen, holdout, settings, seed, verdict))
    build_bundle(
        system,
        output,
        seed=seed,
        sizes=sizes,
        refinement=refinement,
        pretrained=pretrained,
        force=force,
        say=(lambda _: None) if quiet else say,
    )
    conclude(f"{printable(output)}: {system.title} bundle, adapted in {settings.steps} steps")
    if failures:
        context.exit(EXIT_SOME_FAILED)


class NoGain(DeployError):
    """The adapted encoder is not better than the one it began as."""

    exit_code = ValidationMismatch.exit_code


def _refinement(preset: Preset) -> RefineSettings:
    if preset.refinement.mode == "full":
        raise UsageError("a preset of mode full trains the network, which no graph can hold; choose one of mode head")
    return preset.refinement


def _check_place(output: Path) -> None:
    """See that a folder can be made there, before minutes are spent on what goes into it."""
    parent = next(each for each in output.parents if each.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise UsageError(f"{output}: cannot be written; choose another --output")


def _paired(
    items: Sequence[Item], masks: Path | None, passed_over: PassedOver
) -> tuple[list[Item], dict[Path, Path] | None]:
    """Those of the files that are images, and their masks, None where they are not asked for."""
    from ..images.pairing import pair, without_masks

    if masks is None:
        return without_masks(items, say), None
    pairing = pair(items, masks, passed_over)
    return pairing.images_of(items), pairing.pairs


def _choose(
    items: Sequence[Item],
    paired: dict[Path, Path] | None,
    holdout: float,
    seed: int,
    fail: Callable[[ImageError], None],
    quiet: bool,
) -> tuple[Split, dict[Item, Mask]]:
    """Which images teach and which judge, and the truth of the latter; every image is read once to see that it can."""
    from ..pretraining.images import readable, split
    from ..pretraining.judging import LEAST_WITHOUT_TRUTH, read_truth

    with _bar(len(items), "reading", quiet) as bar:
        usable = readable(items, fail, bar.update)
    if not usable:
        raise DeployError(f"none of the {len(items)} images can be read; nothing is written")
    if paired is None:
        return split(usable, holdout, seed, least=LEAST_WITHOUT_TRUTH), {}
    truths = {}
    for item in usable:
        if item.path in paired:
            try:
                truths[item] = read_truth(item, paired[item.path])
            except ImageError as error:
                fail(error)
    return split(usable, holdout, seed, truths), truths


def _adapt(
    sizes: ModelSizes, chosen: Split, settings: PretrainSettings, seed: int, threads: int | None, quiet: bool
) -> tuple[MSFormer, MSFormer]:
    """The network of the seed, and what it becomes."""
    from ..machine.cores import give_torch
    from ..pretraining.images import batches
    from ..pretraining.training import Update, adapt, start

    give_torch(threads)
    network = start(sizes, seed)
    with _bar(settings.steps, "adapting", quiet) as bar:

        def show(update: Update) -> None:
            bar.set_postfix_str(f"{update.label_count:.0f} labels, cross-entropy {update.cross_entropy:.2f}", False)
            bar.update()

        return network, adapt(network, batches(chosen.training, settings, seed), settings, show)


def _judge(
    network: MSFormer,
    adapted: MSFormer,
    chosen: Split,
    truths: dict[Item, Mask],
    system: str,
    seed: int,
    refinement: RefineSettings,
    threads: int | None,
    quiet: bool,
) -> Verdict:
    from ..pretraining.candidate import candidate
    from ..pretraining.judging import Verdict, judge

    held_out = {item: truths.get(item) for item in chosen.held_out}
    found = []
    with _bar(2 * len(held_out), "judging", quiet) as bar:
        for each in (network, adapted):
            with TemporaryDirectory(prefix="msformer-deploy-") as folder:
                bundle = candidate(each, Path(folder), system, seed, refinement)
                found.append(judge(bundle, held_out, threads, bar.update))
    return Verdict(*found)


def _provenance(
    chosen: Split, holdout: float, settings: PretrainSettings, seed: int, verdict: Verdict
) -> dict[str, Any]:
    """What the manifest says of how the weights came about."""
    from ..pretraining.images import digest

    return {
        "images": len(chosen.training),
        "images_sha256": digest(chosen.training),
        "settings": asdict(settings),
        "seed": seed,
        "holdout": holdout,
        "held_out": [item.relative.as_posix() for item in chosen.held_out],
        "scores": verdict.as_dict(),
    }


@contextmanager
def _bar(total: int, what: str, quiet: bool) -> Iterator[Any]:
    from tqdm import tqdm

    # disable=None: off when stderr is not a terminal.
    with tqdm(total=total, desc=what, disable=True if quiet else None, leave=False) as bar:
        yield bar


def _named(items: Sequence[Item]) -> str:
    """The first of them by name."""
    from ..images.inputs import printable

    names = [printable(item.relative.name) for item in items[:MOST_NAMED]]
    return ", ".join([*names, "..."] if len(items) > MOST_NAMED else names)
