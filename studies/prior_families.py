"""What the families of synthetic scenes are worth: short runs of the prior's training, each without some of them.

    python studies/prior_families.py --data ../shared/data/ph2 ... ../shared/data/zoo/*/ --work FOLDER
        [--scenes 12800] [--threads 2] [--json FILE] [--markdown FILE]

A data set is a folder with images/ and masks/, paired by name; each counts the same. All runs have the same number of
scenes, so what is left out is replaced by more of the rest. One run has all families and another seed: it shows how
much of a difference is chance. The runs are much shorter than the one of the shipped weights: differences between them
say which family helps which images, not what the shipped prior would lose.
The mask is that of the prior alone, seen four times as in ``models/figure.py``, without learning and edges.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from published_protocol import pairs
from safetensors.torch import load_file
from script import exit_code, tell

from msformer_deploy.errors import UsageError
from msformer_deploy.foreground import borders
from msformer_deploy.foreground.frame import without_frame
from msformer_deploy.foreground.threshold import threshold_of
from msformer_deploy.foreground.view import View
from msformer_deploy.images.read import network_input, read_image, resize_linear
from msformer_deploy.images.truth import published_truth
from msformer_deploy.machine.cores import give_torch
from msformer_deploy.measures.overlap import overlap
from msformer_deploy.models.figure import Figure
from msformer_deploy.models.prior import Prior
from msformer_deploy.training.loop import run_folder
from msformer_deploy.training.loop.devices import open_fabric
from msformer_deploy.training.loop.loop import train
from msformer_deploy.training.prior.recipe import PriorRecipe, PriorSettings
from msformer_deploy.training.prior.scenes import FAMILIES, LATE

SIDE = 97  # pixels of the images that the prior sees
TRAINED = (64,)  # pixels of the scenes
ALL = "all families"
AGAIN = "all, another seed"
GENERAL = ("blobs", "bodies", "many")
GROUPS: dict[str, tuple[str, ...]] = {
    ALL: (),
    AGAIN: (),
    "no general ones": GENERAL,
    "no endoscopy": ("polyp", "lesion_endoscopy", "colonoscopy"),
    "no ultrasound": ("lesion_us", "fetal_head", "chamber_us", "breast_us"),
    "no magnetic resonance": ("brain_tumour", "heart", "bladder", "prostate", "spine"),
    "no microscopy": ("white_cell", "blood_smear", "fluorescence", "histology", "angiography"),
    "no X-ray, no CT": ("lung_ct", "chest_xray", "abdomen_ct", "panoramic", "breast_xray", "bones_xray"),
    "general ones only": tuple(name for name in FAMILIES if name not in GENERAL),
}


@contextmanager
def without(names: tuple[str, ...]) -> Iterator[None]:
    """Give families no weight, early and late in a run."""
    families = {name: (draw, 0.0 if name in names else weight) for name, (draw, weight) in FAMILIES.items()}
    late = {name: 0.0 if name in names else weight for name, weight in LATE.items()}
    with patch.dict(FAMILIES, families), patch.dict(LATE, late):
        yield


def trained(names: tuple[str, ...], scenes: int, folder: Path, seed: int) -> Prior:
    """A prior from a short run without some families; a finished run in the folder is not made again."""
    weights = folder / "last.safetensors"
    if not weights.is_file():
        with without(names):
            recipe = PriorRecipe(PriorSettings(scenes=scenes, sides=TRAINED, seed=seed))
            fabric = open_fabric("cpu")
            run_folder.begin(folder, recipe.record, fabric, "fp32", resume=False)
            fabric.launch()
            train(recipe, folder, fabric, resume=False)
    network = Prior()
    network.load_state_dict(load_file(weights))
    return network.eval()


class Case:
    """An image as the prior sees it, and its truth."""

    def __init__(self, path: Path, mask: Path) -> None:
        image = read_image(path)
        self.truth: NDArray[np.bool_] = published_truth(mask, None)
        pixels = without_frame(network_input(image, SIDE), View(network_input(image, borders.SIDE)))
        self.pixels = torch.from_numpy(np.ascontiguousarray(pixels))[None]


@torch.inference_mode()
def judged(network: Prior, cases: list[Case]) -> float:
    """Mean DSC of the prior alone."""
    figure, scores = Figure(network, SIDE), []
    for case in cases:
        probability = figure.known(case.pixels).sigmoid()[0, 0].numpy()
        mask = resize_linear(probability, *case.truth.shape) > threshold_of(probability)
        scores.append(overlap(mask, case.truth).dsc)
    return float(np.mean(scores))


def table_of(means: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each data set, a column for each run."""
    sources = list(means[ALL])
    lines = ["| mean DSC | " + " | ".join(means) + " |", "|---" * (len(means) + 1) + "|"]
    lines += [f"| {each} | " + " | ".join(f"{row[each]:.3f}" for row in means.values()) + " |" for each in sources]
    overall = (f"{np.mean(list(row.values())):.3f}" for row in means.values())
    return "\n".join([*lines, "| mean of data sets | " + " | ".join(overall) + " |"]) + "\n"


def main() -> int:
    """Train and judge; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs, kept")
    parser.add_argument("--scenes", type=int, default=12_800, help="number of scenes of a run; default: 12800")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of the training; default: 1")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    if arguments.threads < 1 or arguments.scenes < 1:
        raise UsageError("--threads and --scenes must be 1 or more")
    give_torch(arguments.threads)
    cases = {folder.name: [Case(*each) for each in pairs(folder)] for folder in arguments.data}
    means: dict[str, dict[str, float]] = {}
    for name, names in GROUPS.items():
        folder = arguments.work / name.replace(" ", "-").replace(",", "")
        network = trained(names, arguments.scenes, folder, seed=int(name == AGAIN))
        means[name] = {source: judged(network, found) for source, found in cases.items()}
        print(f"{name}: {np.mean(list(means[name].values())):.3f}", file=sys.stderr, flush=True)
    tell(table_of(means), {"scenes": arguments.scenes, "means": means}, arguments)


if __name__ == "__main__":
    sys.exit(main())
