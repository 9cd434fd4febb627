"""``python -m msformer_deploy.training.prior --output FOLDER``: make the prior's weights again from a seed."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click
from safetensors import safe_open
from safetensors.torch import load_file

from ...errors import DeployError, printable
from ...weights.prior import PATH, write_prior
from ..loop import run_folder
from ..loop.devices import DEVICES, Device, open_fabric
from ..loop.loop import train
from .recipe import PriorRecipe, PriorSettings, open_pool

DEFAULTS = PriorSettings()


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Folder of the run.")
@click.option("--scenes", default=DEFAULTS.scenes, show_default=True, type=click.IntRange(1), help="Number of scenes.")
@click.option(
    "--seed", default=DEFAULTS.seed, show_default=True, type=click.IntRange(0), help="Seed of weights and scenes."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(0), help="Processes that draw scenes.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads of the training.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(DEVICES), help="Kind of device.")
@click.option("--resume", is_flag=True, help="Continue the run in --output from its last checkpoint.")
@click.option("--force", is_flag=True, help="Replace the run in --output.")
def main(
    output: Path, scenes: int, seed: int, workers: int, threads: int, device: Device, resume: bool, force: bool
) -> None:
    """Train the prior on synthetic scenes and write its weights to FOLDER/prior.safetensors.

    With --resume an interrupted run gives the weights of a run that was not interrupted.
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


if __name__ == "__main__":
    try:
        main.main(standalone_mode=False)
    except (DeployError, click.ClickException) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(getattr(error, "exit_code", 2))
