"""The published algorithm against ``run``, on the same images, in one process.

    python studies/vs_published.py IMAGE... --bundle BUNDLE [--bundle BUNDLE] [--masks FOLDER] [--json FILE]

The published side is that of the bundles' system, arranged as published (``published.py``, ``published_s3.py``), at its
257 x 257 or 256 x 256 whatever the bundle's side: a fresh network per image, autograd through everything, SGD until
three labels are left or 50 steps. Our side is what ``msformer-deploy run`` does for an image once the bundle is loaded:
preprocessing, encoder, refinement, foreground; repeated, the median taken; of each bundle given. Neither side reads or
writes files within its time. With masks, DSC of both sides by the published protocol, at 257 x 257.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import published
import published_s3
import torch
from numpy.typing import NDArray
from torch import Tensor

from msformer_deploy import Segmenter, read_image
from msformer_deploy.bundle.folder import Bundle, ModelSizes
from msformer_deploy.doctor.diagnosis import diagnose
from msformer_deploy.images.read import InputImage, network_input, resize_nearest
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap, published_mask
from msformer_deploy.models.s3net import S3Net
from msformer_deploy.registry import SYSTEMS
from msformer_deploy.weights.network import new_network


def main() -> None:
    """Time all sides on every image, in turns; print steps, seconds, ratios and DSC."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--bundle", type=Path, required=True, action="append", help="repeatable")
    parser.add_argument("--masks", type=Path, help="folder with the truth of each image, by file stem")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    segmenters = {path.name: Segmenter(path, threads=arguments.threads, whole_graph=False) for path in arguments.bundle}
    if len({segmenter.bundle.system for segmenter in segmenters.values()}) > 1:
        parser.error("bundles of several systems; give those of one")
    torch.set_num_threads(arguments.threads)
    rows = []
    for path in arguments.images:
        found = measure(path, mask_of(path, arguments.masks), segmenters, arguments.repeats)
        rows += [{"image": path.name, "side": name, **row} for name, row in found.items()]
        for name, row in found.items():
            dsc = "" if row["dsc"] is None else f"   DSC {row['dsc']:.3f}"
            print(f"{path.name:<16} {name:<12} {row['seconds']:8.3f} s, {row['steps']:>2} steps{dsc}", flush=True)
    means = {name: mean_of([row for row in rows if row["side"] == name]) for name in ("published", *segmenters)}
    for name, mean in means.items():
        ratio = means["published"]["seconds"] / mean["seconds"]
        dsc = "" if mean["dsc"] is None else f", DSC {mean['dsc']:.4f}"
        print(f"mean over {len(arguments.images)} images: {name} {mean['seconds']:.3f} s, ratio {ratio:.1f}{dsc}")
    if arguments.json:
        facts = {"machine": diagnose()["machine"], "torch": torch.__version__, "threads": arguments.threads}
        report = {**facts, "platform": platform.platform(), "rows": rows, "means": means}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(
    path: Path, truth: NDArray[np.bool_] | None, segmenters: dict[str, Segmenter], repeats: int
) -> dict[str, dict[str, Any]]:
    """Seconds, steps and DSC of the published side and of each bundle on one image."""

    def dsc(labels: NDArray[np.integer]) -> float | None:
        if truth is None:
            return None
        return overlap(published_mask(resize_nearest(labels, *truth.shape), truth), truth).dsc

    image = read_image(path)
    found = {}
    for name, segmenter in segmenters.items():
        result = segmenter.segment(image)  # warm-up
        seconds = statistics.median(seconds_of(segmenter, image) for _ in range(repeats))
        found[name] = {"seconds": seconds, "steps": len(result.trace), "dsc": dsc(result.labels)}
    seconds, labels, steps = as_published(segmenter.bundle, image)
    return {"published": {"seconds": seconds, "steps": steps, "dsc": dsc(labels.numpy())}, **found}


def as_published(bundle: Bundle, image: InputImage) -> tuple[float, Tensor, int]:
    """Seconds, labels (S, S) and steps of the published loop of the bundle's system, started from its seed."""
    system = SYSTEMS[bundle.system].sized("paper")
    settings = system.preset("paper").refinement
    sizes = ModelSizes(system.side, system.width, system.clusters, system.blocks)
    drawn = new_network(sizes, bundle.seed, bundle.system)
    tensor = torch.from_numpy(network_input(image, sizes.side)[None])
    if isinstance(drawn, S3Net):
        network = published_s3.as_published(drawn)
        start = time.perf_counter()
        labels, steps = published_s3.refine_as_published(network, tensor, settings)
    else:
        other = published.PublishedMSFormer(sizes.side, sizes.width, sizes.clusters, sizes.blocks)
        other.load_state_dict(drawn.state_dict())
        start = time.perf_counter()
        labels, steps = published.refine_as_published(other, tensor, settings)
    return time.perf_counter() - start, labels, steps


def mask_of(image: Path, masks: Path | None) -> NDArray[np.bool_] | None:
    """The truth at 257 x 257."""
    if masks is None:
        return None
    (path,) = masks.glob(f"{image.stem}.*")
    return published_truth(path)


def mean_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over images."""
    scores = [row["dsc"] for row in rows if row["dsc"] is not None]
    seconds = statistics.mean(row["seconds"] for row in rows)
    return {"seconds": seconds, "dsc": statistics.mean(scores) if scores else None}


def seconds_of(segmenter: Segmenter, image: InputImage) -> float:
    """Seconds to segment one image."""
    start = time.perf_counter()
    segmenter.segment(image)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
