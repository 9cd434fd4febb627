"""What corrected images are worth on data sets with ground truth: 0, 1, 3 and 10 of them teach, all others are judged.

    python studies/like.py --data ../shared/data/ph2 ... ../shared/data/zoo/*/ [--bundle BUNDLE] [--corrected 1 3 10]
        [--threads 2] [--json FILE] [--markdown FILE]

A data set is a folder with images/ and masks/, paired by name. Where it has too few images, all
but one are corrected. The draws are those of ``evaluate --corrected``. Printed are the mean label-free DSC, the
change by so many corrected images with a 95 % interval by bootstrap over images, and means over data sets: of all, and
of those whose label-free DSC is below 0.8.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from published_protocol import pairs
from script import exit_code, tell

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.evaluation.corrected import Corrected
from msformer_deploy.images.read import read_image
from msformer_deploy.images.truth import published_truth
from msformer_deploy.refinement.head_file import identity_of

LOW = 0.8  # mean DSC of a data set that corrections should lift


def judge(folder: Path, counts: Sequence[int], segmenter: Segmenter) -> dict[str, Any]:
    """The records of :meth:`Corrected.summary` for one data set, by the number that was asked for."""
    examples = {}
    for path, mask in pairs(folder):
        truth = published_truth(mask, None)
        if truth.any() and not truth.all():
            examples[path.name] = segmenter.example(read_image(path), truth)
    possible = {count: min(count, len(examples) - 1) for count in counts}
    judged = Corrected(list(possible.values()))
    for name, example in examples.items():
        judged.add(name, example)
    found = {each["corrected"]: each for each in judged.summary(identity_of(segmenter.bundle))}
    return {
        "source": folder.name,
        "images": len(examples),
        "by_count": {str(count): found[own] for count, own in possible.items()},
    }


def table_of(judged: Sequence[dict[str, Any]], counts: Sequence[int]) -> str:
    """A row for each data set, and the means over them."""
    largest = str(max(counts))
    heads = [f"{count} corrected" for count in counts]
    lines = [f"| mean DSC | images | label-free | {' | '.join(heads)} |", "|" + "---|" * (len(counts) + 3)]
    for each in judged:
        cells = [_cell(each["by_count"][str(count)], count) for count in counts]
        free = each["by_count"][largest]["label_free"]["mean"]
        lines.append(f"| {each['source']} | {each['images']} | {free:.3f} | {' | '.join(cells)} |")
    low = [each for each in judged if each["by_count"][largest]["label_free"]["mean"] < LOW]
    for name, some in (("mean of data sets", judged), (f"mean of those below {LOW:g}", low)):
        if some:
            means = [np.mean([each["by_count"][str(count)]["difference"]["mean"] for each in some]) for count in counts]
            free = np.mean([each["by_count"][largest]["label_free"]["mean"] for each in some])
            cells = [f"{mean:+.3f}" for mean in means]
            lines.append(f"| {name} | {sum(each['images'] for each in some)} | {free:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any], wanted: int) -> str:
    difference = found["difference"]
    limits = "" if difference["low"] is None else f" ({difference['low']:+.3f} to {difference['high']:+.3f})"
    own = "" if found["corrected"] == wanted else f", {found['corrected']} corrected"
    return f"{difference['mean']:+.3f}{limits}{own}"


def main() -> int:
    """Judge all data sets; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, help="default: the one of the package")
    parser.add_argument("--corrected", nargs="+", type=int, default=[1, 3, 10], help="default: 1 3 10")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of the encoder; default: 2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    if arguments.threads < 1 or min(arguments.corrected) < 1:
        raise UsageError("--threads and --corrected must be 1 or more")
    bundle = None if arguments.bundle is None else load_bundle(arguments.bundle)
    segmenter = Segmenter(bundle, threads=arguments.threads)
    judged = []
    for folder in arguments.data:
        judged.append(judge(folder, arguments.corrected, segmenter))
        print(f"{folder.name}: {judged[-1]['images']} images", file=sys.stderr, flush=True)
    tell(table_of(judged, arguments.corrected), {"data": judged}, arguments)


if __name__ == "__main__":
    sys.exit(main())
