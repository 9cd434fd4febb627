"""What each part of the mask is worth, and which of its constants would be chosen without a data set for that data set.

    python studies/figure.py --data ../shared/data/ph2 ... ../shared/data/zoo/*/ --bundle BUNDLE [--threads 2]
        [--json FILE] [--markdown FILE]

A data set is a folder with images/ and masks/, paired by name; each counts the same. The mask is that of
``models/figure.py``, learned on the features of the bundle's encoder. A variation leaves a part out or changes one
constant. Column *chosen* is the choice without the data set: of all variations that keep every part, the one with the
highest mean over the other data sets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from published_protocol import pairs
from script import exit_code, tell
from torch import Tensor

from msformer_deploy import load_bundle
from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.errors import UsageError
from msformer_deploy.foreground import borders
from msformer_deploy.foreground.frame import without_frame
from msformer_deploy.foreground.threshold import threshold_of
from msformer_deploy.foreground.view import View
from msformer_deploy.images.read import network_input, read_image, resize_linear
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap
from msformer_deploy.models import figure
from msformer_deploy.models.figure import Figure
from msformer_deploy.weights.prior import load_prior

DEFAULT = "default"
HALF = "threshold 0.5"
CHOSEN = "chosen"
Features = NDArray[np.float32]
Find = Callable[[Figure, Tensor, Tensor], Tensor]  # probability (1, S, S) of images (1, 3, S, S) and their features


def whole(model: Figure, images: Tensor, features: Tensor) -> Tensor:
    """All parts."""
    return model(images, features)


def prior_alone(model: Figure, images: Tensor, features: Tensor) -> Tensor:
    """No learning and no edges."""
    return figure.resized(model.known(images), model.to_image).sigmoid()[:, 0]


def one_look(model: Figure, images: Tensor, features: Tensor) -> Tensor:
    """No learning, no edges, and the prior sees the image once, at its largest side and not mirrored."""
    rgb = images.flip(1)
    small = figure.resized(rgb, getattr(model, f"to_{figure.SIDES[-1]}"))
    logits = model.prior(small, torch.zeros_like(small))
    return figure.resized(logits, model.to_image).sigmoid()[:, 0]


# Constants of models/figure.py that are changed, or a part that is left out.
PARTS: dict[str, Find] = {"prior, one look": one_look, "prior, four looks": prior_alone}
CONSTANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no learning": {"GAIN": 0.0},
    "no edges": {"CONTRAST": 1e3, "RADIUS": 0.0},
    "gain x 1/2": {"GAIN": figure.GAIN / 2},
    "gain x 2": {"GAIN": figure.GAIN * 2},
    "ridge x 1/10": {"RIDGE": figure.RIDGE / 10},
    "ridge x 10": {"RIDGE": figure.RIDGE * 10},
    "grid x 1/2": {"GRID": figure.GRID // 2},
    "window x 1/2": {"RADIUS": figure.RADIUS / 2},
    "window x 2": {"RADIUS": figure.RADIUS * 2},
    "contrast x 1/10": {"CONTRAST": figure.CONTRAST / 10},
    "contrast x 10": {"CONTRAST": figure.CONTRAST * 10},
}
WITHOUT = ("no learning", "no edges")  # not chosen among


class Varied:
    """The figure of images of a side, by every variation."""

    def __init__(self, side: int) -> None:
        prior = load_prior()
        self._models: dict[str, Figure] = {}
        for name, constants in CONSTANTS.items():
            with _changed(constants):
                self._models[name] = Figure(prior, side)

    @torch.inference_mode()
    def probabilities(self, pixels: NDArray[np.float32], features: Features) -> dict[str, NDArray[np.float32]]:
        """By the variation's name, float32 (S, S), of an image (3, S, S) with its features (1, C, S, S)."""
        images, known = torch.from_numpy(pixels[None]), torch.from_numpy(features)
        found = {name: find(self._models[DEFAULT], images, known) for name, find in PARTS.items()}
        for name, constants in CONSTANTS.items():
            with _changed(constants):
                found[name] = whole(self._models[name], images, known)
        return {name: each[0].numpy() for name, each in found.items()}


def _changed(constants: dict[str, Any]) -> ExitStack:
    stack = ExitStack()
    for name, value in constants.items():
        stack.enter_context(patch.object(figure, name, value))
    return stack


def chosen_without(means: dict[str, dict[str, float]]) -> dict[str, str]:
    """For each data set the variation with the highest mean over the others; of equal ones the first.

    Args:
        means: by data set, then by variation.
    """
    candidates = [name for name in CONSTANTS if name not in WITHOUT]
    return {
        source: max(candidates, key=lambda name: np.mean([row[name] for each, row in means.items() if each != source]))
        for source in means
    }


def table_of(means: dict[str, dict[str, float]], counts: dict[str, int], chosen: dict[str, str]) -> str:
    """Markdown: a row for each variation, a column for each data set, and the choice without it."""
    names = [*PARTS, *CONSTANTS, HALF]
    lines = ["| mean DSC | mean | " + " | ".join(means) + " |", "|---" * (len(means) + 2) + "|"]
    lines.append(f"| images | {sum(counts.values())} | " + " | ".join(str(counts[source]) for source in means) + " |")
    for name in names:
        values = [row[name] for row in means.values()]
        lines.append(f"| {name} | {np.mean(values):.3f} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    values = [means[source][name] for source, name in chosen.items()]
    lines.append(f"| {CHOSEN} | {np.mean(values):.3f} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    lines.append("| which was | | " + " | ".join(chosen.values()) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Judge all variations; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1, help="number of threads; default: 1")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    if arguments.threads < 1 or len(arguments.data) < 2:
        raise UsageError("--threads must be 1 or more, and --data needs two data sets or more")
    torch.set_num_threads(arguments.threads)
    bundle = load_bundle(arguments.bundle)
    side = bundle.sizes.side
    varied = Varied(side)
    means: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    with open_backend("auto", bundle, Device("cpu"), arguments.threads) as encoder:
        for folder in arguments.data:
            scores: dict[str, list[float]] = {}
            for path, mask in pairs(folder):
                image, truth = read_image(path), published_truth(mask, None)
                pixels = without_frame(network_input(image, side), View(network_input(image, borders.SIDE)))
                features = np.ascontiguousarray(encoder.encode(pixels[None]).features)
                for name, each in varied.probabilities(pixels, features).items():
                    at_size = resize_linear(each, image.height, image.width)
                    scores.setdefault(name, []).append(overlap(at_size > threshold_of(each), truth).dsc)
                    if name == DEFAULT:
                        scores.setdefault(HALF, []).append(overlap(at_size > 0.5, truth).dsc)
            means[folder.name] = {name: float(np.mean(values)) for name, values in scores.items()}
            counts[folder.name] = len(scores[DEFAULT])
            print(f"{folder.name}: {counts[folder.name]} images", file=sys.stderr, flush=True)
    chosen = chosen_without(means)
    tell(table_of(means, counts, chosen), {"means": means, "images": counts, "chosen": chosen}, arguments)


if __name__ == "__main__":
    sys.exit(main())
