"""The prior beside today's masks: mean DSC per data set, and what prompts add.

    python studies/prior.py --data ../shared/data/ph2 ... ../shared/data/zoo/*/ --bundle BUNDLE
        [--weights FILE] [--side 96] [--threads 1] [--pictures FOLDER] [--json FILE] [--markdown FILE]

A data set is a folder with images/ and masks/, paired by name. Columns of the table:

auto, otsu, k-means
    the label-free mask of the bundle, and both baselines of ``msformer_deploy.evaluation``.
prior
    where the prior's probability is above a half.
prior, best threshold
    above the threshold whose expected soft Dice is highest; no truth is needed for that.
best of four
    of auto, otsu and k-means the mask with the highest soft Dice with the prior's probability, where that is at least
    0.9 of what the prior with the best threshold has; else the latter. (Its own mask fits itself best, but the others
    have sharper outlines.) The 0.9 was chosen on the development images, on which the table is made: this column is
    too good for other images.
click, box
    the prior with a point deep in the truth, or with the truth's box.

--pictures draws every image beside the prior's probability, the truth outlined: to be looked at, not to be passed on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from published_protocol import pairs
from scipy import ndimage
from script import exit_code, tell

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.evaluation.baselines import baseline
from msformer_deploy.images.read import InputImage, network_input, read_image
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap
from msformer_deploy.models.prior import MULTIPLE, PROMPTS, SIDE, Prior
from msformer_deploy.training.prior.scenes.prompts import box, disc
from msformer_deploy.weights.prior import load_prior

Mask = NDArray[np.bool_]
Probability = NDArray[np.float32]

COLUMNS = ("auto", "otsu", "k-means", "prior", "prior, best threshold", "best of four", "click", "box")
NEAR = 0.9  # share of the soft Dice of the prior's own mask from which another mask is preferred
THRESHOLDS = np.linspace(0.1, 0.9, 17)
PICTURE = 128  # pixels of the side of an image in a picture
OUTLINE = (0, 255, 80)


class Judged(NamedTuple):
    """One image: DSC by column, the expected soft Dice of the prior's mask, and a picture if wanted."""

    scores: dict[str, float]
    expected: float
    picture: NDArray[np.uint8]


class Seen:
    """An image as the prior sees it.

    Args:
        network: in evaluation mode.
        image: of any size.
        side: at which the prior works.
    """

    def __init__(self, network: Prior, image: InputImage, side: int) -> None:
        self._network, self._side, self._size = network, side, (image.width, image.height)
        pixels = network_input(image, side)[::-1]  # RGB
        self._pixels = torch.from_numpy(np.ascontiguousarray(pixels))[None]

    def probability(self, prompts: Probability | None = None) -> tuple[Probability, Probability]:
        """The probability of figure, float32: (S, S) at the prior's side, then (H, W) at the image's size."""
        empty = torch.zeros(1, PROMPTS, self._side, self._side)
        given = empty if prompts is None else torch.from_numpy(prompts)[None]
        with torch.inference_mode():
            small = self._network(self._pixels, given).sigmoid()[0, 0].numpy()
        return small, np.asarray(Image.fromarray(small).resize(self._size, Image.Resampling.BILINEAR))


def soft_dice(probability: Probability, mask: Mask) -> float:
    """Soft Dice of a mask with a probability of another size: the DSC to expect where the probability is right."""
    share = shrunk(mask, probability.shape[0])
    return float(2 * (probability * share).sum() / max(probability.sum() + share.sum(), 1e-6))


def shrunk(mask: Mask, side: int) -> Probability:
    """The share 0..1 of each pixel that a mask covers, float32 (side, side)."""
    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float32) / 255


def best_threshold(probability: Probability) -> tuple[float, float]:
    """The threshold with the highest expected soft Dice, and that."""
    total = probability.sum()
    inside = [probability > each for each in THRESHOLDS]
    expected = [float(2 * probability[each].sum() / max(total + each.sum(), 1e-6)) for each in inside]
    best = int(np.argmax(expected))
    return float(THRESHOLDS[best]), expected[best]


def click_on(truth: Mask, side: int) -> Probability:
    """Prompts (3, S, S): one point, where the truth is thickest."""
    depth = ndimage.distance_transform_edt(np.pad(truth, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), truth.shape)
    prompts = np.zeros((PROMPTS, side, side), np.float32)
    prompts[0] = disc(side, row * side / truth.shape[0], column * side / truth.shape[1])
    return prompts


