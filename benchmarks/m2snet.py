"""M2SNet or MSNet, trained on part of a small data set and judged on the rest, all by the command line.

    python benchmarks/m2snet.py --data ../shared/data/ph2 [--hold-out 8] [--side 128] [--epochs 100] [--device cuda]
        [--precision fp16] [--folder DIR]

Images evenly spread over the names are held out. The others train with ``msformer-deploy train`` from random weights,
without validation, so that nothing is chosen by what is held out: the last weights are judged. Then ``export``,
``evaluate`` beside Otsu's threshold and k-means, and ``benchmark`` of the bundle. ``--folder`` keeps what is made. From
random weights the backbone learns at the full rate (``--published-lr``).
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from published_protocol import pairs
from script import exit_code

from msformer_deploy.cli import call
from msformer_deploy.errors import DeployError, UsageError

Pairs = list[tuple[Path, Path]]


def main() -> None:
    """Train, export and judge; print losses, scores and seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--system", choices=("msnet", "m2snet"), default="m2snet")
    parser.add_argument("--hold-out", type=int, default=8, help="images")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--lr", type=float, default=0.025, help="largest; half of the published one for half its batch")
    parser.add_argument("--rotation", type=float, default=180, help="degrees at most; dermoscopy has no up")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="of training and bundle")
    parser.add_argument("--folder", type=Path, help="keep run, bundle and reports there")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        arguments.folder = arguments.folder or Path(temporary)
        sys.exit(exit_code(train_and_judge, arguments))


def train_and_judge(arguments: argparse.Namespace) -> None:
    """All of it, in ``arguments.folder``.

    Raises:
        UsageError: there are too few images, or the folder holds such results already.
        DeployError: a command failed, which said why.
    """
    folder: Path = arguments.folder
    training, held_out = split(pairs(arguments.data), arguments.hold_out)
    for name, part in (("training", training), ("held-out", held_out)):
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        for image, mask in part:
            shutil.copyfile(image, folder / name / "images" / image.name)
            shutil.copyfile(mask, folder / name / "masks" / f"{image.stem}{mask.suffix}")
    sides = ("--side", arguments.side, "--scales", f"{arguments.side - 32},{arguments.side}")
    start = time.perf_counter()
    run(
        *("train", "--system", arguments.system, "--output", folder / "run", *sides, "--published-lr"),
        *("--images", folder / "training" / "images", "--masks", folder / "training" / "masks", "--validation", 0),
        *("--lr", arguments.lr, "--rotation", arguments.rotation),
        *("--epochs", arguments.epochs, "--batch", arguments.batch, "--threads", arguments.threads),
        *("--device", arguments.device, "--precision", arguments.precision),
    )
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
    report = folder / "evaluation.json"
    run("evaluate", *truth, "--bundle", bundle, "--protocol", "label-free", "--json", report, "-q")
    proof = json.loads((bundle / "bundle.json").read_text())["validation"]["encoder.onnx"]["features"]
    print(f"export: within {proof['relative']:.1e} of torch")
    run("benchmark", bundle, "--images", truth[1], "--device", arguments.device, "-q")


def split(data: Pairs, count: int) -> tuple[Pairs, Pairs]:
    """Images with masks to train on, and those held out: so many, evenly spread.

    Raises:
        UsageError: too few would be left.
    """
    if not 0 < count < len(data) - 1:
        raise UsageError(f"{count} of {len(data)} images held out leaves too few; change --hold-out")
    chosen = {(2 * place + 1) * len(data) // (2 * count) for place in range(count)}
    taken = [(pair, place in chosen) for place, pair in enumerate(data)]
    return [pair for pair, held_out in taken if not held_out], [pair for pair, held_out in taken if held_out]


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
