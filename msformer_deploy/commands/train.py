"""``msformer-deploy train``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import registry
from ..errors import EXIT_INTERRUPTED, BackendUnavailable, DeployError, UsageError
from ..training.loop.devices import DEVICES, PRECISIONS, Device, TrainingPrecision
from ..training.semi_supervised.settings import SMALL, SemiSupervisedSettings
from ..training.supervised.settings import SupervisedSettings, scales_up_to
from . import options
from .options import PATH, REQUIRED, SEED, Command, example, option, under
from .output import conclude, say, say_passed_over

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..training.loop.recipe import Recipe
    from ..training.loop.state import State
    from ..training.supervised.supervised import Start, SupervisedSystem

SYSTEMS = tuple(name for name, system in registry.SYSTEMS.items() if "train" in system.commands)
SEMI = "mcsc"
DEFAULTS = SupervisedSettings()
SEMI_DEFAULTS = SemiSupervisedSettings()
ONLY_SUPERVISED = {
    "weights",
    "backbone",
    "lossnet",
    "epochs",
    "side",
    "lr",
    "scales",
    "rotation",
    "zoom",
    "colour",
    "weight_decay",
    "validation",
}
NUMBERS = ("epochs", "lr", "validation", "rotation", "zoom", "colour", "weight_decay")  # settings of these names
CURVES = "curves.png"


def _sides(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        return None if value is None else tuple(int(each) for each in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers; give one such as 224,288,352") from error


class Interrupted(DeployError):
    """Ctrl-C, and how to go on."""

    exit_code = EXIT_INTERRUPTED


@click.command(
    cls=Command,
    params=[
        *under(
            REQUIRED,
            option("--system", required=True, type=click.Choice(SYSTEMS), help="System to train."),
            option(
                "--images",
                required=True,
                type=PATH,
                metavar="DIR",
                help="Folder of training images; for mcsc also of HDF5 slices.",
            ),
            option(
                "--output",
                required=True,
                type=PATH,
                metavar="DIR",
                help="Folder of the run: weights, metrics, curves and checkpoint.",
            ),
        ),
        *under(
            "Input and output",
            option(
                "--masks",
                type=PATH,
                metavar="PATH",
                help="Folder of the images' masks, matched by name: image files, NIfTI, NRRD, MetaImage, DICOM"
                " segmentations or LabelMe files. Or a COCO file. HDF5 slices hold their own.",
            ),
            option("--resume", is_flag=True, help="Continue the run in --output from its last checkpoint."),
            options.force("Replace the run in --output."),
        ),
        *under(
            "Training",
            option(
                "--batch",
                type=int,
                metavar="N",
                help="Number of images per update; for mcsc half of them are unlabelled.",
                unset=f"{DEFAULTS.batch}; for mcsc {SEMI_DEFAULTS.labelled_batch + SEMI_DEFAULTS.unlabelled_batch}",
            ),
            option(
                "--precision",
                default="fp32",
                type=click.Choice(PRECISIONS),
                help="Precision of the training, by autocast.",
            ),
            option(
                "--seed",
                default=0,
                type=SEED,
                metavar="N",
                help="Seed for weights, split, order and augmentation.",
            ),
        ),
        *under(
            "Machine",
            option("--device", default="auto", type=click.Choice(DEVICES), help="Kind of device."),
            option(
                "--devices",
                default=1,
                type=click.IntRange(1),
                metavar="N",
                help="Number of devices per machine.",
            ),
            option(
                "--nodes",
                default=1,
                type=click.IntRange(1),
                metavar="N",
                help="Number of machines that train together.",
            ),
            options.threads("torch"),
        ),
        *under(
            "msnet and m2snet",
            option("--weights", type=PATH, metavar="FILE", help="Start with these weights of the whole network."),
            option("--backbone", type=PATH, metavar="FILE", help="Start with these ImageNet weights of Res2Net-50."),
            option(
                "--lossnet",
                type=PATH,
                metavar="FILE",
                help="Weights of VGG-16 for the loss on features. Without them, this loss is left out.",
            ),
            option(
                "--epochs", type=int, metavar="N", help="Number of passes over the images.", unset=f"{DEFAULTS.epochs}"
            ),
            option(
                "--side",
                type=int,
                metavar="N",
                help="Side in pixels of the square that images are resized to.",
                unset=f"{DEFAULTS.side}",
            ),
            option(
                "--scales",
                callback=_sides,
                metavar="SIDE,...",
                help="Sides to draw for each batch; one side switches this off.",
                unset="five steps of 32 up to --side",
            ),
            option("--lr", type=float, metavar="X", help="Maximum learning rate.", unset=f"{DEFAULTS.lr}"),
            option(
                "--weight-decay",
                type=float,
                metavar="X",
                help="Weight decay of SGD.",
                unset=f"{DEFAULTS.weight_decay}",
            ),
            option(
                "--rotation",
                type=float,
                metavar="DEGREES",
                help="Maximum rotation in either direction.",
                unset=f"{DEFAULTS.rotation:g}",
            ),
            option(
                "--zoom",
                type=float,
                metavar="X",
                help="Maximum factor to enlarge or shrink by, for small sets.",
                unset=f"{DEFAULTS.zoom:g}",
            ),
            option(
                "--colour",
                type=float,
                metavar="X",
                help="Maximum change of light, for small sets, such as 0.2.",
                unset=f"{DEFAULTS.colour:g}",
            ),
            option(
                "--validation",
                type=float,
                metavar="SHARE",
                help="Share of the images to validate on; 0 for none.",
                unset=f"{DEFAULTS.validation}",
            ),
        ),
        *under(
            "mcsc",
            option(
                "--labelled",
                metavar="PATIENTS",
                help="Patients whose labels are used: a number, a share, or a file of names.",
            ),
            option(
                "--held-out",
                metavar="PATIENTS",
                help="Patients to validate on: a number, a share, or a file of names. All others are unlabelled.",
            ),
            option(
                "--iterations", type=int, metavar="N", help="Number of updates.", unset=f"{SEMI_DEFAULTS.iterations}"
            ),
            option(
                "--interval",
                type=int,
                metavar="N",
                help="Number of updates between validations.",
                unset=f"{SEMI_DEFAULTS.validation_interval}",
            ),
            option(
                "--values",
                callback=_sides,
                metavar="ID,...",
                help="Pixel values of the classes in the masks.",
                unset="0,1,2,3",
            ),
            option("--small", is_flag=True, help="Use small networks and few groups, for a run of minutes on a CPU."),
            option("--supervised-only", is_flag=True, help="Learn from labelled slices alone, to compare with."),
        ),
        options.quiet(),
    ],
    epilog=example(
        "msformer-deploy train --system m2snet --images images/ --masks masks/ \\",
        "    --output run",
    ),
)
def train(
    system: SupervisedSystem,
    images: Path,
    masks: Path | None,
    output: Path,
    batch: int | None,
    precision: TrainingPrecision,
    device: Device,
    devices: int,
    nodes: int,
    seed: int,
    threads: int | None,
    resume: bool,
    force: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train msnet, m2snet or mcsc.

    The weights in the output folder are for 'msformer-deploy export --weights'.
    """
    for one, other, both in (
        ("--weights", "--backbone", given["weights"] and given["backbone"]),
        ("--resume", "--force", resume and force),
    ):
        if both:
            raise UsageError(f"{one} and {other} exclude each other; drop one")
    foreign = ONLY_SUPERVISED if system == SEMI else given.keys() - ONLY_SUPERVISED
    for name in sorted(foreign):
        if given[name] not in (None, False):
            raise UsageError(f"system {system} has no --{name.replace('_', '-')}; drop it")
    settings = _semi_settings(given, batch, seed) if system == SEMI else _supervised_settings(given, batch, seed)
    from ..machine.cores import give_torch
    from ..training.loop.devices import is_first_process, open_fabric
    from ..training.loop.run_folder import check_place

    fabric = open_fabric(device, precision, devices, nodes)
    first = is_first_process()
    quiet = quiet or not first
    if first:
        check_place(output, resume=resume, force=force)
    give_torch(threads)
    recipe = (
        _semi_supervised(settings, images, masks, given, quiet)
        if isinstance(settings, SemiSupervisedSettings)
        else _supervised(system, settings, images, masks, given, devices * nodes, quiet)
    )
    state = _run(recipe, output, fabric, precision, first=first, resume=resume, quiet=quiet)
    if first:
        _tell(recipe, state, output)


