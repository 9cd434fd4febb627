"""DSC against milliseconds for what a preset decides: side, steps, regions, sampling, learning rate, precision.

    python studies/pareto.py --data ../shared/data/ph2 ... [--seeds 0 1 2] --json FILE [--picture FILE] [--retime]

A data set is a folder with images/ and masks/, paired by name, or with HDF5 files in slices/ that hold ``image``
and ``label`` (any label is the object; needs h5py). DSC is that of the published protocol at one size for all sides:
label maps are brought to 257 x 257 by nearest neighbour, the truth as published; and of the label-free mask at the
image's own size. Each seed is another network and another head.

For each side, seed and precision, features of an image are computed once and every setting learns on them; label maps
and masks are those of ``Segmenter``. Milliseconds (encoder, refinement, borders of regions and figure, medians, one
image a call) are measured apart, on few images, and say something on an idle machine only: --retime measures them
again. The JSON file is the cache: what it holds is not computed again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from published_protocol import pairs
from script import exit_code

from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Backend, Device
from msformer_deploy.benchmark import table
from msformer_deploy.bundle.folder import MANIFEST, Bundle, load_bundle
from msformer_deploy.doctor import environment
from msformer_deploy.errors import UsageError
from msformer_deploy.export.build import Additions, build_bundle
from msformer_deploy.files import write_text
from msformer_deploy.foreground import borders
from msformer_deploy.foreground.frame import without_frame
from msformer_deploy.foreground.threshold import threshold_of
from msformer_deploy.foreground.view import View
from msformer_deploy.images.inputs import discover
from msformer_deploy.images.read import (
    InputImage,
    image_from_array,
    network_input,
    read_image,
    resize_linear,
    resize_nearest,
)
from msformer_deploy.images.truth import PUBLISHED_SIDE, at_published_side, published_truth
from msformer_deploy.measures.overlap import overlap, published_mask
from msformer_deploy.models.figure import Figure
from msformer_deploy.models.prior import fused
from msformer_deploy.refinement.head import refine_head
from msformer_deploy.registry import PRECISIONS, SYSTEMS, Precision, RefineSettings
from msformer_deploy.weights.prior import load_prior

SYSTEM = SYSTEMS["msformer"].sized()
SHOWN = 0.12  # of DSC: worse points would leave no room to tell good ones apart
SCORES = ("published", "label_free")
MEAN = "mean of the data sets"


class Setting(NamedTuple):
    """One choice of everything a preset decides."""

    side: int
    precision: Precision
    steps: int
    stride: int
    lr: float
    head_scale: float
    regions: int

    @property
    def refinement(self) -> RefineSettings:
        """What learns."""
        return RefineSettings(
            steps=self.steps, stride=self.stride, lr=self.lr, head_scale=self.head_scale, regions=self.regions
        )

    @property
    def key(self) -> str:
        """Its name in the JSON file, and for people."""
        return (
            f"side {self.side}, {self.precision}, {self.steps} steps, stride {self.stride}, lr {self.lr:g},"
            f" head scale {self.head_scale:g}, regions {self.regions or 'all'}"
        )


class Sample(NamedTuple):
    """An image with its truth, at the common side and at its own size."""

    image: InputImage
    common: NDArray[np.bool_]
    own: NDArray[np.bool_]


class Point(NamedTuple):
    """A setting, how long it takes and how good it is."""

    setting: Setting
    milliseconds: float
    dsc: float


def settings_of(
    sides: Sequence[int],
    precisions: Sequence[Precision],
    steps: Sequence[int],
    strides: Sequence[int],
    lrs: Sequence[float],
    head_scales: Sequence[float],
    regions: Sequence[int],
) -> list[Setting]:
    """Every combination, and how the registry's presets learn at every side; no learning is one setting only."""
    learned = [each for each in itertools.product(steps, strides, lrs, head_scales, regions) if each[0] > 0]
    refinements = [preset.refinement for preset in SYSTEM.presets.values()]
    learned += [
        (each.steps, each.stride, each.lr, each.head_scale, each.regions) for each in refinements if each.mode == "head"
    ]
    default = RefineSettings()
    # Without steps only the regions matter: the largest score is the largest at any scale.
    unlearned = [(0, default.stride, default.lr, default.head_scale, each) for each in regions if 0 in steps]
    return [
        Setting(side, precision, *chosen)
        for side, precision, chosen in itertools.product(sides, precisions, dict.fromkeys([*unlearned, *learned]))
    ]


