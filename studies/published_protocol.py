"""Published protocol (ground-truth-assisted, cluster 0 allowed) and the label-free mask of bundles, per data set.

    python studies/published_protocol.py --data ../shared/data/ph2 ../shared/data/lung_ct --bundle BUNDLE ...

A data set is a folder with images/ and masks/, paired by name. Several bundles, exported with different --seed,
give the spread over seeds; --lr and --head-scale show what these settings do.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.images.pairing import pair_folders
from msformer_deploy.images.read import resize_nearest
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap, published_mask


def pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Images and their masks.

    Raises:
        UsageError: as :func:`msformer_deploy.images.pairing.pair_folders`.
    """
    return list(pair_folders(folder / "images", folder / "masks").pairs.items())


def main() -> None:
    """Print one line per bundle and data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--bundle", nargs="+", type=Path, required=True)
    parser.add_argument("--lr", type=float, help="in place of the bundle's")
    parser.add_argument("--head-scale", type=float, help="in place of the bundle's")
    arguments = parser.parse_args()
    given = {"lr": arguments.lr, "head_scale": arguments.head_scale}
    for path in arguments.bundle:
        bundle = load_bundle(path)
        changes = {name: value for name, value in given.items() if value is not None}
        segmenter = Segmenter(bundle, settings=replace(bundle.refinement, **changes))
        for folder in arguments.data:
            scores, label_free = [], []
            for image, mask in pairs(folder):
                expected = published_truth(mask)
                result = segmenter.segment(image)
                scores.append(
                    overlap(published_mask(resize_nearest(result.labels, *expected.shape), expected), expected)
                )
                label_free.append(overlap(result.mask, published_truth(mask, None)).dsc)
            dsc, hm, xor = (np.array([getattr(score, name) for score in scores]) for name in ("dsc", "hm", "xor"))
            print(
                f"{folder.name:<10} seed {segmenter.bundle.seed}: {len(scores)} images,"
                f" DSC mean {dsc.mean():.4f} median {np.median(dsc):.4f} worst {dsc.min():.4f};"
                f" HM {hm.mean():.4f}; XOR {xor.mean():.4f};"
                f" label-free mask: DSC mean {np.mean(label_free):.4f} median {np.median(label_free):.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
