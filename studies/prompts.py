"""Masks with prompts on data sets with ground truth, beside GrabCut and a random walker with the same prompts.

    python studies/prompts.py --data ../shared/data/ph2 ../shared/data/polyp ../shared/data/zoo/*/ [--bundle BUNDLE]
        [--threads 2] [--json FILE] [--markdown FILE]

A data set is a folder with images/ and masks/, paired by name. Prompts are drawn from the truth, as by
``evaluate --prompt``: none, a click at its deepest point, its box, and a click with one correction. Printed are the
mean DSC of every data set and the mean over the data sets, with a 95 % interval by bootstrap over images, and the time
that one prompt takes.

GrabCut (Rother et al., 2004) is OpenCV's, with five iterations. The random walker (Grady, 2006) is scikit-image's. Both
are used as somebody would who knows them, with the sizes that gave them the highest mean DSC of those tried on these
images. For both, all that is outside the box, or the image's border where there is none, is ground; an ellipse in the
box, or a disc around the click, is object. GrabCut starts from the rest of the box, or from a wider disc around the
click, as what is probably object; with a second click, from its mask before. Both see the image with its longer side
brought to 160 pixels. Needs opencv-python-headless and msformer-deploy[evaluate].
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from published_protocol import pairs
from script import exit_code, tell

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.evaluation import PROMPTS
from msformer_deploy.evaluation.drawn import box_around, correction, deepest, with_prompts
from msformer_deploy.foreground.prompts import DISC, Box, Point
from msformer_deploy.images.read import read_image, resize_nearest
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap

Mask = NDArray[np.bool_]
Method = Callable[[NDArray[np.uint8], Sequence[Point], "Box | None", "Mask | None"], Mask]

LARGEST = 160  # pixels of the longer side that the other methods see
DRAWS = 2000  # of the bootstrap
CORE = 0.85  # diameters of the ellipse that is surely object, in parts of the box's
CLICK = 0.1  # radius of the disc around the first click that is surely object, in parts of the shorter side
WIDER = 0.2  # and of the one that is probably object for GrabCut
UNKNOWN, OBJECT, GROUND = 0, 1, 2


def seeds(shape: tuple[int, int], points: Sequence[Point], box: Box | None) -> NDArray[np.int32]:
    """Pixels that are known: (H, W), :data:`OBJECT`, :data:`GROUND` or :data:`UNKNOWN`."""
    height, width = shape
    found = np.full(shape, GROUND, np.int32)
    left, top, right, bottom = box or Box(1, 1, width - 2, height - 2)
    found[top : bottom + 1, left : right + 1] = UNKNOWN
    rows, columns = np.ogrid[:height, :width]
    if box is not None:
        down = (rows - (top + bottom) / 2) / ((bottom - top + 1) / 2)
        across = (columns - (left + right) / 2) / ((right - left + 1) / 2)
        found[down**2 + across**2 <= CORE**2] = OBJECT
    for number, point in enumerate(points):
        found[around(shape, point, DISC if number else CLICK)] = OBJECT if point.inside else GROUND
    return found


def around(shape: tuple[int, int], point: Point, radius: float) -> Mask:
    """A disc around a point, with a radius in parts of the shorter side."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows - point.y) ** 2 + (columns - point.x) ** 2 <= (radius * min(shape)) ** 2)


def grabcut(picture: NDArray[np.uint8], points: Sequence[Point], box: Box | None, before: Mask | None = None) -> Mask:
    """The mask of GrabCut. Without pixels that are surely object, it is empty on many grey images."""
    import cv2

    known = seeds(picture.shape[:2], points, box)
    labels = np.array([cv2.GC_PR_FGD, cv2.GC_FGD, cv2.GC_BGD], np.uint8)[known]  # as they are numbered above
    likely = around(picture.shape[:2], points[0], WIDER) if before is None and box is None else before
    if likely is not None:
        labels[(known == UNKNOWN) & ~likely] = cv2.GC_PR_BGD
    ground = (labels == cv2.GC_BGD) | (labels == cv2.GC_PR_BGD)
    if ground.all() or not ground.any():
        return ~ground
    cv2.setRNGSeed(0)
    models = np.zeros((2, 1, 65))
    cv2.grabCut(picture[..., ::-1].copy(), labels, None, models[0], models[1], 5, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def random_walker(
    picture: NDArray[np.uint8], points: Sequence[Point], box: Box | None, before: Mask | None = None
) -> Mask:
    """The mask of a random walker, which starts from nothing but the pixels that are known."""
    from skimage.segmentation import random_walker as walk

    known = seeds(picture.shape[:2], points, box)
    if not (known == OBJECT).any() or not (known == GROUND).any():
        return known != GROUND
    return np.asarray(walk(picture / 255, known, beta=130, mode="cg_j", channel_axis=-1) == OBJECT)


METHODS: dict[str, Method] = {"GrabCut": grabcut, "random walker": random_walker}


def other_mask(method: Method, kind: str, picture: NDArray[np.uint8], truth: Mask) -> Mask:
    """The mask of another method with prompts of a kind, at the truth's size."""
    scale = min(1.0, LARGEST / max(truth.shape))
    height, width = (max(8, round(size * scale)) for size in truth.shape)
    small = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))
    known = resize_nearest(truth, height, width)
    if not known.any():
        return np.zeros_like(truth)
    # The very prompts that our masks got, on the smaller picture.
    scaled = np.array([height, width]) / truth.shape
    points, box = [], None
    if kind == "box":
        left, top, right, bottom = box_around(truth)
        (top, left), (bottom, right) = (
            ((np.array(each) + 0.5) * scaled).astype(int).tolist() for each in ((top, left), (bottom, right))
        )
        box = Box(left, top, right, bottom)
    else:
        click = deepest(truth)[0]
        row, column = ((np.array([click.y, click.x]) + 0.5) * scaled).astype(int).tolist()
        points = [Point(column, row)]
    found = method(small, points, box, None)
    if kind == "click2" and (found != known).any():
        found = method(small, [*points, correction(found, known)], None, found)
    return np.asarray(resize_nearest(found, *truth.shape))


