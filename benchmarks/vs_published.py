"""The published algorithm against ``run``'s default, on the same images, in one process.

    python benchmarks/vs_published.py IMAGE... [--bundle BUNDLE] [--threads 2] [--json FILE]

The published side is arranged as published (``published.py``), at its 257 x 257 whatever the bundle's side: a fresh
network per image, fc1 evaluated twice, autograd through everything, SGD until three labels are left or 50 steps. Our
side is what ``msformer-deploy run`` does for an image once the bundle is loaded: preprocessing, encoder, refinement,
foreground; repeated, the median taken. Neither side reads or writes files within its time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from published import PublishedMSFormer, refine_as_published

from msformer_deploy import Segmenter, read_image
from msformer_deploy.bundle import ModelSizes
from msformer_deploy.diagnosis import diagnose
from msformer_deploy.imaging import InputImage, network_input
from msformer_deploy.network import new_network
from msformer_deploy.registry import SYSTEMS


def main() -> None:
    """Time both sides on every image, alternating; print steps, seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    segmenter = Segmenter(arguments.bundle, threads=arguments.threads)
    torch.set_num_threads(arguments.threads)
    system = SYSTEMS["msformer"]
    paper = system.preset("paper")
    sizes = ModelSizes(paper.side or system.side, system.width, system.clusters, system.blocks)
    rows = []
    for path in arguments.images:
        image = read_image(path)
        segmenter.segment(image)  # warm-up
        ours = [seconds_of(segmenter, image) for _ in range(arguments.repeats)]
        network = PublishedMSFormer(sizes.side, sizes.width, sizes.clusters, sizes.blocks)
        network.load_state_dict(new_network(sizes, segmenter.bundle.seed).state_dict())
        tensor = torch.from_numpy(network_input(image, sizes.side)[None])
        start = time.perf_counter()
        _, steps = refine_as_published(network, tensor, paper.refinement)
        seconds = time.perf_counter() - start
        row = {
            "image": path.name,
            "published_steps": steps,
            "published_seconds": seconds,
            "ours_seconds": statistics.median(ours),
            "ratio": seconds / statistics.median(ours),
        }
        rows.append(row)
        print(
            f"{row['image']:<24} published {row['published_steps']:>2} steps {seconds:7.1f} s"
            f"   ours {row['ours_seconds']:6.3f} s   ratio {row['ratio']:6.1f}",
            flush=True,
        )
    published = statistics.mean(row["published_seconds"] for row in rows)
    ours = statistics.mean(row["ours_seconds"] for row in rows)
    print(f"mean over {len(rows)} images: published {published:.1f} s, ours {ours:.3f} s, ratio {published / ours:.1f}")
    if arguments.json:
        facts = {"machine": diagnose()["machine"], "torch": torch.__version__, "threads": arguments.threads}
        report = {**facts, "platform": platform.platform(), "rows": rows, "ratio_of_means": published / ours}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def seconds_of(segmenter: Segmenter, image: InputImage) -> float:
    """Seconds to segment one image."""
    start = time.perf_counter()
    segmenter.segment(image)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
