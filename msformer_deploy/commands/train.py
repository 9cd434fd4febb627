"""``msformer-deploy train``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import EXIT_INTERRUPTED, BackendUnavailable, DeployError, UsageError
from ..training.devices import DEVICES, PRECISIONS, Device, TrainingPrecision
from ..training.settings import SupervisedSettings, scales_up_to
from .output import PATH, SEED, THREADS, say

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..training.recipe import Recipe
    from ..training.state import State
    from ..training.supervised import Start, SupervisedSystem

SYSTEMS = ("msnet", "m2snet")
DEFAULTS = SupervisedSettings()
CURVES = "curves.png"


def _sides(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        return None if value is None else tuple(int(each) for each in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of whole numbers; give one such as 224,288,352") from error


class Interrupted(DeployError):
    """Ctrl-C, and how to go on."""

    exit_code = EXIT_INTERRUPTED


@click.command()
@click.option("--system", required=True, type=click.Choice(SYSTEMS), help="What to train.")
@click.option("--images", required=True, type=PATH, help="Folder of images to learn from.")
@click.option("--masks", required=True, type=PATH, help="Folder of their masks, by the images' names.")
@click.option("--output", required=True, type=PATH, help="Folder of the run: weights, metrics, curves, checkpoint.")
@click.option("--weights", type=PATH, help="Begin with these weights of the whole network.")
@click.option("--backbone", type=PATH, help="Begin with these ImageNet weights of Res2Net-50.")
@click.option("--lossnet", type=PATH, help="Weights of VGG-16 for the loss on features, left out without them.")
@click.option("--epochs", default=DEFAULTS.epochs, show_default=True, type=int, help="Passes over the images.")
@click.option("--batch", default=DEFAULTS.batch, show_default=True, type=int, help="Images in one update.")
@click.option("--side", default=DEFAULTS.side, show_default=True, type=int, help="Of the square images become, pixels.")
@click.option("--lr", default=DEFAULTS.lr, show_default=True, type=float, help="Largest learning rate.")
@click.option(
    "--scales",
    callback=_sides,
    metavar="SIDE,...",
    help="Sides batches are drawn at; five steps of 32 up to --side by default.",
)
@click.option("--no-multi-scale", is_flag=True, help="Every batch at --side.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(PRECISIONS), help="By autocast.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(DEVICES), help="Kind of device.")
@click.option("--devices", default=1, show_default=True, type=click.IntRange(1), help="So many of them on this node.")
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1), help="Machines that train together.")
@click.option("--published-bce", is_flag=True, help="Cross-entropy without weights, as the public code computes it.")
@click.option("--published-lr", is_flag=True, help="One learning rate for all, as the public code has it in effect.")
@click.option(
    "--validation",
    default=DEFAULTS.validation,
    show_default=True,
    type=float,
    help="Share of the images that is validated on and not learned from; 0 for none.",
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="Draws weights, split, order and augmentation.")
@click.option("--threads", type=THREADS, help="Threads for one operator; torch decides by default.")
@click.option("--resume", is_flag=True, help="Go on with the run in --output, after its last whole epoch.")
@click.option("--force", is_flag=True, help="Replace the run in --output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train(
    system: SupervisedSystem,
    images: Path,
    masks: Path,
    output: Path,
    weights: Path | None,
    backbone: Path | None,
    lossnet: Path | None,
    epochs: int,
    batch: int,
    side: int,
    lr: float,
    scales: tuple[int, ...] | None,
    no_multi_scale: bool,
    precision: TrainingPrecision,
    device: Device,
    devices: int,
    nodes: int,
    published_bce: bool,
    published_lr: bool,
    validation: float,
    seed: int,
    threads: int | None,
    resume: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Train a network on images with masks; the weights are for ``export --weights``."""
    for one, other, both in (
        ("--weights", "--backbone", weights and backbone),
        ("--scales", "--no-multi-scale", scales and no_multi_scale),
        ("--resume", "--force", resume and force),
    ):
        if both:
            raise UsageError(f"{one} and {other} exclude each other; drop one")
    settings = SupervisedSettings(
        epochs=epochs,
        batch=batch,
        lr=lr,
        backbone_lr_factor=1.0 if published_lr else DEFAULTS.backbone_lr_factor,
        side=side,
        scales=(side,) if no_multi_scale else scales or scales_up_to(side),
        published_bce=published_bce,
        validation=validation,
        seed=seed,
    )
    from ..training.devices import is_first_process, open_fabric
    from ..training.run_folder import check_place

    fabric = open_fabric(device, precision, devices, nodes)
    first = is_first_process()
    quiet = quiet or not first
    if first:
        check_place(output, resume=resume, force=force)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    recipe = _supervised(system, settings, images, masks, weights, backbone, lossnet, devices * nodes, quiet)
    state = _run(recipe, output, fabric, precision, first=first, resume=resume, quiet=quiet)
    if first:
        _tell(recipe, state, output)


