"""What each choice behind the default preset is worth: DSC of variations that change one thing at a time.

    python studies/ablation.py --data ../shared/data/ph2 ... [--seeds 0 1 2] [--only NAME ...] [--workers 2]
        [--json FILE] [--markdown FILE] [--check BUNDLE]

A data set is a folder with images/ and masks/, paired by name. Each seed is another network and another head. DSC
is that of every protocol of ``msformer_deploy.evaluation``; only ``label-free`` is what a user gets. No bundle is
exported: the network is built in torch, and with --check its label maps and masks are compared with those of
``Segmenter`` on a bundle of the default preset. Features of an image are computed once for all variations that share
the encoder. Variations that are no setting of the library live here alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from published_protocol import pairs
from script import exit_code, tell
from torch import Tensor
from torch.nn import functional as F

from msformer_deploy import Segmenter
from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.errors import UsageError
from msformer_deploy.evaluation import PROTOCOLS
from msformer_deploy.evaluation.protocols import compare
from msformer_deploy.foreground import borders, rules
from msformer_deploy.foreground.frame import without_frame
from msformer_deploy.foreground.view import View
from msformer_deploy.images.read import InputImage, network_input, read_image, resize_nearest
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap
from msformer_deploy.models.frozen import FrozenEncoder
from msformer_deploy.models.strips import encode_in_strips
from msformer_deploy.refinement.head import refine_head
from msformer_deploy.registry import SYSTEMS, RefineSettings
from msformer_deploy.segmenter import Segmentation
from msformer_deploy.weights.network import initial_head, new_network, tie_upsampling

SYSTEM = SYSTEMS["msformer"].sized()
PRESET = SYSTEM.preset()
SIZES = ModelSizes(SYSTEM.side, SYSTEM.width, SYSTEM.clusters, SYSTEM.blocks)
DEFAULT = "default"
HEADS = 3  # of an ensemble
NEXT_HEAD = 1000  # seeds of an ensemble's further heads are so far apart, beyond those of other networks
CENTRES = 10_000  # pixels at most that k-means++ chooses among

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Encoding:
    """What the encoder is and sees; equal ones share features.

    Attributes:
        sizes: of the network.
        tied: the four sub-pixels of its upsampling have one kernel (ICNR).
        filled: a black frame is filled before the network sees it.
        flipped: axes of the image that are turned round.
    """

    sizes: ModelSizes
    tied: bool = True
    filled: bool = True
    flipped: tuple[int, ...] = ()


class Case:
    """An image with its truth under one seed, which does nothing twice."""

    def __init__(self, image: InputImage, truth: NDArray[np.bool_], seed: int) -> None:
        self.image, self.truth, self.seed = image, truth, seed
        self._features: dict[tuple[Any, ...], Tensor] = {}

    def features(self, encoding: Encoding) -> Tensor:
        """Of the image (1, C, S, S)."""
        pixels = network_input(self.image, encoding.sizes.side)
        if encoding.filled:
            pixels = without_frame(pixels, View(network_input(self.image, borders.SIDE)))
        if encoding.flipped:
            pixels = np.ascontiguousarray(np.flip(pixels, encoding.flipped))
        key = (encoding.sizes, encoding.tied, pixels.tobytes())  # an image without a frame is filled or not
        if key not in self._features:
            with torch.inference_mode():
                frozen = encoder(encoding.sizes, encoding.tied, self.seed)
                self._features[key] = encode_in_strips(frozen, torch.from_numpy(pixels[None])).features
        return self._features[key]

    def forget(self) -> None:
        """Let go of all features: those of one image are tens of megabytes."""
        self._features.clear()


@cache
def encoder(sizes: ModelSizes, tied: bool, seed: int) -> FrozenEncoder:
    """The frozen encoder of a seed."""
    network = new_network(sizes, seed)
    return FrozenEncoder(tie_upsampling(network) if tied else network)


@cache
def head_of(sizes: ModelSizes, seed: int) -> Tensor:
    """The head of a seed."""
    return initial_head(sizes, seed)


def learned(case: Case, encoding: Encoding, settings: RefineSettings) -> Labels:
    """As the library learns."""
    return refined(case.features(encoding), head_of(encoding.sizes, case.seed), settings)


def refined(features: Tensor, head: Tensor, settings: RefineSettings) -> Labels:
    """Labels (S, S) of features (1, C, S, S) from an initial head."""
    return np.asarray(refine_head(features, head, settings)[0].labels.numpy())


def one_label(case: Case, encoding: Encoding, settings: RefineSettings) -> Labels:
    """Nothing learned, nothing seen: what a protocol gives away by itself."""
    return np.zeros((encoding.sizes.side, encoding.sizes.side), np.uint8)


def from_centres(case: Case, encoding: Encoding, settings: RefineSettings, count: int | None = None) -> Labels:
    """The head begins with pixels that k-means++ draws, each brought to the length that its rows have by default."""
    features = case.features(encoding)
    head = head_of(encoding.sizes, case.seed)
    centres = plus_plus(features.flatten(2)[0].T, count or len(head), np.random.default_rng(case.seed))
    return refined(features, F.normalize(centres) * head.norm(dim=1).mean(), settings)


def plus_plus(values: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """So many of values (n, C), each drawn by its squared distance from those before (Arthur & Vassilvitskii, 2007)."""
    values = values[:: max(1, len(values) // CENTRES)].contiguous()
    chosen = [int(rng.integers(len(values)))]
    distance = torch.full((len(values),), torch.inf)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (values - values[chosen[-1]]).square().sum(dim=1))
        total = distance.cumsum(0, dtype=torch.float64)
        chosen.append(min(int(torch.searchsorted(total, rng.random() * total[-1])), len(values) - 1))
    return values[chosen]


def over_heads(case: Case, encoding: Encoding, settings: RefineSettings) -> Labels:
    """The majority of maps from several initial heads on the same features."""
    features = case.features(encoding)
    seeds = [case.seed + index * NEXT_HEAD for index in range(HEADS)]
    return majority([refined(features, head_of(encoding.sizes, seed), settings) for seed in seeds])


def over_flips(case: Case, encoding: Encoding, settings: RefineSettings) -> Labels:
    """The majority of maps of the image as it is, upside down and mirrored."""
    head = head_of(encoding.sizes, case.seed)
    maps = []
    for axes in ((), (1,), (2,)):
        labels = refined(case.features(replace(encoding, flipped=axes)), head, settings)
        maps.append(np.flip(labels, tuple(axis - 1 for axis in axes)))
    return majority(maps)


def majority(maps: Sequence[Labels]) -> Labels:
    """The map (S, S) of 0 and 1 that most of an odd number of maps of two regions agree on, whatever their ids."""
    first, *others = ((labels == labels.max()).astype(np.int64) for labels in maps)
    votes = first + sum(other if (other == first).mean() >= 0.5 else 1 - other for other in others)
    return (votes * 2 > len(maps)).astype(np.uint8)


def two_resolutions(case: Case, encoding: Encoding, settings: RefineSettings, other: int) -> Labels:
    """The features at another side are brought to this one's and put beside its own, with a head for each half."""
    second, side = replace(encoding, sizes=replace(encoding.sizes, side=other)), encoding.sizes.side
    own, resized = case.features(encoding), F.interpolate(case.features(second), (side, side), mode="nearest")
    heads = [head_of(each.sizes, case.seed) for each in (encoding, second)]
    return refined(torch.cat([own, resized], dim=1), torch.cat(heads, dim=1) / 2**0.5, settings)


