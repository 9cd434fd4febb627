"""How the confidence in label-free masks goes with their DSC, over data sets with ground truth.

    python studies/confidence.py --data ../shared/data/ph2 ../shared/data/polyp --bundle BUNDLE [--bundle BUNDLE]

A data set is a folder with images/ and masks/, paired by name. Shown for each, and for all together: Spearman's
rank correlation over images and bundles, and the mean DSC of low-confidence masks and of the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from published_protocol import pairs
from scipy.stats import spearmanr

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap


class Judged(NamedTuple):
    """One mask."""

    dsc: float
    confidence: float
    doubted: bool


def line(name: str, judged: Sequence[Judged]) -> str:
    """One row of the table; a mean over no masks is shown as a dash."""
    dsc, confidence = ([getattr(each, key) for each in judged] for key in ("dsc", "confidence"))
    rank = spearmanr(dsc, confidence).statistic if len(set(dsc)) > 1 < len(set(confidence)) else float("nan")
    doubted, trusted = ([each.dsc for each in judged if each.doubted is which] for which in (True, False))
    means = (f"{np.mean(values):.3f}" if values else "-" for values in (doubted, trusted))
    return f"| {name} | {len(judged)} | {rank:+.2f} | {len(doubted)} | {' | '.join(means)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--bundle", action="append", type=Path, required=True)
    arguments = parser.parse_args()
    segmenters = [Segmenter(load_bundle(path)) for path in arguments.bundle]
    print("| data set | masks | rank correlation | low-confidence | their mean DSC | that of the others |")
    print("|---|---|---|---|---|---|")
    together: list[Judged] = []
    for folder in arguments.data:
        judged = []
        for image, mask in pairs(folder):
            truth = published_truth(mask, None)
            for segmenter in segmenters:
                result = segmenter.segment(image)
                value, doubt = result.confidence
                judged.append(Judged(overlap(result.mask, truth).dsc, value, doubt is not None))
        print(line(folder.name, judged), flush=True)
        together += judged
    print(line("all", together))


if __name__ == "__main__":
    main()
