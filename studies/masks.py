"""The label-free masks of bundles on data sets with ground truth, and what their confidence is worth.

    python studies/masks.py --data ../shared/data/ph2 ... ../shared/data/zoo/*/ --bundle BUNDLE [--bundle BUNDLE]
        [--threads 2] [--json FILE] [--markdown FILE] [--picture FILE]

A data set is a folder with images/ and masks/, paired by name; each counts as one kind of image, however many images it
has. Bundles of several seeds give means over seeds. Printed are:

1. mean DSC of the mask beside Otsu's threshold and k-means (``msformer_deploy.evaluation``), with a 95 % interval of
   the mean over the data set's images, and of the masks that a click on the object or a box around it gives;
2. what the confidence is worth: it is fitted anew for each data set on all others, so that no data set is judged by a
   fit that has seen it. Shown are how many masks are in doubt, the mean DSC of the others, and the area under the curve
   for "DSC at least 0.7"; then expected against true DSC, and the mean DSC of the share of masks that is kept;
3. the constants of ``foreground/confidence.py``, fitted on all data sets;
4. the worst masks that are not in doubt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from published_protocol import pairs
from script import exit_code, tell

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.evaluation.baselines import baseline
from msformer_deploy.evaluation.drawn import with_prompts
from msformer_deploy.foreground.confidence import LOW, evidence
from msformer_deploy.images.read import InputImage, read_image
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]

GOOD = 0.7  # DSC of a mask that is of use
INSIDE = 0.8  # share of the images that an interval of the confidence holds
INTERVAL = 0.95  # of the means in the table
DRAWS = 2000  # of the bootstrap
BINS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)  # of the expected DSC
KEPT = (0.25, 0.5, 0.75, 1.0)  # shares of the masks, the most certain first
WORST = 10


@dataclass(frozen=True)
class Judged:
    """One image under one bundle: DSC of every mask, and the evidence that the confidence has of its own mask.

    Attributes:
        source: the data set.
        name: of the image.
        seed: of the bundle.
        dsc: of the label-free mask.
        otsu, kmeans, click, box: DSC of the other masks.
        dice, sureness: see :func:`.confidence.evidence`; 0 where the mask is empty or the whole image.
    """

    source: str
    name: str
    seed: int
    dsc: float
    otsu: float
    kmeans: float
    click: float
    box: float
    dice: float
    sureness: float


class Fit(NamedTuple):
    """Expected DSC = constant + slope * dice * sureness, and how far images are from it."""

    constant: float
    slope: float
    below: float
    above: float

    def expected(self, judged: Sequence[Judged]) -> Numbers:
        """The DSC to expect of masks, 0..1."""
        return np.clip(_terms(judged) @ self[:2], 0, 1)


def _terms(judged: Sequence[Judged]) -> Numbers:
    return np.array([(1.0, each.dice * each.sureness) for each in judged])


def fit(judged: Sequence[Judged]) -> Fit:
    """Least squares in which every data set weighs the same; then the quantiles of what is left."""
    sources = [each.source for each in judged]
    weights = np.array([1 / sources.count(source) for source in sources])
    truth = np.array([each.dsc for each in judged])
    root = np.sqrt(weights)
    coefficients = np.linalg.lstsq(_terms(judged) * root[:, None], truth * root, rcond=None)[0]
    left = truth - np.clip(_terms(judged) @ coefficients, 0, 1)
    below, above = (_quantile(left, weights, share) for share in ((1 - INSIDE) / 2, (1 + INSIDE) / 2))
    return Fit(*map(float, coefficients), max(-below, 0.0), max(above, 0.0))


def _quantile(values: Numbers, weights: Numbers, share: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(reached, share)])


def held_out(judged: Sequence[Judged]) -> tuple[Numbers, float]:
    """Expected DSC of every mask by a fit on the other data sets; and the share of masks within the fit's interval."""
    expected, inside = np.zeros(len(judged)), np.zeros(len(judged), bool)
    truth = np.array([each.dsc for each in judged])
    for source in dict.fromkeys(each.source for each in judged):
        mine = np.array([each.source == source for each in judged])
        found = fit([each for each, out in zip(judged, mine, strict=True) if not out])
        expected[mine] = found.expected([each for each, out in zip(judged, mine, strict=True) if out])
        off = truth[mine] - expected[mine]
        inside[mine] = (off >= -found.below) & (off <= found.above)
    return expected, float(inside.mean())