class Outcome(NamedTuple):
    """What is judged of an image; names and meaning are those of ``Segmentation``."""

    image: InputImage
    labels: Labels
    mask: NDArray[np.bool_]
    network_labels: Labels


@dataclass(frozen=True)
class Variation:
    """The default with one thing changed.

    Attributes:
        change: what is changed.
        encoding, settings: what is encoded, and how is learned on it.
        draw: redraws the regions on a larger image; None leaves them as the network saw them.
        masked: the label-free mask and all else are the two regions.
        labels: makes the label map.
    """

    change: str
    encoding: Encoding
    settings: RefineSettings
    draw: Callable[[Labels, View], Labels] | None = borders.redraw
    masked: bool = False
    labels: Callable[[Case, Encoding, RefineSettings], Labels] = learned

    def label_map(self, case: Case) -> Labels:
        """At network resolution."""
        return self.labels(case, self.encoding, self.settings)

    def segment(self, case: Case) -> Outcome:
        """What ``Segmenter`` makes of an image, but for times and trace."""
        labels = self.label_map(case)
        view = View(network_input(case.image, borders.SIDE if self.draw else self.encoding.sizes.side))
        drawn = self.draw(labels, view) if self.draw else labels
        mask = rules.choose(rules.parse_rule("auto"), drawn, view)
        size = case.image.height, case.image.width
        full = resize_nearest(mask.astype(np.uint8) if self.masked else drawn, *size), resize_nearest(mask, *size)
        return Outcome(case.image, *full, labels)


