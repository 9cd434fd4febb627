"""The published algorithm against ``run``'s default, on the same images, in one process.

    python benchmarks/vs_published.py IMAGE... [--bundle BUNDLE] [--threads 2] [--json FILE]

The published side is arranged as published: a fresh network per image, fc1 evaluated twice, autograd through
everything, SGD until three labels are left or 50 steps. Our side is what ``msformer-deploy run`` does for an image once
the bundle is loaded: preprocessing, encoder, refinement, foreground; repeated, the median taken. Neither side reads or
writes files within its time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from msformer_deploy import Segmenter, read_image
from msformer_deploy.diagnosis import diagnose
from msformer_deploy.imaging import network_input
from msformer_deploy.models.msformer import MixFeedForward
from msformer_deploy.network import new_network
from msformer_deploy.refine import refine_full
from msformer_deploy.registry import SYSTEMS


def published_forward(self: MixFeedForward, x: Tensor) -> Tensor:
    """The Mix-FFN with both of its fc1 calls and the skip as an addition of its own, as the public code has it."""
    tokens = x.flatten(1, 2)
    hidden = self.fc1(tokens)
    image = hidden.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[1:3])
    mixed = self.dwconv.dwconv(image).flatten(2).transpose(1, 2) + self.fc1(tokens)
    return self.fc2(F.gelu(self.norm1(mixed))).view_as(x)


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
    settings = SYSTEMS["msformer"].presets["evaluation"]
    rows = []
    for path in arguments.images:
        image = read_image(path)
        segmenter.segment(image)  # warm-up
        ours = [timed(lambda image=image: segmenter.segment(image))[0] for _ in range(arguments.repeats)]
        network = new_network(segmenter.bundle.sizes, segmenter.bundle.seed)
        tensor = torch.from_numpy(network_input(image, segmenter.bundle.sizes.side)[None])
        deployed_forward, MixFeedForward.forward = MixFeedForward.forward, published_forward
        try:
            seconds, outcome = timed(lambda network=network, tensor=tensor: refine_full(network, tensor, settings))
        finally:
            MixFeedForward.forward = deployed_forward
        row = {
            "image": path.name,
            "published_steps": len(outcome.trace),
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


def timed(call):
    """Seconds and result of one call."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
