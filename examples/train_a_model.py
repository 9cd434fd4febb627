"""Train a network on corrected masks, export it as a bundle, and segment with it. Needs the extra [train].

The label-free masks of ``msformer-deploy run`` are a start: correct them in a paint program, where they are, then let
M2SNet learn from them. The folder of results is the folder of masks: ``a.jpg.mask.png`` is the mask of ``a.jpg``.

    python examples/train_a_model.py --images images --masks masks --output trained --epochs 50

Without images and masks, the script learns from the sample images and their uncorrected masks. That shows the steps;
three images and one pass over them are too few for a useful network.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from msformer_deploy.images.samples import sample_images


def call(*arguments: object) -> None:
    code = subprocess.run([sys.executable, "-m", "msformer_deploy", *map(str, arguments)], check=False).returncode
    if code != 0:
        sys.exit(code)  # the command has said why


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--output", type=Path, default=Path("trained"))
    parser.add_argument("--epochs", type=int, default=1, help="passes over the images")
    parser.add_argument("--side", type=int, default=352, help="of the square that the network sees; a multiple of 32")
    options = parser.parse_args()
    if (options.images is None) != (options.masks is None):
        parser.error("pass both --images and --masks, or neither")

    output, images, masks = options.output, options.images, options.masks
    if images is None:
        images, masks = output / "images", output / "masks"
        images.mkdir(parents=True, exist_ok=True)
        for path in sample_images():
            shutil.copy(path, images)
        call("run", images, "--output", masks)  # here a person would correct masks/*.mask.png

    run, bundle = output / "run", output / "bundle"
    sizes = ("--epochs", options.epochs, "--side", options.side)
    call("train", "--system", "m2snet", "--images", images, "--masks", masks, "--output", run, *sizes)
    call("export", "--system", "m2snet", "--weights", run / "best.safetensors", "--output", bundle)
    call("run", images, "--bundle", bundle, "--output", output / "results")


if __name__ == "__main__":
    main()
