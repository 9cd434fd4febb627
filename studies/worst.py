"""The images on which the label-free mask of the default preset is worst: pictures of where it agrees with the truth.

    python studies/worst.py --data ../shared/data/ph2 ... --output FOLDER [--seeds 0 1 2] [--count 5] [--photographs]

One PNG per data set, ``quality-worst-NAME.png``. Each image is shown under the seed whose DSC is nearest to its mean.
The pictures hold no photograph, so that they can be shown where the images must not be; --photographs draws the
outlines on the photographs instead, into ``photographs-NAME.png``, to be looked at and not to be passed on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from ablation import DEFAULT, Case, Outcome, Task, dsc, tasks_of, variations
from numpy.typing import NDArray
from script import exit_code

from msformer_deploy.errors import UsageError
from msformer_deploy.evaluation import LABEL_FREE
from msformer_deploy.images.read import read_image
from msformer_deploy.images.truth import published_truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"both": "#4C9F70", "missed": "#3B6FB6", "false": "#D55E00", "neither": "#F2F2F2"}
REGIONS = "#222222"
TRUTH, MASK = "#00E5FF", "#FFE600"  # outlines on a photograph


class Judged(NamedTuple):
    """An image under one seed."""

    result: Outcome
    truth: NDArray[np.bool_]
    dsc: float


class Shown(NamedTuple):
    """An image under all seeds, and the one of them that is drawn."""

    name: str
    scores: list[float]
    drawn: Judged

    @property
    def mean(self) -> float:
        """DSC over seeds."""
        return float(np.mean(self.scores))


def judge(task: Task) -> Judged:
    """Segment one image."""
    truth = published_truth(task.mask, None)
    result = variations()[DEFAULT].segment(Case(read_image(task.image), truth, task.seed))
    return Judged(result, truth, dsc(LABEL_FREE, result, truth))


def shown(tasks: Sequence[Task]) -> Shown:
    """One image, its tasks those of all seeds."""
    judged = [judge(task) for task in tasks]
    scores = [each.dsc for each in judged]
    nearest = int(np.abs(np.array(scores) - np.mean(scores)).argmin())
    return Shown(tasks[0].image.stem, scores, judged[nearest])


def worst_of(tasks: Sequence[Task], count: int) -> list[Shown]:
    """So many images, the worst first."""
    by_image: dict[Path, list[Task]] = {}
    for task in tasks:
        by_image.setdefault(task.image, []).append(task)
    worst: list[Shown] = []
    for group in by_image.values():  # no more than are drawn are kept: each is several images of full size
        worst = sorted([*worst, shown(group)], key=lambda each: each.mean)[:count]
    return worst


def agreement_picture(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) of pixels in both, in one of two masks, or in neither."""
    colours = [bytes.fromhex(COLOURS[name][1:]) for name in ("neither", "false", "missed", "both")]
    return np.array([list(each) for each in colours], np.uint8)[mask + 2 * truth.astype(np.intp)]


def draw(worst: Sequence[Shown], title: str, path: Path, photographs: bool) -> None:
    """One row of images, the worst on the left."""
    from matplotlib.figure import Figure

    height = max(each.drawn.truth.shape[0] / each.drawn.truth.shape[1] for each in worst)
    figure = Figure((2.7 * len(worst), 2.7 * height + 1.35), dpi=110, layout="constrained")
    for plot, each in zip(figure.subplots(1, len(worst), squeeze=False)[0], worst, strict=True):
        (draw_photograph if photographs else draw_agreement)(plot, each.drawn)
        seeds = ", ".join(f"{score:.2f}" for score in each.scores)
        plot.set_title(f"{shortened(each.name)}\nDSC {each.mean:.3f}", fontsize=10)
        plot.set_xlabel(f"seeds: {seeds}" if len(each.scores) > 1 else "", fontsize=8)
        plot.set_xticks([])
        plot.set_yticks([])
        plot.spines[:].set_visible(False)
    figure.legend(handles=legend(photographs), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Software": None})


def shortened(name: str) -> str:
    """A name that fits over its picture."""
    return name if len(name) <= 18 else f"{name[:17]}…"


def draw_agreement(plot: Axes, judged: Judged) -> None:
    """Where mask and truth agree, and the borders of the label map's regions."""
    plot.imshow(agreement_picture(judged.result.mask, judged.truth), interpolation="nearest")
    for cluster in np.unique(judged.result.labels)[1:]:
        outline(plot, judged.result.labels == cluster, REGIONS, 0.7)


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
    patches = [Patch(color=COLOURS[name], label=label) for name, label in told.items()]
    return [*patches, Line2D([], [], color=REGIONS, linewidth=0.7, label="borders of the regions")]


def main() -> int:
    """Judge all images, draw the worst; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=5, help="images in a picture")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--photographs", action="store_true", help="draw on the photographs, for local viewing")
    arguments = parser.parse_args()
    return exit_code(run, arguments)


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    if arguments.count < 1:
        raise UsageError(f"--count must be 1 or more, got {arguments.count}")
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    prefix = "photographs" if arguments.photographs else "quality-worst"
    for source, tasks in tasks_of(arguments.data, arguments.seeds, None).items():
        worst = worst_of(tasks, arguments.count)
        path = arguments.output / f"{prefix}-{source}.png"
        images = len({task.image for task in tasks})
        draw(worst, f"{source}: the worst {len(worst)} of {images} images", path, arguments.photographs)
        for each in worst:
            print(f"{source:<10} {each.name:<28} DSC {each.mean:.4f}  {', '.join(f'{s:.4f}' for s in each.scores)}")
        print(path, flush=True)


if __name__ == "__main__":
    sys.exit(main())