def area_under_curve(scores: Numbers, good: Mask) -> float:
    """How often a good mask has a higher score than another, ties counting half; NaN where there is one kind only."""
    if good.all() or not good.any():
        return float("nan")
    above = scores[good][:, None] - scores[~good][None, :]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def interval(values: Sequence[float], generator: np.random.Generator) -> tuple[float, float]:
    """Of the mean, by bootstrap over images."""
    drawn = generator.choice(np.asarray(values), (DRAWS, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2))
    return float(low), float(high)


def judge(path: Path, truth: Mask, source: str, segmenters: Sequence[Segmenter]) -> list[Judged]:
    """One image under every bundle."""
    image: InputImage = read_image(path)
    others = [overlap(baseline(name, image), truth).dsc for name in ("otsu", "kmeans")]
    found = []
    for segmenter in segmenters:
        session = segmenter.open(image)
        result = session.segmentation
        shown = [overlap(with_prompts(kind, session, truth).mask, truth).dsc for kind in ("click", "box")]
        told = evidence(result.mask, result.probability) if result.mask.any() and not result.mask.all() else (0.0, 0.0)
        dsc = overlap(result.mask, truth).dsc
        found.append(Judged(source, path.name, segmenter.seed, dsc, *others, *shown, *told))
    return found


def table_of(judged: Sequence[Judged], expected: Numbers) -> str:
    """A row for each data set, and the mean over them."""
    generator = np.random.default_rng(0)
    lines = [
        "| mean DSC | images | Otsu | k-means | mask | 95 % interval | beside Otsu | in doubt | DSC of the others"
        " | click | box |",
        "|" + "---|" * 11,
    ]
    rows = []
    for source in dict.fromkeys(each.source for each in judged):
        mine = [(each, value) for each, value in zip(judged, expected, strict=True) if each.source == source]
        sure = [each.dsc for each, value in mine if value >= LOW]
        mean = _means([each for each, _ in mine])
        by_image = [float(np.mean([each.dsc for each, _ in mine if each.name == name])) for name in _names(mine)]
        low, high = interval(by_image, generator)
        rows.append(mean)
        doubted = f"{1 - len(sure) / len(mine):.0%} | {np.mean(sure):.3f}" if sure else "100% | -"
        lines.append(_row(source, str(len(by_image)), mean, f"{low:.3f} to {high:.3f}", doubted))
    overall = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    sure_dsc = [each.dsc for each, value in zip(judged, expected, strict=True) if value >= LOW]
    doubted = f"{1 - len(sure_dsc) / len(judged):.0%} | {np.mean(sure_dsc):.3f}" if sure_dsc else "100% | -"
    lines.append(
        _row("mean of data sets", str(len({(each.source, each.name) for each in judged})), overall, "", doubted)
    )
    return "\n".join(lines) + "\n"


def _names(mine: Sequence[tuple[Judged, float]]) -> list[str]:
    return list(dict.fromkeys(each.name for each, _ in mine))


def _means(judged: Sequence[Judged]) -> dict[str, float]:
    return {
        name: float(np.mean([getattr(each, name) for each in judged]))
        for name in ("otsu", "kmeans", "dsc", "click", "box")
    }


def _row(name: str, images: str, mean: dict[str, float], limits: str, doubted: str) -> str:
    return (
        f"| {name} | {images} | {mean['otsu']:.3f} | {mean['kmeans']:.3f} | {mean['dsc']:.3f} | {limits}"
        f" | {mean['dsc'] - mean['otsu']:+.3f} | {doubted} | {mean['click']:.3f} | {mean['box']:.3f} |"
    )