def _supervised_settings(given: dict[str, Any], batch: int | None, seed: int) -> SupervisedSettings:
    side = DEFAULTS.side if given["side"] is None else given["side"]
    named = {name: given[name] for name in NUMBERS if given[name] is not None}
    return SupervisedSettings(
        **named,
        batch=DEFAULTS.batch if batch is None else batch,
        side=side,
        scales=given["scales"] or scales_up_to(side),
        seed=seed,
    )


def _semi_settings(given: dict[str, Any], batch: int | None, seed: int) -> SemiSupervisedSettings:
    if given["labelled"] is None or given["held_out"] is None:
        raise UsageError("mcsc learns from some patients and validates on others; give --labelled and --held-out")
    count = SEMI_DEFAULTS.labelled_batch + SEMI_DEFAULTS.unlabelled_batch if batch is None else batch
    if count < 2 or count % 2:
        raise UsageError(f"--batch {count} must be even, because half of each batch is labelled")
    start = SMALL if given["small"] else SEMI_DEFAULTS
    iterations = start.iterations if given["iterations"] is None else given["iterations"]
    interval = start.validation_interval if given["interval"] is None else given["interval"]
    return replace(
        start,
        iterations=iterations,
        validation_interval=interval,
        validation_start=min(start.validation_start, iterations),
        labelled_batch=count // 2,
        unlabelled_batch=count // 2,
        supervised_only=given["supervised_only"],
        classes=len(given["values"] or range(SEMI_DEFAULTS.classes)),
        seed=seed,
    )