def _supervised(
    system: SupervisedSystem,
    settings: SupervisedSettings,
    images: Path,
    masks: Path,
    weights: Path | None,
    backbone: Path | None,
    lossnet: Path | None,
    processes: int,
    quiet: bool,
) -> Recipe:
    """The recipe, after every file that it will need has been read once."""
    from ..losses.lossnet import LossNet
    from ..training.pairs import check, find_pairs, split
    from ..training.supervised import Supervised

    pairs = find_pairs(images, masks)
    data = split(pairs, settings.validation, settings.seed)
    start = _start(system, weights, backbone)
    features = None if lossnet is None else LossNet(lossnet)
    if not quiet:
        say(f"images to learn from: {len(data.training)}, to validate on: {len(data.validation)}")
        if not start.weights:
            say("neither --weights nor --backbone: the network begins with random weights")
        if features is None:
            say("no --lossnet: the loss on features is left out")
    with _bar(len(pairs), quiet) as bar:
        digest = check(pairs, bar.update)
    recipe = Supervised(system, settings, data, digest, start, features)
    if len(data.training) // recipe.steps < processes:
        raise UsageError(
            f"{processes} processes and batches of {len(data.training) // recipe.steps} images; give each process one"
            " with a larger --batch or fewer --devices"
        )
    return recipe


def _start(system: SupervisedSystem, weights: Path | None, backbone: Path | None) -> Start:
    from ..bundle import sha256
    from ..checkpoint_import import import_weights
    from ..training.supervised import SCRATCH, Start

    if weights is not None:
        return Start(import_weights(weights, system), f"weights {sha256(weights)}")
    if backbone is not None:
        return Start(import_weights(backbone, "res2net"), f"backbone {sha256(backbone)}")
    return SCRATCH


def _run(
    recipe: Recipe, output: Path, fabric: Fabric, precision: str, *, first: bool, resume: bool, quiet: bool
) -> State:
    """Train; of several processes the first one speaks and the others end with it."""
    from torch import OutOfMemoryError

    from ..inputs import printable
    from ..training import run_folder
    from ..training.devices import end_others
    from ..training.loop import train as train_recipe

    try:
        if first:
            run_folder.begin(output, recipe.record, fabric, precision, resume=resume)
        fabric.launch()
        return train_recipe(recipe, output, fabric, resume=resume, quiet=quiet)
    except (DeployError, KeyboardInterrupt, OutOfMemoryError) as error:
        end_others(fabric)
        if not first:
            raise SystemExit(1) from error
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(
                f"interrupted; the same command with --resume goes on after the last whole epoch in {printable(output)}"
            ) from error
        if isinstance(error, OutOfMemoryError):
            raise DeployError(
                "the memory of the device is not enough; begin again with a smaller --batch or --side, or with"
                " --precision bf16"
            ) from error
        raise


def _tell(recipe: Recipe, state: State, output: Path) -> None:
    """Draw the curves and say where the weights are."""
    from ..inputs import printable
    from ..training import curves, metrics_log
    from ..training.loop import METRICS

    try:
        curves.write(metrics_log.read(output / METRICS), output / CURVES)
    except BackendUnavailable as error:
        say(str(error))
    except OSError as error:
        say(f"{printable(output / CURVES)}: cannot be written ({error.strerror})")
    best = [
        f"best {recipe.kept[name].score} {score:.4f} in epoch {epoch}" for name, (score, epoch) in state.best.items()
    ]
    click.echo(f"{printable(output)}: {', '.join([f'{state.epoch} epochs', *best])}")


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Any]:
    from tqdm import tqdm

    # disable=None: off when stderr is not a terminal.
    with tqdm(total=total, desc="reading", disable=True if quiet else None, leave=False) as bar:
        yield bar