def confidence_of(judged: Sequence[Judged], expected: Numbers, inside: float) -> tuple[str, dict[str, Any]]:
    """What the held-out confidence is worth: lines of Markdown, and the numbers."""
    truth = np.array([each.dsc for each in judged])
    sure = expected >= LOW
    curve = area_under_curve(expected, truth >= GOOD)
    order = np.argsort(-expected, kind="stable")
    kept = {share: float(truth[order[: max(1, round(share * len(order)))]].mean()) for share in KEPT}
    bins = []
    for low, high in pairwise(BINS):
        among = (expected >= low) & ((expected < high) | (high == BINS[-1]))
        if among.any():
            bins.append((low, high, int(among.sum()), float(expected[among].mean()), float(truth[among].mean())))
    lines = [
        f"Not in doubt: {sure.mean():.0%} of the masks, mean DSC {truth[sure].mean():.3f}; in doubt: mean DSC"
        f" {truth[~sure].mean():.3f}."
        if sure.any() and not sure.all()
        else "All masks are of one kind.",
        f"Area under the curve for a DSC of at least {GOOD}: {curve:.3f}."
        f" Within the interval of {INSIDE:.0%}: {inside:.0%}.",
        "",
        "| expected DSC | masks | mean expected | mean true |",
        "|---|---|---|---|",
        *(f"| {low:.1f} to {high:.1f} | {count} | {told:.3f} | {true:.3f} |" for low, high, count, told, true in bins),
        "",
        "| share of masks kept, the most certain first | " + " | ".join(f"{share:.0%}" for share in KEPT) + " |",
        "|---|" + "---|" * len(KEPT),
        "| mean DSC | " + " | ".join(f"{value:.3f}" for value in kept.values()) + " |",
    ]
    facts = {"area under the curve": curve, "inside": inside, "sure": float(sure.mean()), "kept": kept, "bins": bins}
    return "\n".join(lines) + "\n", facts


def worst_of(judged: Sequence[Judged], expected: Numbers) -> str:
    """The worst masks that are not in doubt, each image under the seed with its worst mask."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for each, value in zip(judged, expected, strict=True):
        if value >= LOW:
            place, outcome = (each.source, each.name), (each.dsc, float(value))
            found[place] = min(outcome, found.get(place, outcome))
    worst = sorted(found.items(), key=lambda item: item[1])[:WORST]
    rows = [f"| {source} | {name} | {value:.3f} | {dsc:.3f} |" for (source, name), (dsc, value) in worst]
    return "\n".join(["| data set | image | expected DSC | DSC |", "|---|---|---|---|", *rows]) + "\n"


def draw(judged: Sequence[Judged], expected: Numbers, path: Path) -> None:
    """Expected against true DSC of every mask, and the mean DSC of what is kept."""
    from matplotlib import pyplot

    truth = np.array([each.dsc for each in judged])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4))
    left.scatter(expected, truth, s=8, alpha=0.5)
    left.plot([0, 1], [0, 1], color="black", linewidth=1)
    left.axvline(LOW, color="grey", linestyle=":", linewidth=1)
    left.set(xlabel="expected DSC, from a fit on the other data sets", ylabel="DSC", xlim=(0, 1), ylim=(0, 1))
    order = np.argsort(-expected, kind="stable")
    counts = np.arange(1, len(order) + 1)
    right.plot(counts / len(order), np.cumsum(truth[order]) / counts)
    right.set(xlabel="share of masks kept, the most certain first", ylabel="mean DSC", xlim=(0, 1), ylim=(0, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> int:
    """Judge all images; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--bundle", action="append", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1, help="number of threads of the encoder; default: 1")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--picture", type=Path, help="picture of the confidence; needs msformer-deploy[plot]")
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    if arguments.threads < 1:
        raise UsageError("--threads must be 1 or more")
    sources = {folder: pairs(folder) for folder in arguments.data}
    if len(sources) < 2:
        raise UsageError("--data needs two data sets or more: each is judged by a fit on the others")
    segmenters = [Segmenter(load_bundle(path), threads=arguments.threads) for path in arguments.bundle]
    judged: list[Judged] = []
    for folder, found in sources.items():
        for path, mask in found:
            truth = published_truth(mask, None)
            if truth.any():
                judged += judge(path, truth, folder.name, segmenters)
        print(f"{folder.name}: {len(found)} images", file=sys.stderr, flush=True)
    expected, inside = held_out(judged)
    worth, facts = confidence_of(judged, expected, inside)
    everything = fit(judged)
    constants = ", ".join(f"{name} {value:.3f}" for name, value in everything._asdict().items())
    table = "\n".join(
        [table_of(judged, expected), worth, f"Fit on all data sets: {constants}\n", worst_of(judged, expected)]
    )
    if arguments.picture:
        draw(judged, expected, arguments.picture)
    tell(
        table,
        {
            "images": [asdict(each) | {"expected": float(value)} for each, value in zip(judged, expected, strict=True)],
            "confidence": facts,
            "fit": everything._asdict(),
        },
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
