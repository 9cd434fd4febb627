"""A picture of the synthetic scenes that the prior learns from: a row for each family, figures outlined.

    python studies/prior_scenes.py --output FILE.png [--only FAMILY ...] [--count 8] [--side 96] [--seed 0]

Points that are asked for are blue, points that are not are red, boxes are yellow.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from script import exit_code

from msformer_deploy.errors import UsageError, printable
from msformer_deploy.training.prior.scenes import FAMILIES, Scene, scene

FIGURE, POSITIVE, NEGATIVE, BOX = (0, 255, 80), (40, 90, 255), (255, 40, 40), (255, 230, 0)


def drawn(what: Scene) -> NDArray[np.uint8]:
    """A scene as it is, and below it with its figure and prompts, uint8 (2 S, S, 3)."""
    plain = np.rint(what.image.transpose(1, 2, 0) * 255).astype(np.uint8)
    marked = plain.copy()
    positive, negative, box = what.prompts > 0
    for region, colour in ((box, BOX), (what.figure, FIGURE)):
        marked[region & ~ndimage.binary_erosion(region)] = colour
    marked[positive], marked[negative] = POSITIVE, NEGATIVE
    return np.concatenate([plain, marked])


def sheet(families: list[str], count: int, side: int, seed: int) -> NDArray[np.uint8]:
    """A row for each family."""
    rows = [np.concatenate([drawn(scene(seed, i, side, name)) for i in range(count)], axis=1) for name in families]
    return np.concatenate(rows)


def main() -> int:
    """Draw the picture; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--count", type=int, default=8, help="number of scenes of a family; default: 8")
    parser.add_argument("--side", type=int, default=96, help="side of a scene, pixels; default: 96")
    parser.add_argument("--seed", type=int, default=0)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    unknown = [name for name in arguments.only if name not in FAMILIES]
    if unknown:
        raise UsageError(f"there is no family {unknown[0]}; choose among {', '.join(FAMILIES)}")
    if arguments.count < 1 or arguments.seed < 0:
        raise UsageError("--count must be 1 or more, and --seed 0 or more")
    picture = Image.fromarray(sheet(arguments.only, arguments.count, arguments.side, arguments.seed))
    try:
        picture.save(arguments.output)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{printable(arguments.output)}: cannot be written ({error}); choose another --output"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
