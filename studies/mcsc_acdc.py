"""What unlabelled slices add: MCSC beside the same networks trained on the same labelled slices alone.

    python studies/mcsc_acdc.py --data ../shared/data/acdc/slices [--seeds 3] [--iterations 400] [--threads 2]
        [--full] [--device cuda] [--json FILE] [--markdown FILE]

The data are HDF5 slices with labels, as the public code keeps ACDC. Of each seed two patients are labelled and two held
out; the others' labels are not looked at. Both runs of a seed have the same patients, initial weights and number of
updates; in each update both see two labelled slices, and MCSC two unlabelled ones as well. What is judged are the last
weights, so that nothing is chosen by what is held out.

By default the networks are small ones, and a few groups of blocks are contrasted in each update, so that it all takes
minutes on a CPU: this tells whether the method helps, not what it reaches. --full has the published sizes. The slices
tell no spacing, so HD95 is in voxels; where a class is not predicted there is none, which is counted as missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from script import exit_code, tell
from torch import Tensor, nn

from msformer_deploy.doctor.diagnosis import diagnose
from msformer_deploy.measures.volumes import VolumeScore, score_volume, summarise
from msformer_deploy.models.mcsc import Segmented, log_probabilities
from msformer_deploy.training.loop.devices import open_fabric
from msformer_deploy.training.loop.loop import train
from msformer_deploy.training.semi_supervised.recipe import new_swin, new_unet, predict_volume, read_truth, recipe
from msformer_deploy.training.semi_supervised.settings import SMALL, SemiSupervisedSettings
from msformer_deploy.training.semi_supervised.slices import find_slices, split, volumes

Networks = dict[str, nn.Module]

PATIENTS = 2  # labelled, and as many held out
CLASSES = {1: "RV", 2: "Myo", 3: "LV"}
RUNS = {"MCSC": False, "labelled slices alone": True}  # and whether they are supervised only
NETWORKS = {"unet": "U-Net", "swin": "Swin-UNet", "both": "both"}


class Answering(nn.Module):
    """The probabilities of networks, in the form in which one is asked."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Segmented:
        found = log_probabilities(self.networks, images)
        return Segmented(found, found, found)


def learned(folder: Path, settings: SemiSupervisedSettings, data: Path, arguments: argparse.Namespace) -> Networks:
    """Both networks after a run."""
    fabric = open_fabric(arguments.device)
    train(recipe(data, settings, PATIENTS, PATIENTS), folder, fabric, quiet=not sys.stderr.isatty())
    networks: Networks = {"unet": new_unet(settings), "swin": new_swin(settings)}
    for name, network in networks.items():
        network.load_state_dict(load_file(folder / f"last-{name}.safetensors"))
        network.to(fabric.device).eval()
    return networks


def judged(networks: Networks, settings: SemiSupervisedSettings, data: Path) -> Iterator[tuple[str, list[VolumeScore]]]:
    """Scores of each network and of both on every held-out volume."""
    held_out = split(find_slices(data), PATIENTS, PATIENTS, settings.seed).held_out
    stored = range(settings.classes)
    truths: dict[str, NDArray[Any]] = {}
    for answer in NETWORKS:
        answering = Answering(networks.values() if answer == "both" else [networks[answer]])
        scores: list[VolumeScore] = []
        for slices in volumes(held_out).values():
            name = slices[0].volume
            truth = truths.setdefault(name, read_truth(slices, stored))
            predicted = predict_volume(answering, slices, settings.side)
            scores += score_volume(name, predicted, truth, settings.classes)
        yield answer, scores


def measure(settings: SemiSupervisedSettings, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A record of each seed, run and network."""
    records = []
    for seed in range(arguments.seeds):
        for run, supervised_only in RUNS.items():
            own = replace(settings, seed=seed, supervised_only=supervised_only)
            started = time.perf_counter()
            with TemporaryDirectory() as folder:
                networks = learned(Path(folder), own, arguments.data, arguments)
            seconds = time.perf_counter() - started
            print(f"seed {seed}, {run}: {seconds:.0f} s", file=sys.stderr, flush=True)
            for answer, scores in judged(networks, own, arguments.data):
                records.append(
                    {
                        "seed": seed,
                        "run": run,
                        "network": answer,
                        "seconds": seconds,
                        "classes": [asdict(each) for each in summarise(scores)],
                        "volumes": [asdict(each) for each in scores],
                    }
                )
    return records


def show(records: Sequence[dict[str, Any]]) -> str:
    """Means over seeds with standard deviations, and how much unlabelled slices change the mean Dice of each seed."""
    names = list(CLASSES.values())
    header = ["", "network", *(f"Dice {name}" for name in names), "mean Dice", "HD95, voxels", "missed"]
    lines = [_row(header), _row(["---", "---", *["---:"] * (len(header) - 2)])]
    for answer, network in NETWORKS.items():
        for run in RUNS:
            found = [each for each in records if (each["run"], each["network"]) == (run, answer)]
            by_class = [[each["classes"][index]["dice"] for each in found] for index in range(len(names))]
            means = [fmean(each) for each in zip(*by_class, strict=True)]
            distances = [entry["hd95"] for each in found for entry in each["classes"]]
            missed = sum(entry["missed"] for each in found for entry in each["classes"])
            asked = sum(entry["volumes"] for each in found for entry in each["classes"])
            cells = [_spread(each, 3) for each in (*by_class, means)]
            lines.append(_row([run, network, *cells, f"{np.nanmean(distances):.1f}", f"{missed} of {asked}"]))
    return "\n".join([*lines, "", *(_gain(records, answer, name) for answer, name in NETWORKS.items())]) + "\n"


def _gain(records: Sequence[dict[str, Any]], answer: str, name: str) -> str:
    dice = {
        (each["run"], each["seed"]): fmean(entry["dice"] for entry in each["classes"])
        for each in records
        if each["network"] == answer
    }
    with_them, without = RUNS
    gains = [dice[with_them, seed] - dice[without, seed] for run, seed in dice if run == with_them]
    told = ", ".join(f"{gain:+.3f}" for gain in gains)
    return f"Mean Dice of {name} with unlabelled slices over without, by seed: {told}; mean {fmean(gains):+.3f}."


def _spread(values: Sequence[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def run(arguments: argparse.Namespace) -> None:
    """Measure and tell."""
    torch.set_num_threads(arguments.threads)
    settings = replace(
        SemiSupervisedSettings() if arguments.full else SMALL,
        iterations=arguments.iterations,
        validation_interval=arguments.iterations,  # weights are not chosen, so one at the end will do
    )
    records = measure(settings, arguments)
    facts = {
        "machine": diagnose()["machine"],
        "torch": torch.__version__,
        "threads": arguments.threads,
        "settings": asdict(settings),
        "records": records,
    }
    tell(show(records), facts, arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of HDF5 slices")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="published sizes, every group of blocks")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.threads < 1:
        parser.error("--seeds and --threads must be 1 or more")
    return exit_code(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
