"""M2SNet or MSNet, trained on part of a small data set and judged on the rest.

    python studies/m2snet.py --data ../shared/data/ph2 --folder DIR [--folds 3] [--fold K] [--side 96] [--epochs 250]
        [--device cuda] [--precision fp16]

Images are dealt to folds in turn by their names, and each fold is held out once. The others train from random weights,
without validation, so that nothing is chosen by what is held out: the last weights are judged. Then the commands
``export``, ``evaluate`` beside Otsu's threshold and k-means, and ``benchmark`` of the bundle. At the end all held-out
images together. ``--fold`` trains one fold only; folds that ``--folder`` has already are not trained again. From random
weights the backbone learns at the full rate, for which the command ``train`` has no option, and so few images want more
variation than the published augmentation has, at a single scale.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np
from published_protocol import pairs
from script import exit_code

from msformer_deploy.cli import call
from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.evaluation.summary import mean_interval
from msformer_deploy.machine.cores import give_torch
from msformer_deploy.training.loop import run_folder
from msformer_deploy.training.loop.devices import open_fabric
from msformer_deploy.training.loop.loop import train
from msformer_deploy.training.supervised.pairs import Split, check, find_pairs
from msformer_deploy.training.supervised.settings import SupervisedSettings
from msformer_deploy.training.supervised.supervised import Supervised

Pairs = list[tuple[Path, Path]]


def main() -> None:
    """Train, export and judge; print losses, scores and seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--system", choices=("msnet", "m2snet"), default="m2snet")
    parser.add_argument("--folder", type=Path, required=True, help="where runs, bundles and reports go")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--fold", type=int, help="only this one, from 0")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--lr", type=float, default=0.05, help="largest")
    parser.add_argument("--weight-decay", type=float, default=0.005)
    parser.add_argument("--rotation", type=float, default=180, help="degrees at most; dermoscopy has no up")
    parser.add_argument("--zoom", type=float, default=1.35, help="factor at most")
    parser.add_argument("--colour", type=float, default=0.2, help="change of light at most")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="of training and bundle")
    sys.exit(exit_code(every_fold, parser.parse_args()))


def every_fold(arguments: argparse.Namespace) -> None:
    """Train and judge what is not there yet, and print means over all that is.

    Raises:
        UsageError: there are too few images, or no such fold, or the folder has folds of other options.
        DeployError: a command failed, which said why.
    """
    data = pairs(arguments.data)
    wanted = range(arguments.folds) if arguments.fold is None else [arguments.fold]
    if not set(wanted) <= set(range(arguments.folds)):
        raise UsageError(f"there is no fold {arguments.fold}; choose one from 0 to {arguments.folds - 1}")
    keep_options(arguments)
    for fold in wanted:
        if not report_of(arguments.folder, fold).exists():
            train_and_judge(*split(data, arguments.folds, fold), arguments.folder / f"fold{fold}", arguments)
    there = [fold for fold in range(arguments.folds) if report_of(arguments.folder, fold).exists()]
    print(show({fold: scores(report_of(arguments.folder, fold)) for fold in there}))


def keep_options(arguments: argparse.Namespace) -> None:
    """Write down what decides the scores beside the folds, which must all be of the same.

    Raises:
        UsageError: the folder has folds of other options.
    """
    options = {name: str(value) for name, value in vars(arguments).items() if name not in ("folder", "fold", "threads")}
    kept = arguments.folder / "options.json"
    if not kept.exists():
        arguments.folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(options, indent=1) + "\n", encoding="utf-8")
    elif json.loads(kept.read_text(encoding="utf-8")) != options:
        raise UsageError(f"{arguments.folder} has folds of other options, see {kept}; choose another --folder")


def report_of(folder: Path, fold: int) -> Path:
    """Scores of a fold, written when it is done."""
    return folder / f"fold{fold}" / "evaluation.json"


def scores(report: Path) -> dict[str, list[float]]:
    """DSC of every held-out image by method, in the order of the images."""
    found: dict[str, list[float]] = {}
    for row in sorted(json.loads(report.read_text(encoding="utf-8"))["rows"], key=lambda row: str(row["image"])):
        found.setdefault(row["method"], []).append(row["dsc"])
    return found