def _semi_supervised(
    settings: SemiSupervisedSettings, images: Path, masks: Path | None, given: dict[str, Any], quiet: bool
) -> Recipe:
    """The recipe, after every slice has been read once."""
    from ..images.inputs import PassedOver
    from ..training.semi_supervised.recipe import recipe
    from ..training.semi_supervised.slices import choice

    labelled, held_out = choice(given["labelled"]), choice(given["held_out"])
    passed_over = PassedOver()
    with _bar(None, quiet) as bar:
        made = recipe(
            images,
            settings,
            labelled,
            held_out,
            masks=masks,
            values=given["values"],
            step=bar.update,
            passed_over=passed_over,
        )
    if not quiet:
        say_passed_over(passed_over)
        data = made.record["data"]
        say(
            f"labelled slices: {data['labelled_slices']}, unlabelled: {data['unlabelled_slices']},"
            f" held out: {data['held_out_slices']}"
        )
    return made


def _supervised(
    system: SupervisedSystem,
    settings: SupervisedSettings,
    images: Path,
    masks: Path | None,
    given: dict[str, Any],
    processes: int,
    quiet: bool,
) -> Recipe:
    """The recipe, after every file that it will need has been read once."""
    if masks is None:
        raise UsageError(f"{system} learns from masks; give --masks")
    from ..images.inputs import PassedOver
    from ..losses.lossnet import LossNet
    from ..training.supervised.pairs import check, find_pairs, split
    from ..training.supervised.supervised import Supervised

    passed_over = PassedOver()
    pairs = find_pairs(images, masks, passed_over)
    if not quiet:
        say_passed_over(passed_over)
    data = split(pairs, settings.validation, settings.seed)
    start = _start(system, given["weights"], given["backbone"])
    features = None if given["lossnet"] is None else LossNet(given["lossnet"])
    if not quiet:
        say(f"training images: {len(data.training)}, validation images: {len(data.validation)}")
        if not start.weights:
            say("no --weights and no --backbone: the network starts with random weights")
        if features is None:
            say("no --lossnet: the loss on features is left out")
    with _bar(len(pairs), quiet) as bar:
        digest = check(pairs, bar.update)
    recipe = Supervised(system, settings, data, digest, start, features)
    if len(data.training) // recipe.steps < processes:
        raise UsageError(
            f"a batch of {len(data.training) // recipe.steps} images is too small for {processes} processes; pass a"
            " larger --batch or fewer --devices"
        )
    return recipe


def _start(system: SupervisedSystem, weights: Path | None, backbone: Path | None) -> Start:
    from ..bundle.folder import sha256
    from ..training.supervised.supervised import SCRATCH, Start
    from ..weights.checkpoint_import import import_weights

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

    from ..errors import printable
    from ..training.loop import run_folder
    from ..training.loop.devices import end_others
    from ..training.loop.loop import train as train_recipe

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
                "interrupted; run the same command with --resume to continue from the last checkpoint in"
                f" {printable(output)}"
            ) from error
        if isinstance(error, OutOfMemoryError):
            raise DeployError(
                "the device does not have enough memory; start again with a smaller --batch or --side, or with"
                " --precision bf16"
            ) from error
        raise


def _tell(recipe: Recipe, state: State, output: Path) -> None:
    """Draw the curves and say where the weights are."""
    from ..errors import printable
    from ..training.loop import curves, metrics_log
    from ..training.loop.loop import METRICS

    try:
        curves.write(metrics_log.read(output / METRICS), output / CURVES)
    except BackendUnavailable as error:
        say(str(error))
    except OSError as error:
        say(f"{printable(output / CURVES)}: cannot be written ({error.strerror})")
    best = [
        f"best {recipe.kept[name].score} {score:.4f} in epoch {epoch}" for name, (score, epoch) in state.best.items()
    ]
    conclude(f"{printable(output)}: {', '.join([f'{state.epoch} epochs', *best])}")


@contextmanager
def _bar(total: int | None, quiet: bool) -> Iterator[Any]:
    from tqdm import tqdm

    # disable=None: off when stderr is not a terminal.
    with tqdm(total=total, desc="reading", disable=True if quiet else None, leave=False) as bar:
        yield bar