def presets(settings: Sequence[Setting]) -> dict[str, Setting]:
    """The registry's presets that are among the settings, by name; those that train the network never are."""
    found = {}
    for name, preset in SYSTEM.presets.items():
        learning, side = preset.refinement, preset.side or SYSTEM.side
        for setting in settings:
            unlearned = learning.mode == "none" and setting.steps == 0 and setting.regions == learning.regions
            same = setting.refinement == learning or unlearned
            if same and setting[:2] == (side, "fp32"):
                found[name] = setting
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in one without losing in the other, from fast to slow."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.milliseconds, -point.dsc)):
        if not best or point.dsc > best[-1].dsc:
            best.append(point)
    return best


def samples_of(folder: Path, limit: int | None) -> list[Sample]:
    """Images of a data set whose truth is not empty; with a limit, evenly spread over it.

    Raises:
        UsageError: there are none.
    """
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        readers = [partial(pictured, *paths) for paths in pairs(folder)]
    elif (folder / "slices").is_dir():
        readers = [partial(slice_of, item.path) for item in discover([folder / "slices"])]
    else:
        raise UsageError(f"{folder}: has neither images/ and masks/ nor slices/ in it")
    if limit is not None and len(readers) > limit:
        readers = [readers[index * len(readers) // limit] for index in range(limit)]
    samples = [sample for sample in (read() for read in readers) if sample.common.any() and sample.own.any()]
    if not samples:
        raise UsageError(f"{folder}: has no image with a mask that is not empty")
    return samples


def pictured(image: Path, mask: Path) -> Sample:
    """An image file and its mask."""
    return Sample(read_image(image), published_truth(mask), published_truth(mask, None))


def slice_of(path: Path) -> Sample:
    """One HDF5 file.

    Raises:
        UsageError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UsageError(f"{path.parent}: HDF5 files need h5py; install it, or leave this data set out") from error
    with h5py.File(path) as file:
        values, labels = np.asarray(file["image"]), np.asarray(file["label"])
    inside = labels > 0
    return Sample(image_from_array(values, path.name), at_published_side(inside), inside)


def scored(sample: Sample, labels: NDArray[np.integer], probability: NDArray[np.float32]) -> dict[str, float]:
    """DSC of a label map, by the published protocol at the common side, and of the figure, (S, S), at the image's."""
    at_common = resize_nearest(labels, PUBLISHED_SIDE, PUBLISHED_SIDE)
    mask = resize_linear(probability, *sample.own.shape) > threshold_of(probability)
    return {
        "published": overlap(published_mask(at_common, sample.common), sample.common).dsc,
        "label_free": overlap(mask, sample.own).dsc,
    }


class Sweep:
    """What was measured, in a file.

    Args:
        path: of the JSON file; what it holds is kept.
        retime: but for the times.
        environment: what the times are measured on, unless the file holds some already.

    Raises:
        UsageError: the file is there and cannot be read.
    """

    def __init__(self, path: Path, retime: bool, environment: dict[str, Any]) -> None:
        self._path = path
        known: dict[str, Any] = {}
        if path.is_file():
            try:
                known = {"environment": {}, "times": {}, "points": {}} | json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, TypeError) as error:
                raise UsageError(f"{path}: is no sweep to go on with ({error}); remove it or name another") from error
        has_times = bool(known.get("times")) and not retime
        self.environment: dict[str, Any] = known["environment"] if has_times else environment
        self.times: dict[str, dict[str, Any]] = known["times"] if has_times else {}
        self._points: dict[str, dict[str, dict[str, list[float]]]] = known.get("points", {})

    def scores(self, setting: Setting, seed: int, data: str) -> dict[str, list[float]]:
        """DSC of every image, by kind of score; nothing if it was not measured."""
        return self._points.get(f"seed {seed}, {setting.key}", {}).get(data, {})

    def keep(self, setting: Setting, seed: int, data: str, scores: dict[str, list[float]]) -> None:
        """Take note of what :meth:`scores` gives."""
        self._points.setdefault(f"seed {seed}, {setting.key}", {})[data] = scores

    def unscored(self, settings: Sequence[Setting], seed: int, data: str, images: int) -> list[Setting]:
        """Those that were not measured on so many images of a data set."""
        return [each for each in settings if len(self.scores(each, seed, data).get(SCORES[0], ())) != images]

    def untimed(self, settings: Sequence[Setting]) -> list[Setting]:
        """Those without times."""
        return [each for each in settings if each.key not in self.times]

    def save(self) -> None:
        """Write the file."""
        report = {"environment": self.environment, "times": self.times, "points": self._points}
        write_text(self._path, json.dumps(report, indent=1) + "\n")


class Bundles:
    """Bundles of every side and seed, made when they are wanted.

    Args:
        folder: where they are.
        precisions: that they have beside fp32.
    """

    def __init__(self, folder: Path, precisions: Sequence[Precision]) -> None:
        self._folder = folder
        self._precisions = tuple(dict.fromkeys(("fp32", *precisions)))

    def get(self, side: int, seed: int) -> Bundle:
        """One of them; losses of a precision are what is measured here, and so no reason to refuse it."""
        path = self._folder / f"side{side}-seed{seed}-{'-'.join(self._precisions)}"
        if (path / MANIFEST).is_file():
            return load_bundle(path)
        print(f"  exporting side {side}, seed {seed}", flush=True)
        additions = Additions(self._precisions, accept_loss=True)
        return build_bundle(dataclasses.replace(SYSTEM, side=side), path, seed=seed, additions=additions)


def judge(
    encoder: Backend, head: torch.Tensor, settings: Sequence[Setting], samples: Sequence[Sample]
) -> dict[Setting, dict[str, list[float]]]:
    """DSC of every image under every setting, all of one side and precision, by kind of score."""
    found: dict[Setting, dict[str, list[float]]] = {setting: {name: [] for name in SCORES} for setting in settings}
    figure = Figure(fused(load_prior()), settings[0].side)
    for sample in samples:
        pixels = network_input(sample.image, settings[0].side)
        filled = without_frame(pixels, View(network_input(sample.image, borders.SIDE)))
        features, probability = seen_by(encoder, figure, pixels)
        of_filled = features, probability
        if not np.array_equal(filled, pixels):
            of_filled = seen_by(encoder, figure, filled)
        for setting in settings:
            known, inside = of_filled if setting.regions else (features, probability)
            for name, value in scored(sample, segmented(known, head, setting, sample.image), inside).items():
                found[setting][name].append(value)
    return found


@torch.inference_mode()
def seen_by(encoder: Backend, figure: Figure, pixels: NDArray[np.float32]) -> tuple[torch.Tensor, NDArray[np.float32]]:
    """Features (1, C, S, S) of an image (3, S, S), and the probability (S, S) of its figure."""
    features = torch.as_tensor(encoder.encode(pixels[None]).features)
    return features, figure(torch.from_numpy(pixels[None]), features)[0].numpy()


def segmented(features: torch.Tensor, head: torch.Tensor, setting: Setting, image: InputImage) -> NDArray[np.integer]:
    """Label map (S, S), as ``Segmenter`` makes it."""
    labels = refine_head(features, head, setting.refinement)[0].labels.numpy()
    return borders.redraw(labels, View(network_input(image, borders.SIDE))) if setting.regions else labels


def times_of(
    encoder: Backend, head: torch.Tensor, settings: Sequence[Setting], images: Sequence[InputImage], rounds: int
) -> dict[Setting, dict[str, Any]]:
    """Median milliseconds of encoder and all after it, settings of one side and precision in turns."""
    figure = Figure(fused(load_prior()), settings[0].side)
    encoder_ms: list[float] = []
    refine_ms: dict[Setting, list[float]] = {setting: [] for setting in settings}
    for turn in range(-1, rounds):
        for image in images:
            pixels = network_input(image, settings[0].side)[None]
            start = time.perf_counter()
            features = torch.as_tensor(encoder.encode(pixels).features)
            encoder_ms += [1e3 * (time.perf_counter() - start)] * (turn >= 0)  # the first round warms up
            for setting in settings:
                start = time.perf_counter()
                segmented(features, head, setting, image)
                with torch.inference_mode():
                    figure(torch.from_numpy(pixels), features)
                refine_ms[setting] += [1e3 * (time.perf_counter() - start)] * (turn >= 0)
    encoding = statistics.median(encoder_ms)
    return {
        setting: {
            "backend": encoder.name,
            "encoder_ms": encoding,
            "refine_ms": statistics.median(values),
            "milliseconds": encoding + statistics.median(values),
        }
        for setting, values in refine_ms.items()
    }


def points_of(
    sweep: Sweep, settings: Sequence[Setting], seeds: Sequence[int], data: Sequence[str], score: str
) -> dict[str, list[Point]]:
    """Points by data set, and of the mean over data sets; DSC is the mean over images and seeds.

    An image without a DSC (neither mask nor truth) is left out of the mean.
    """
    found: dict[str, list[Point]] = {name: [] for name in (*data, MEAN)}
    for setting in settings:
        milliseconds = sweep.times[setting.key]["milliseconds"]
        means = []
        for name in data:
            scores = [sweep.scores(setting, seed, name)[score] for seed in seeds]
            means.append(float(np.mean([np.nanmean(each) for each in scores])))
            found[name].append(Point(setting, milliseconds, means[-1]))
        found[MEAN].append(Point(setting, milliseconds, float(np.mean(means))))
    return found


def show(title: str, points: Sequence[Point], marked: dict[str, Setting]) -> None:
    """Print a front, and where the presets are beside it."""
    print(f"\n{title}")
    chosen = front(points)
    for point in sorted(
        {*chosen, *(each for each in points if each.setting in marked.values())}, key=lambda each: each[1]
    ):
        names = [name for name, setting in marked.items() if setting == point.setting]
        note = (" front" if point in chosen else "") + (f" preset {', '.join(names)}" if names else "")
        print(f"  {point.milliseconds:8.1f} ms  DSC {point.dsc:.4f}  {point.setting.key}{'  <-' if note else ''}{note}")


def draw(
    sweep: Sweep,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    data: Sequence[str],
    path: Path,
) -> None:
    """Write the picture: a column per data set, the published protocol above, the label-free mask below."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    columns = (*data, MEAN)
    sides = sorted({setting.side for setting in settings})
    colours = dict(zip(sides, colormaps["viridis"](np.linspace(0, 0.9, len(sides))), strict=True))
    markers = dict(zip(PRECISIONS, "os^D", strict=True))
    marked = presets(settings)
    figure = Figure((3.4 * len(columns) + 0.4, 7.4), dpi=100, layout="constrained")
    plots = figure.subplots(2, len(columns), squeeze=False, sharex=True)
    for row, score in enumerate(SCORES):
        for plot, (name, points) in zip(
            plots[row], points_of(sweep, settings, seeds, data, score).items(), strict=True
        ):
            for side, precision in dict.fromkeys((point.setting.side, point.setting.precision) for point in points):
                group = [point for point in points if point.setting[:2] == (side, precision)]
                label = f"side {side}" + ("" if precision == "fp32" else f", {precision}")
                plot.plot(
                    *([getattr(point, axis) for point in group] for axis in ("milliseconds", "dsc")),
                    markers[precision],
                    color=colours[side],
                    markersize=5,
                    alpha=0.75,
                    markeredgewidth=0,
                    label=label,
                )
            best = front(points)
            plot.plot(
                [point.milliseconds for point in best],
                [point.dsc for point in best],
                color="#D55E00",
                drawstyle="steps-post",
                linewidth=1.2,
                label="front",
                zorder=1,
            )
            highest = max(point.dsc for point in points)
            least = max(min(point.dsc for point in points), highest - SHOWN)
            for title, setting in marked.items():
                place = next((each.milliseconds, each.dsc) for each in points if each.setting == setting)
                plot.plot(*place, "o", markersize=10, markerfacecolor="none", markeredgecolor="black")
                plot.annotate(
                    title,
                    place,
                    xytext=(0, -42 if place[1] > least + (highest - least) / 4 else 32),  # inside the plot
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                    arrowprops={"arrowstyle": "-", "linewidth": 0.8, "shrinkB": 5},
                    annotation_clip=True,
                )
            plot.set_ylim(least - 0.1 * (highest - least), highest + 0.1 * (highest - least) or None)
            plot.set_xscale("log")
            left, right = plot.get_xlim()
            plot.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if right / left < 5 else (1, 2, 5)))
            plot.xaxis.set_major_formatter("{x:g}")
            plot.xaxis.set_minor_formatter(NullFormatter())
            plot.grid(color="#dddddd", linewidth=0.7)
            plot.spines[["top", "right"]].set_visible(False)
            if row == 0:
                plot.set_title(name, fontsize=11)
            else:
                plot.set_xlabel("ms for one image")
    plots[0, 0].set_ylabel("DSC, published protocol")
    plots[1, 0].set_ylabel("DSC, label-free mask")
    handles, labels = plots[0, 0].get_legend_handles_labels()
    figure.supylabel(f"(points more than {SHOWN:g} below the best lie outside)", fontsize=9, color="#555555")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(
        f"{table.machine({'environment': sweep.environment})}; seeds {', '.join(map(str, seeds))}", fontsize=11
    )
    figure.savefig(path, metadata={"Software": None})


@contextlib.contextmanager
def working_folder(path: Path | None) -> Iterator[Path]:
    """The folder given, made if it is not there, or a temporary one."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> int:
    """Measure what the file lacks, print the fronts; an error is one line, with its exit code."""
    default, balanced = RefineSettings(), SYSTEM.presets["balanced"].refinement
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--picture", type=Path, help="a .png")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--sides", nargs="+", type=int, default=[97, 129, 161, 193, 225, 257])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 4, 8, 15])
    parser.add_argument("--strides", nargs="+", type=int, default=[balanced.stride], help="the presets' by default")
    parser.add_argument("--lr", nargs="+", type=float, default=[default.lr])
    parser.add_argument("--head-scale", nargs="+", type=float, default=[default.head_scale])
    parser.add_argument("--regions", nargs="+", type=int, default=[0, 2], help="kept after learning; 0 is all")
    parser.add_argument("--limit", type=int, help="judge at most so many images of a data set")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5, help="of timing, on the first image of each data set")
    parser.add_argument("--retime", action="store_true", help="measure all times again")
    parser.add_argument("--work", type=Path, help="folder for bundles, kept; by default a temporary one")
    arguments = parser.parse_args()
    return exit_code(run, arguments)


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    with working_folder(arguments.work) as folder:
        measure(arguments, folder)


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    settings = settings_of(
        arguments.sides,
        arguments.precisions,
        arguments.steps,
        arguments.strides,
        arguments.lr,
        arguments.head_scale,
        arguments.regions,
    )
    data = {path.name: samples_of(path, arguments.limit) for path in arguments.data}
    sweep = Sweep(arguments.json, arguments.retime, environment.describe([], arguments.threads))
    bundles = Bundles(folder, arguments.precisions)
    timed = [samples[0].image for samples in data.values()]
    counted = ", ".join(f"{name} ({len(samples)})" for name, samples in data.items())
    print(f"{len(settings)} settings, {len(arguments.seeds)} seeds, images of {counted}", flush=True)
    started = time.perf_counter()
    for side, seed, precision in itertools.product(arguments.sides, arguments.seeds, arguments.precisions):
        chosen = [setting for setting in settings if setting[:2] == (side, precision)]
        unscored = {name: sweep.unscored(chosen, seed, name, len(samples)) for name, samples in data.items()}
        untimed = sweep.untimed(chosen)
        if untimed or any(unscored.values()):
            bundle = bundles.get(side, seed)
            head = torch.from_numpy(bundle.head())
            with open_backend(
                arguments.backend, bundle, Device("cpu"), arguments.threads, precision=precision
            ) as encoder:
                for name, missing in unscored.items():
                    if missing:
                        for setting, scores in judge(encoder, head, missing, data[name]).items():
                            sweep.keep(setting, seed, name, scores)
                if untimed:
                    found = times_of(encoder, head, untimed, timed, arguments.rounds)
                    sweep.times |= {setting.key: times for setting, times in found.items()}
            sweep.save()
        print(f"side {side}, seed {seed}, {precision}: done after {time.perf_counter() - started:.0f} s", flush=True)
    marked = presets(settings)
    for score in SCORES:
        for name, points in points_of(sweep, settings, arguments.seeds, list(data), score).items():
            show(f"{score.replace('_', '-')}, {name}", points, marked)
    if arguments.picture:
        draw(sweep, settings, arguments.seeds, list(data), arguments.picture)


if __name__ == "__main__":
    sys.exit(main())
