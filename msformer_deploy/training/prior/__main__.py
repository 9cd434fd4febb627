"""``python -m msformer_deploy.training.prior --output FOLDER``: make the prior's weights again from a seed."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click
from safetensors import safe_open
from safetensors.torch import load_file

from ...errors import EXIT_INTERRUPTED, DeployError, printable
from ...weights.prior import PATH, write_prior
from ..loop import run_folder
from ..loop.devices import DEVICES, Device, open_fabric
from ..loop.loop import train
from .recipe import STEPS, PriorRecipe, PriorSettings, open_pool

DEFAULTS = PriorSettings()
EPOCH = STEPS * DEFAULTS.batch  # scenes


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Folder of the run.")
@click.option(
    "--scenes",
    default=DEFAULTS.scenes,
    type=click.IntRange(1),
    metavar="N",
    help=f"Number of scenes to learn from; above {EPOCH}, it is rounded to a multiple of {EPOCH}."
    f" Default: {DEFAULTS.scenes}.",
)
@click.option(
    "--seed",
    default=DEFAULTS.seed,
    type=click.IntRange(0),
    metavar="N",
    help=f"Seed of the first weights and of the scenes. Default: {DEFAULTS.seed}.",
)
@click.option(
    "--workers",
    default=1,
    type=click.IntRange(0),
    metavar="N",
    help="Number of processes that draw scenes beside the training; 0 draws them in its own process. Default: 1.",
)
@click.option(
    "--threads", default=1, type=click.IntRange(1), metavar="N", help="Number of threads of the training. Default: 1."
)
@click.option(
    "--device", default="cpu", type=click.Choice(DEVICES), help="Kind of device of the training. Default: cpu."
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in --output from its last checkpoint, with the same --scenes and --seed.",
)
@click.option("--force", is_flag=True, help="Replace the run in --output.")
def main(
    output: Path, scenes: int, seed: int, workers: int, threads: int, device: Device, resume: bool, force: bool
) -> None:
    """Train the prior on synthetic scenes, without any real image.

    At the end the weights are in FOLDER/prior.safetensors, and their SHA-256 is printed. After an interruption, run the
    same command with --resume: the weights become the same as without the interruption.
    """
    from ...machine.cores import give_torch

    run_folder.check_place(output, resume=resume, force=force)
    give_torch(threads)
    fabric = open_fabric(device)
    with ExitStack() as stack:
        pool = stack.enter_context(open_pool(workers)) if workers else None
        recipe = PriorRecipe(PriorSettings(scenes=scenes, seed=seed), pool)
        run_folder.begin(output, recipe.record, fabric, "fp32", resume=resume)
        fabric.launch()
        train(recipe, output, fabric, resume=resume)
    last = output / "last.safetensors"
    with safe_open(last, "pt") as file:
        digest = write_prior(output / PATH.name, load_file(last), file.metadata())
    click.echo(f"{printable(output / PATH.name)}: sha256 {digest}")


def call(arguments: list[str]) -> int:
    """Run the command on ``arguments`` and return the exit code; an error is one line on stderr."""
    try:
        main.main(arguments, prog_name="python -m msformer_deploy.training.prior", standalone_mode=False)
    except click.ClickException as error:
        message, code = error.format_message(), error.exit_code
    except DeployError as error:
        message, code = str(error), error.exit_code
    except (KeyboardInterrupt, click.Abort):
        message, code = "interrupted; run the same command with --resume to continue", EXIT_INTERRUPTED
    else:
        return 0
    click.echo(f"error: {message}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(call(sys.argv[1:]))