def show(folds: Mapping[int, Mapping[str, Sequence[float]]]) -> str:
    """Mean DSC of each method by fold and over all images, the worst of them, and what the first method gains."""
    methods = list(next(iter(folds.values())))
    lines = ["| | " + " | ".join(f"fold {fold}" for fold in folds) + " | all | median | worst | better on | by, 95 % |"]
    lines.append("|---" * (len(folds) + 6) + "|")
    ours = [each for fold in folds.values() for each in fold[methods[0]]]
    for method in methods:
        every = [each for fold in folds.values() for each in fold[method]]
        gains = np.subtract(ours, every)
        low, high = mean_interval(gains, [str(place) for place in range(len(gains))])
        beside = f"{(gains > 0).sum()} of {len(every)} | {gains.mean():+.3f}, {low or 0:+.3f} to {high or 0:+.3f}"
        beside = " | " if method == methods[0] else beside
        numbers = [*(mean(fold[method]) for fold in folds.values()), mean(every), median(every), min(every)]
        lines.append(f"| {method} | " + " | ".join(f"{each:.3f}" for each in numbers) + f" | {beside} |")
    return "\n".join(lines)


def train_and_judge(training: Pairs, held_out: Pairs, folder: Path, arguments: argparse.Namespace) -> None:
    """One fold, in its folder; what an earlier try has left there is replaced.

    Raises:
        DeployError: a command failed, which said why.
    """
    if folder.exists():
        shutil.rmtree(folder)
    for name, part in (("training", training), ("held-out", held_out)):
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        for image, mask in part:
            shutil.copyfile(image, folder / name / "images" / image.name)
            shutil.copyfile(mask, folder / name / "masks" / f"{image.stem}{mask.suffix}")
    start = time.perf_counter()
    learn(folder, arguments)
    seconds = time.perf_counter() - start
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["loss/total"]) for row in csv.DictReader(file)]
    print(f"{len(training)} images, {arguments.epochs} epochs at side {arguments.side}: {seconds / 60:.1f} minutes")
    print(f"loss of the first epoch {losses[0]:.3f}, of the last ten {sum(losses[-10:]) / len(losses[-10:]):.3f}")
    bundle = folder / "bundle"
    weights = ("--weights", folder / "run" / "last.safetensors")
    precisions = [each for name in dict.fromkeys(("fp32", arguments.precision)) for each in ("--precision", name)]
    run("export", "--system", arguments.system, *weights, *precisions, "--output", bundle, "-q")
    truth = ("--images", folder / "held-out" / "images", "--masks", folder / "held-out" / "masks")
    proof = json.loads((bundle / "bundle.json").read_text())["validation"]["encoder.onnx"]["features"]
    print(f"export: within {proof['relative']:.1e} of torch")
    run("benchmark", bundle, "--images", truth[1], "--device", arguments.device, "-q")
    run(
        *("evaluate", *truth, "--bundle", bundle, "--protocol", "label-free", "-q"),
        *("--json", folder / "evaluation.json"),
    )


def learn(folder: Path, arguments: argparse.Namespace) -> None:
    """Train on the images in ``training`` of a fold's folder; the run is in ``run``.

    Raises:
        DeployError: an image or a mask cannot be used, or the device or its precision is not here.
    """
    settings = SupervisedSettings(
        epochs=arguments.epochs,
        batch=arguments.batch,
        lr=arguments.lr,
        backbone_lr_factor=1.0,
        weight_decay=arguments.weight_decay,
        side=arguments.side,
        scales=(arguments.side,),
        rotation=arguments.rotation,
        zoom=arguments.zoom,
        colour=arguments.colour,
        validation=0.0,
    )
    give_torch(arguments.threads)
    fabric = open_fabric(arguments.device, arguments.precision)
    data = find_pairs(folder / "training" / "images", folder / "training" / "masks")
    recipe = Supervised(arguments.system, settings, Split(data, ()), check(data, lambda: None))
    run_folder.begin(folder / "run", recipe.record, fabric, arguments.precision, resume=False)
    fabric.launch()
    train(recipe, folder / "run", fabric, quiet=True)


def split(data: Pairs, folds: int, fold: int) -> tuple[Pairs, Pairs]:
    """Images with masks to train on, and those held out.

    Raises:
        UsageError: either would be too few.
    """
    if not 1 < folds <= len(data) or len(data) - -(-len(data) // folds) < 2:
        raise UsageError(f"{folds} folds of {len(data)} images leave too few to learn from; change --folds")
    return [each for place, each in enumerate(data) if place % folds != fold], data[fold::folds]


def run(*arguments: object) -> None:
    """One command.

    Raises:
        DeployError: it failed.
    """
    code = call([str(each) for each in arguments])
    if code:
        raise DeployError(f"msformer-deploy {arguments[0]} ended with {code}")


if __name__ == "__main__":
    main()
