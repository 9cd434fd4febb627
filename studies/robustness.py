"""What other exposures, colours, views and cameras do to label-free masks: DSC on altered images, beside Otsu's.

    python studies/robustness.py --data ../shared/data/ph2 ../shared/data/polyp --bundle BUNDLE [--bundle BUNDLE]
        [--only NAME ...] [--foreground auto] [--threads 1] [--limit N] [--json FILE] [--markdown FILE]

A data set is a folder with images/ and masks/, paired by name. Every image is altered in each way of ALTERATIONS,
its truth along with it where that moves pixels, and segmented with the bundle's own settings. Images without colours
get none, and no black corners.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from published_protocol import pairs
from scipy import ndimage
from script import exit_code, tell

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.evaluation.baselines import baseline
from msformer_deploy.images.read import image_from_array, read_image, resize_nearest
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Mask = NDArray[np.bool_]
Alteration = Callable[[Pixels, Mask], tuple[Pixels, Mask]]

UNCHANGED = "unchanged"
CROPPED = 0.1  # of the sides, at either end
ROUND = 0.52  # of the longer side, radius
NOISE = 8.0  # grey levels, standard deviation
BLUR = 0.008  # of the shorter side, standard deviation
QUALITY = 30  # of JPEG
MOVED = 0.1  # of DSC: a mask that changes by more is told


def moved(move: Callable[[NDArray[Any]], NDArray[Any]]) -> Alteration:
    """Pixels and truth in other places."""
    return lambda pixels, truth: (np.ascontiguousarray(move(pixels)), np.ascontiguousarray(move(truth)))


def lit(light: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Alteration:
    """Intensities 0 to 1 made others, cut to that range."""
    return lambda pixels, truth: (np.rint(np.clip(light(pixels / 255), 0, 1) * 255).astype(np.uint8), truth)


def tinted(red: float, blue: float) -> Alteration:
    """Channels by factors, where there are colours."""
    change = lit(lambda values: values * (red, 1, blue))
    return lambda pixels, truth: change(pixels, truth) if np.ptp(pixels, axis=2).any() else (pixels, truth)


def without_margin(array: NDArray[Any]) -> NDArray[Any]:
    """What is left without a part of either side."""
    rows, columns = (round(CROPPED * length) for length in array.shape[:2])
    return array[rows:-rows, columns:-columns]


def round_view(pixels: Pixels, truth: Mask) -> tuple[Pixels, Mask]:
    """As through a dermoscope: black outside a circle a little wider than the image, where there are colours."""
    if not np.ptp(pixels, axis=2).any():
        return pixels, truth
    height, width = truth.shape
    rows, columns = np.mgrid[:height, :width] - np.reshape([(height - 1) / 2, (width - 1) / 2], (2, 1, 1))
    seen = np.hypot(rows, columns) < ROUND * max(truth.shape)
    return pixels * seen[:, :, None].astype(np.uint8), truth & seen


def halved(pixels: Pixels, truth: Mask) -> tuple[Pixels, Mask]:
    """At half the size."""
    height, width = truth.shape[0] // 2, truth.shape[1] // 2
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small), resize_nearest(truth, height, width)


def noisy(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """With the same noise each time, equal in all channels."""
    noise = np.random.default_rng(0).normal(0, NOISE / 255, values.shape[:2])
    return values + noise[:, :, None]


def blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """As out of focus."""
    width = BLUR * min(values.shape[:2])
    return ndimage.gaussian_filter(values, (width, width, 0))


def compressed(pixels: Pixels, truth: Mask) -> tuple[Pixels, Mask]:
    """After JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(file)), truth


ALTERATIONS: dict[str, Alteration] = {
    UNCHANGED: lambda pixels, truth: (pixels, truth),
    "mirrored": moved(np.fliplr),
    "upside down": moved(np.flipud),
    "turned by 90 degrees": moved(np.rot90),
    "margins of 10 % cut off": moved(without_margin),
    "black corners": round_view,
    "half the size": halved,
    "gamma 0.7": lit(lambda values: values**0.7),
    "gamma 1.4": lit(lambda values: values**1.4),
    "0.7 of the light": lit(lambda values: values * 0.7),
    "1.3 of the light": lit(lambda values: values * 1.3),
    "levels 16 to 235": lit(lambda values: (16 + values * 219) / 255),
    "red +10 %, blue -10 %": tinted(1.1, 0.9),
    "red -10 %, blue +10 %": tinted(0.9, 1.1),
    "noise": lit(noisy),
    "out of focus": lit(blurred),
    "JPEG, quality 30": compressed,
}


def chosen(only: Sequence[str] | None) -> list[str]:
    """The alterations to try.

    Raises:
        UsageError: one is unknown.
    """
    for name in only or ():
        if name not in ALTERATIONS:
            raise UsageError(f"alteration {name!r} is unknown; choose of {', '.join(map(repr, ALTERATIONS))}")
    return list(only or ALTERATIONS)


def measure(folder: Path, segmenters: Sequence[Segmenter], names: Sequence[str], limit: int | None) -> dict[str, Any]:
    """DSC by alteration: ours, image by image and bundle by bundle, and Otsu's, image by image."""
    found: dict[str, Any] = {name: {"ours": [], "otsu": []} for name in names}
    for path, mask in pairs(folder)[:limit]:
        pixels, truth = read_image(path).display(), published_truth(mask, None)
        for name in names:
            altered, moved_truth = ALTERATIONS[name](pixels, truth)
            image = image_from_array(altered, path.name)
            found[name]["otsu"].append(overlap(baseline("otsu", image), moved_truth).dsc)
            masks = [segmenter.segment(image).mask for segmenter in segmenters]
            found[name]["ours"].append([overlap(each, moved_truth).dsc for each in masks])
    return found


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """A row per alteration; for each data set our DSC, how many masks became worse and better by more, and Otsu's."""
    sources = list(found)
    names = list(found[sources[0]])
    header = ["", *(cell for source in sources for cell in (source, f"moved by more than {MOVED:g}", "Otsu"))]
    lines = [header, ["---"] * len(header)]
    for name in names:
        cells = [cell for source in sources for cell in cells_of(found[source], name, names[0])]
        lines.append([name, *cells])
    if others := names[1:]:
        cells = [
            cell
            for source in sources
            for cell in (mean_of(found[source], others, "ours"), "", mean_of(found[source], others, "otsu"))
        ]
        lines.append(["mean of all but the first", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def cells_of(found: dict[str, Any], name: str, first: str) -> list[str]:
    """What the table tells of a data set under one alteration, beside the first."""
    change = np.array(found[name]["ours"]) - np.array(found[first]["ours"])
    moved_by = f"-{(change < -MOVED).sum()} +{(change > MOVED).sum()}" if name != first else ""
    return [mean_of(found, [name], "ours"), moved_by, mean_of(found, [name], "otsu")]


def mean_of(found: dict[str, Any], names: Sequence[str], whose: str) -> str:
    """DSC over images, bundles and alterations."""
    return f"{np.mean([np.mean(found[name][whose]) for name in names]):.3f}"


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    names = chosen(arguments.only)
    segmenters = [
        Segmenter(load_bundle(path), foreground_rule=arguments.foreground, threads=arguments.threads)
        for path in arguments.bundle
    ]
    found = {folder.name: measure(folder, segmenters, names, arguments.limit) for folder in arguments.data}
    tell(markdown(found), {"dsc": found}, arguments)


def main() -> int:
    """Measure, print the table; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--bundle", action="append", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--foreground", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--limit", type=int, help="judge at most so many images of a data set")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return exit_code(run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