def variations() -> dict[str, Variation]:
    """All of them by name, the default first; those that are the default under another name are left out."""
    encoding, settings = Encoding(SIZES), PRESET.refinement
    coarse, other = 97 if SIZES.side != 97 else 193, 2 if SIZES.blocks == 1 else 1

    def sized(change: str = "encoder", **changes: Any) -> Variation:
        return Variation(change, replace(encoding, sizes=replace(SIZES, **changes)), settings)

    def encoded(**changes: Any) -> Variation:
        return Variation("encoder", replace(encoding, **changes), settings)

    def learning(change: str = "learning", **changes: Any) -> Variation:
        kept = bool(changes.get("regions", True))  # with all of them the library fills no frame and draws no border
        return Variation(
            change, replace(encoding, filled=kept), replace(settings, **changes), draw=borders.redraw if kept else None
        )

    def mapped(change: str, labels: Callable[[Case, Encoding, RefineSettings], Labels]) -> Variation:
        return Variation(change, encoding, settings, labels=labels)

    default = Variation("", encoding, settings)
    found = {
        **{f"side {side}": sized("resolution", side=side) for side in (97, 129, 193, 257)},
        f"side {SIZES.side} and {coarse}": mapped("resolution", partial(two_resolutions, other=coarse)),
        **{f"blocks {blocks}": sized(blocks=blocks) for blocks in (1, 2)},
        f"side 257, blocks {other}": sized(side=257, blocks=other),
        "upsampling not tied": encoded(tied=False),
        "frame not filled": encoded(filled=False),
        **{f"steps {steps}": learning(steps=steps) for steps in (0, 4, 8, 15, 30)},
        **{f"stride {stride}": learning(stride=stride) for stride in (4, 8, 16, 32)},
        **{f"lr {lr:g}": learning(lr=lr) for lr in (0.003, 0.01, 0.03, 0.1, 0.5)},
        **{f"head scale {scale:g}": learning("head", head_scale=scale) for scale in (0.03, 0.1, 0.3, 1)},
        "k-means++ head": mapped("head", from_centres),
        "k-means++ head of 8": mapped("head", partial(from_centres, count=8)),
        "3 heads": mapped("head", over_heads),
        "3 flips": mapped("head", over_flips),
        **{f"regions {regions or 'all'}": learning("regions", regions=regions) for regions in (0, 2, 3, 4)},
        "regions not told apart by colour": Variation("regions", encoding, settings, draw=borders.follow_edges),
        "borders not drawn": Variation("regions", encoding, settings, draw=None),
        "one label everywhere": mapped("regions", one_label),
        "regions from the mask": Variation("regions", encoding, settings, masked=True),
    }
    return {DEFAULT: default} | {name: each for name, each in found.items() if replace(each, change="") != default}


class Task(NamedTuple):
    """One image under one seed, judged in one go."""

    image: Path
    mask: Path
    seed: int


Scores = dict[str, dict[str, float]]  # DSC by variation and protocol


def judge(task: Task, names: Sequence[str], threads: int) -> Scores:
    """DSC of variations on one image."""
    torch.set_num_threads(threads)
    case = Case(read_image(task.image), published_truth(task.mask, None), task.seed)
    known = variations()
    return {name: scored(known[name].segment(case), case.truth) for name in names}


def scored(result: Outcome | Segmentation, truth: NDArray[np.bool_]) -> dict[str, float]:
    """DSC by protocol."""
    return {protocol: dsc(protocol, result, truth) for protocol in PROTOCOLS}


def dsc(protocol: str, result: Outcome | Segmentation, truth: NDArray[np.bool_]) -> float:
    """Of one protocol, which looks at labels and mask alone."""
    return overlap(*compare(protocol, cast("Segmentation", result), truth)).dsc


