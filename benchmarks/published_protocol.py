"""Published protocol (ground-truth-assisted, cluster 0 allowed) of the default refinement, per data set.

    python benchmarks/published_protocol.py ../shared/data/ph2 ../shared/data/lung_ct [--bundle BUNDLE] [--seeds 0 1 2]

A data set is a folder with images/ and masks/, paired by file stem. The encoder runs in torch, so that several seeds
need no export; with --bundle, in the bundle's own backend.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from msformer_deploy import Segmenter
from msformer_deploy.bundle import ModelSizes
from msformer_deploy.imaging import network_input, read_image
from msformer_deploy.metrics import overlap, published_mask
from msformer_deploy.network import new_network, tie_upsampling
from msformer_deploy.refine import refine_head
from msformer_deploy.registry import SYSTEMS

SYSTEM = SYSTEMS["msformer"]


def truth(path: Path, side: int) -> np.ndarray:
    """Ground truth as published: resized with bilinear interpolation, anything non-zero is inside.

    JPEG masks are thresholded first: their compression leaves small values everywhere.
    """
    mask = np.asarray(Image.open(path).convert("L"))
    if path.suffix.lower() in (".jpg", ".jpeg"):
        mask = np.where(mask >= 128, 255, 0)
    resized = Image.fromarray(mask.astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized) > 0


def pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Images and masks of one stem."""
    masks = {path.stem: path for path in (folder / "masks").iterdir()}
    return [(path, masks[path.stem]) for path in sorted((folder / "images").iterdir()) if path.stem in masks]


def main() -> None:
    """Print one line per data set and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    sizes = ModelSizes(SYSTEM.side, SYSTEM.width, SYSTEM.clusters, SYSTEM.blocks)
    settings = next(iter(SYSTEM.presets.values()))
    segmenter = Segmenter(arguments.bundle) if arguments.bundle else None
    for seed in [segmenter.bundle.seed] if segmenter else arguments.seeds:
        model = None if segmenter else tie_upsampling(new_network(sizes, seed)).requires_grad_(False)
        for folder in arguments.folders:
            scores = []
            for image_path, mask_path in pairs(folder):
                inputs = network_input(read_image(image_path), sizes.side)[None]
                if segmenter:
                    labels = segmenter.label_maps(inputs)[0]
                else:
                    features = model.encode(torch.from_numpy(inputs)).features
                    labels = refine_head(features, model.linear_down.weight, settings)[0].labels.numpy()
                expected = truth(mask_path, sizes.side)
                scores.append(overlap(published_mask(labels, expected), expected))
            dsc, hm, xor = (np.array([getattr(score, name) for score in scores]) for name in ("dsc", "hm", "xor"))
            print(
                f"{folder.name:<10} seed {seed}: {len(scores)} images, DSC mean {dsc.mean():.4f} median"
                f" {np.median(dsc):.4f} worst {dsc.min():.4f}; HM {hm.mean():.4f}; XOR {xor.mean():.4f}"
            )


if __name__ == "__main__":
    main()