def interval(by_source: Sequence[Sequence[float]], generator: np.random.Generator) -> tuple[float, float]:
    """Of the mean over data sets, 95 %, by bootstrap over the images of each."""
    drawn = np.mean([generator.choice(each, (DRAWS, len(each))).mean(axis=1) for each in by_source], axis=0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def table_of(judged: Sequence[dict[str, Any]]) -> str:
    """A row for each data set, and the mean over them."""
    columns = [*PROMPTS, *(f"{name}: {kind}" for name in METHODS for kind in PROMPTS[1:])]
    generator = np.random.default_rng(0)
    sources = list(dict.fromkeys(each["source"] for each in judged))
    values = {
        name: [[each[name] for each in judged if each["source"] == source] for source in sources] for name in columns
    }
    lines = [f"| mean DSC | images | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 2)]
    for index, source in enumerate(sources):
        means = " | ".join(f"{np.mean(values[name][index]):.3f}" for name in columns)
        lines.append(f"| {source} | {len(values['none'][index])} | {means} |")
    means = " | ".join(f"{np.mean([np.mean(each) for each in values[name]]):.3f}" for name in columns)
    limits = " | ".join("{:.3f} to {:.3f}".format(*interval(values[name], generator)) for name in columns)
    lines += [f"| mean of data sets | {len(judged)} | {means} |", f"| 95 % interval | | {limits} |"]
    lines.append("")
    for kind in PROMPTS[1:]:
        for name in METHODS:
            pairs_of = zip(values[kind], values[f"{name}: {kind}"], strict=True)
            gains = [np.subtract(ours, theirs).tolist() for ours, theirs in pairs_of]
            low, high = interval(gains, generator)
            gain = np.mean([np.mean(each) for each in gains])
            lines.append(f"{kind}, above {name}: {gain:+.3f}; 95 % from {low:+.3f} to {high:+.3f}")
    lines.append("")
    for kind in ("click", "box"):
        times = 1000 * np.array([each[f"seconds of a {kind}"] for each in judged])
        lines.append(
            f"Time of a {kind}, median: {np.median(times):.0f} ms; 95 % within {np.quantile(times, 0.95):.0f} ms."
        )
    return "\n".join(lines) + "\n"


def judge(path: Path, truth: Mask, source: str, segmenter: Segmenter) -> dict[str, Any]:
    """DSC of every mask of one image, and the seconds that a click and a box take."""
    image = read_image(path)
    session = segmenter.open(image)
    found: dict[str, Any] = {"source": source, "name": path.name}
    for kind in PROMPTS:
        found[kind] = overlap(with_prompts(kind, session, truth).mask, truth).dsc
    # Both have been done once before, so that this is not what a first call takes.
    for kind, prompt in (("click", deepest(truth)[0]), ("box", box_around(truth))):
        start = time.perf_counter()
        session.add(prompt)
        found[f"seconds of a {kind}"] = time.perf_counter() - start
        session.undo()
    for name, method in METHODS.items():
        for kind in PROMPTS[1:]:
            found[f"{name}: {kind}"] = overlap(other_mask(method, kind, image.display(), truth), truth).dsc
    return found


def main() -> int:
    """Judge all images; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, help="default: the one of the package")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of the encoder; default: 2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    if arguments.threads < 1:
        raise UsageError("--threads must be 1 or more")
    bundle = None if arguments.bundle is None else load_bundle(arguments.bundle)
    segmenter = Segmenter(bundle, threads=arguments.threads)
    judged: list[dict[str, Any]] = []
    for folder in arguments.data:
        for path, mask in pairs(folder):
            truth = published_truth(mask, None)
            if truth.any():
                judged.append(judge(path, truth, folder.name, segmenter))
        print(f"{folder.name}: {len(judged)} images so far", file=sys.stderr, flush=True)
    tell(table_of(judged), {"images": judged}, arguments)


if __name__ == "__main__":
    sys.exit(main())