def tasks_of(folders: Sequence[Path], seeds: Sequence[int], limit: int | None) -> dict[str, list[Task]]:
    """What is judged, by the name of the data set; with a limit, so many of its images, evenly spread.

    Raises:
        UsageError: a folder holds no pairs, or two have one name.
    """
    found: dict[str, list[Task]] = {}
    for folder in folders:
        if not ((folder / "images").is_dir() and (folder / "masks").is_dir()):
            raise UsageError(f"{folder}: has no images/ and masks/ in it")
        paths = pairs(folder)
        if limit is not None and len(paths) > limit:
            paths = [paths[index * len(paths) // limit] for index in range(limit)]
        if not paths:
            raise UsageError(f"{folder}: has no image with a mask of its name")
        if folder.name in found:
            raise UsageError(f"two data sets are called {folder.name}; rename one")
        found[folder.name] = [Task(*each, seed) for seed in seeds for each in paths]
    return found


def chosen(only: Sequence[str] | None) -> list[str]:
    """Names of the variations to judge, the default always among them.

    Raises:
        UsageError: one is unknown.
    """
    known = list(variations())
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise UsageError(f"variation {unknown[0]!r} is unknown; choose of {', '.join(map(repr, known))}")
    return [name for name in known if not only or name in (DEFAULT, *only)]


def measure(tasks: dict[str, list[Task]], names: Sequence[str], workers: int, threads: int) -> list[dict[str, Any]]:
    """A row for every image and seed, with the DSC of every variation and protocol."""
    listed = [(source, task) for source, group in tasks.items() for task in group]
    work = partial(judge, names=names, threads=threads)
    rows = []
    with pool(workers) as executor:
        judged = (executor.map if executor else map)(work, [task for _, task in listed])
        for (source, task), scores in zip(listed, judged, strict=True):
            rows.append({"source": source, "image": task.image.name, "seed": task.seed, "dsc": scores})
            print(f"{len(rows)} of {len(listed)}: {source}, {task.image.name}, seed {task.seed}", flush=True)
    return rows


def pool(workers: int) -> Any:
    """A context with so many processes, or None in it where this one does the work."""
    if workers == 1:
        return nullcontext()
    # Spawned, not forked: torch's threads do not survive a fork.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


class Score(NamedTuple):
    """A mean over images and seeds, and the standard deviation of the seeds' means over images (NaN for one seed)."""

    mean: float
    spread: float

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if np.isnan(self.spread) else f" ± {self.spread:.3f}")


def summarise(rows: Sequence[dict[str, Any]], source: str, variation: str, protocol: str) -> Score:
    """Of one data set."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if row["source"] == source:
            by_seed.setdefault(row["seed"], []).append(row["dsc"][variation][protocol])
    means = [float(np.mean(values)) for values in by_seed.values()]
    return Score(float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else float("nan"))


def table(rows: Sequence[dict[str, Any]], names: Sequence[str], protocols: Sequence[str]) -> str:
    """Markdown: a row per variation, a column per data set and protocol."""
    sources = list(dict.fromkeys(row["source"] for row in rows))
    known = variations()
    columns = [(source, protocol) for protocol in protocols for source in sources]
    header = ["changed", "variation", *(f"{source}, {protocol}" for source, protocol in columns)]
    lines = [header, ["---"] * len(header)]
    for name in names:
        scores = [str(summarise(rows, source, name, protocol)) for source, protocol in columns]
        lines.append([known[name].change, name, *scores])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def markdown(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Two tables: what a user gets beside the publication's protocol, and what the best choice could reach."""
    seeds = sorted({row["seed"] for row in rows})
    counts = {row["source"]: 0 for row in rows} | {
        source: len({row["image"] for row in rows if row["source"] == source})
        for source in dict.fromkeys(row["source"] for row in rows)
    }
    told = ", ".join(f"{count} of {source}" for source, count in counts.items())
    over = (
        f"seeds {', '.join(map(str, seeds))}, ± the standard deviation over these" if seeds[1:] else f"seed {seeds[0]}"
    )
    head = f"DSC, mean over images ({told}); {over}.\n"
    return "\n".join([head, table(rows, names, PROTOCOLS[:2]), table(rows, names, PROTOCOLS[2:])])


def check(path: Path, tasks: dict[str, list[Task]]) -> list[str]:
    """How far the default is from ``Segmenter`` with a bundle, on the first image of each data set."""
    segmenter = Segmenter(path)
    if (segmenter.settings, segmenter.bundle.sizes) != (PRESET.refinement, SIZES):
        raise UsageError(f"{path}: is no bundle of the default preset")
    told = []
    for source, group in tasks.items():
        truth = published_truth(group[0].mask, None)
        case = Case(read_image(group[0].image), truth, segmenter.seed)
        ours, theirs = variations()[DEFAULT].segment(case), segmenter.segment(case.image)
        same = {name: (getattr(ours, name) == getattr(theirs, name)).mean() for name in ("labels", "mask")}
        equal = ", ".join(f"{name} equal on {share:.4%}" for name, share in same.items())
        both = zip(scored(ours, truth).items(), scored(theirs, truth).values(), strict=True)
        scores = ", ".join(f"{protocol} {first:.4f} and {second:.4f}" for (protocol, first), second in both)
        told.append(f"check, {source}, {group[0].image.name}, Segmenter on {segmenter.backend_name}: {equal}; {scores}")
    return told


def main() -> int:
    """Measure and print the tables; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="NAME", help=", ".join(map(repr, variations())))
    parser.add_argument("--limit", type=int, help="judge at most so many images of a data set")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--check", type=Path, metavar="BUNDLE", help="compare the default with Segmenter first")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    return exit_code(run, arguments)


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    names = chosen(arguments.only)
    tasks = tasks_of(arguments.data, arguments.seeds, arguments.limit)
    torch.set_num_threads(arguments.threads)
    checked = check(arguments.check, tasks) if arguments.check else []
    print("\n".join(checked), flush=True)
    rows = measure(tasks, names, arguments.workers, arguments.threads)
    tell(markdown(rows, names), {"checked": checked, "rows": rows}, arguments)


if __name__ == "__main__":
    sys.exit(main())
