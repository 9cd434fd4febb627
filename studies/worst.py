"""The worst label-free masks of a bundle: pictures of where they agree with the truth.

    python studies/worst.py --data ../shared/data/ph2 ... --bundle BUNDLE --output FILE [--count 5] [--certain]
        [--photographs]

A data set is a folder with images/ and masks/, paired by name. The picture holds no photograph, so that it can be shown
where the images must not be; --photographs draws the outlines on the photographs instead, to be looked at and not to be
passed on. --certain shows only masks that are not in doubt: what nothing warns of.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from published_protocol import pairs
from script import exit_code

from msformer_deploy import Segmentation, Segmenter, load_bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"both": "#4C9F70", "missed": "#3B6FB6", "false": "#D55E00", "neither": "#F2F2F2"}
TRUTH, MASK = "#00E5FF", "#FFE600"  # outlines on a photograph


ROW = 5  # images


class Judged(NamedTuple):
    """An image, its mask and its truth."""

    source: str
    name: str
    result: Segmentation
    truth: NDArray[np.bool_]
    dsc: float


def judge(folders: Sequence[Path], segmenter: Segmenter) -> Iterator[Judged]:
    """Segment the images of data sets, one after the other."""
    for folder in folders:
        for path, mask in pairs(folder):
            result, truth = segmenter.segment(path), published_truth(mask, None)
            yield Judged(folder.name, path.stem, result, truth, overlap(result.mask, truth).dsc)


def worst_of(judged: Iterator[Judged], count: int, certain: bool) -> list[Judged]:
    """So many images, the worst first.

    Args:
        judged: of which no more are kept than are drawn.
        count: how many.
        certain: leave out masks that are in doubt.
    """
    worst: list[Judged] = []
    for each in judged:
        if not (certain and each.result.confidence.doubt):
            worst = sorted([*worst, each], key=lambda one: one.dsc)[:count]
    return worst


def agreement_picture(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) of pixels in both, in one of two masks, or in neither."""
    colours = [bytes.fromhex(COLOURS[name][1:]) for name in ("neither", "false", "missed", "both")]
    return np.array([list(each) for each in colours], np.uint8)[mask + 2 * truth.astype(np.intp)]


def draw(worst: Sequence[Judged], title: str, path: Path, photographs: bool) -> None:
    """The images, the worst first."""
    from matplotlib.figure import Figure

    rows, columns = -(-len(worst) // ROW), min(len(worst), ROW)
    height = max(each.truth.shape[0] / each.truth.shape[1] for each in worst)
    figure = Figure((2.7 * columns, rows * (2.7 * height + 0.6) + 0.8), dpi=110, layout="constrained")
    plots = figure.subplots(rows, columns, squeeze=False).ravel()
    for plot in plots:
        plot.set_axis_off()
    for plot, each in zip(plots, worst, strict=False):
        (draw_photograph if photographs else draw_agreement)(plot, each)
        expected = each.result.confidence.value
        plot.set_title(
            f"{each.source}: {shortened(each.name)}\nDSC {each.dsc:.2f}, expected {expected:.2f}", fontsize=9
        )
    figure.legend(handles=legend(photographs), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Software": None})


def shortened(name: str) -> str:
    """A name that fits over its picture."""
    return name if len(name) <= 18 else f"{name[:17]}…"


def draw_agreement(plot: Axes, judged: Judged) -> None:
    """Where mask and truth agree."""
    plot.imshow(agreement_picture(judged.result.mask, judged.truth), interpolation="nearest")


def draw_photograph(plot: Axes, judged: Judged) -> None:
    """The image with both outlines."""
    plot.imshow(judged.result.image.display())
    outline(plot, judged.truth, TRUTH, 1.4)
    outline(plot, judged.result.mask, MASK, 1.4)


def outline(plot: Axes, region: NDArray[np.bool_], colour: str, width: float) -> None:
    """The border of a region; none for one that is empty or everything."""
    if region.any() and not region.all():
        plot.contour(region, levels=[0.5], colors=[colour], linewidths=width)


def legend(photographs: bool) -> list[object]:
    """What the colours are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if photographs:
        return [Line2D([], [], color=TRUTH, label="truth"), Line2D([], [], color=MASK, label="label-free mask")]
    told = {"both": "mask and truth", "missed": "missed", "false": "false"}
    return [Patch(color=COLOURS[name], label=label) for name, label in told.items()]


def main() -> int:
    """Judge all images, draw the worst; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the picture, a PNG")
    parser.add_argument("--count", type=int, default=5, help="number of images in the picture; default: 5")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of the encoder; default: 1")
    parser.add_argument("--certain", action="store_true", help="only masks that are not in doubt")
    parser.add_argument("--photographs", action="store_true", help="draw on the photographs, for local viewing")
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    if arguments.count < 1:
        raise UsageError(f"--count must be 1 or more, got {arguments.count}")
    segmenter = Segmenter(load_bundle(arguments.bundle), threads=arguments.threads)
    worst = worst_of(judge(arguments.data, segmenter), arguments.count, arguments.certain)
    if not worst:
        raise UsageError("--data has no image to show")
    kind = "masks that are not in doubt" if arguments.certain else "masks"
    draw(worst, f"The {len(worst)} worst {kind}", arguments.output, arguments.photographs)
    for each in worst:
        print(f"{each.source:<18} {each.name:<28} DSC {each.dsc:.4f}, expected {each.result.confidence.value:.3f}")


if __name__ == "__main__":
    sys.exit(main())