def box_around(truth: Mask, side: int) -> Probability:
    """Prompts (3, S, S): the box of the truth."""
    prompts = np.zeros((PROMPTS, side, side), np.float32)
    edges = []
    for axis, length in ((1, truth.shape[0]), (0, truth.shape[1])):
        inside = np.flatnonzero(truth.any(axis=axis))
        edges.append((int(inside[0] * side / length), -int(-(inside[-1] + 1) * side // length)))
    (top, bottom), (left, right) = edges
    prompts[2] = box(side, top, left, bottom, right)
    return prompts


def judge(image: InputImage, truth: Mask, auto: Mask, network: Prior, side: int) -> Judged:
    """Every column of one image."""
    seen = Seen(network, image, side)
    small, full = seen.probability()
    threshold, expected = best_threshold(small)
    masks = {"auto": auto, "otsu": baseline("otsu", image), "k-means": baseline("kmeans", image)}
    rival = max(masks.values(), key=lambda mask: soft_dice(small, mask))
    own = masks["prior, best threshold"] = full > threshold
    masks["best of four"] = rival if soft_dice(small, rival) >= NEAR * soft_dice(small, own) else own
    masks["prior"] = full > 0.5
    if truth.any():
        masks["click"] = seen.probability(click_on(truth, side))[1] > 0.5
        masks["box"] = seen.probability(box_around(truth, side))[1] > 0.5
    scores = {name: overlap(mask, truth).dsc for name, mask in masks.items()}
    return Judged(scores, expected, picture_of(image, truth, full))


def picture_of(image: InputImage, truth: Mask, probability: Probability) -> NDArray[np.uint8]:
    """The image with the truth's outline, and the probability beside it."""
    size = (PICTURE, PICTURE)
    shown = np.array(Image.fromarray(image.display()).resize(size, Image.Resampling.BILINEAR))
    inside = shrunk(truth, PICTURE) > 0.5
    shown[inside & ~ndimage.binary_erosion(inside)] = OUTLINE
    grey = np.asarray(Image.fromarray((probability * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))
    return np.concatenate([shown, np.repeat(grey[:, :, None], 3, axis=2)], axis=1)


def table_of(means: dict[str, dict[str, float]], counts: dict[str, int]) -> str:
    """Markdown: a row for each data set, and the mean over them."""
    lines = [f"| mean DSC | images | {' | '.join(COLUMNS)} |", "|---|---" + "|---" * len(COLUMNS) + "|"]
    overall = {name: float(np.mean([each[name] for each in means.values()])) for name in COLUMNS}
    rows = {**means, "mean of data sets": overall}
    for source, row in rows.items():
        numbers = " | ".join(f"{row[name]:.3f}" for name in COLUMNS)
        lines.append(f"| {source} | {counts.get(source, sum(counts.values()))} | {numbers} |")
    return "\n".join(lines) + "\n"


def write_pictures(judged: Sequence[Judged], path: Path) -> None:
    """All images of a data set, four in a row."""
    rows = [judged[first : first + 4] for first in range(0, len(judged), 4)]
    empty = np.zeros_like(judged[0].picture)
    strips = [np.concatenate([each.picture for each in row] + [empty] * (4 - len(row)), axis=1) for row in rows]
    Image.fromarray(np.concatenate(strips)).save(path)


def main() -> int:
    """Judge all images; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True, help="bundle of the auto column")
    parser.add_argument("--weights", type=Path, help="weights of the prior; default: those of the package")
    parser.add_argument("--side", type=int, default=SIDE, help=f"side of the prior, pixels; default: {SIDE}")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of torch; default: 1")
    parser.add_argument("--pictures", type=Path, help="folder for pictures with photographs, for local viewing")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    if arguments.side < MULTIPLE or arguments.side % MULTIPLE or arguments.threads < 1:
        raise UsageError(f"--side must be a multiple of {MULTIPLE}, and --threads 1 or more")
    sources = {folder: pairs(folder) for folder in arguments.data}
    torch.set_num_threads(arguments.threads)
    network, segmenter = load_prior(arguments.weights), Segmenter(load_bundle(arguments.bundle))
    facts: dict[str, list[dict[str, float]]] = {}
    for folder, found in sources.items():
        judged = []
        for path, mask in found:
            image = read_image(path)
            judged.append(
                judge(image, published_truth(mask, None), segmenter.segment(path).mask, network, arguments.side)
            )
        facts[folder.name] = [{**each.scores, "expected": each.expected} for each in judged]
        print(f"{folder.name}: {len(judged)} images", file=sys.stderr, flush=True)
        if arguments.pictures:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            write_pictures(judged, arguments.pictures / f"{folder.name}.png")
    means = {
        source: {name: float(np.mean([each[name] for each in images if name in each])) for name in COLUMNS}
        for source, images in facts.items()
    }
    tell(table_of(means, {source: len(images) for source, images in facts.items()}), facts, arguments)


if __name__ == "__main__":
    sys.exit(main())
