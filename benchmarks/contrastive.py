"""The contrastive loss of one group of pixels, forward and backward, beside the arrangement of the published code.

    python benchmarks/contrastive.py [--pixels 2888] [--channels 128] [--threads 2] [--repeats 20] [--json FILE]

By default the group is one of full scale: a block of 19 x 19 pixels of each of two views of four slices. The published
arrangement makes the whole matrix of similarities, asks for the weight of every pixel in a Python loop, and leaves the
rest to autograd. The two alternate, so that a busy machine slows both; the first of each warms up. Losses must agree to
1e-4 and gradients to 1e-4 of the largest, or the script fails. Before that each runs once in a process of its own, for
the memory that it takes beyond what was there.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from msformer_deploy.diagnosis import diagnose
from msformer_deploy.losses.contrastive import TEMPERATURE, group_loss

MAPS = 8  # two views of four slices
SHARES = (0.7, 0.1, 0.1, 0.1)  # of the classes, background first
TOLERANCE = 1e-4


def published_loss(features: Tensor, labels: Tensor) -> Tensor:
    """The loss as kathyliu579/MCSC arranges it, but with each pixel's own label."""
    pixels = features.permute(0, 2, 3, 1).flatten(0, 2)
    similarities = F.conv2d(features, pixels[:, :, None, None]) / TEMPERATURE  # every pixel is a kernel
    similarities = similarities.transpose(0, 1).flatten(1)
    column = labels.flatten()[:, None]
    counts = F.one_hot(column[:, 0], len(SHARES)).float().sum(dim=0)
    others = 1 - torch.eye(len(column))
    positive = (column == column.T).float() * others
    weights = torch.tensor([counts[label] for label in column[:, 0]])[None] - positive
    denominators = ((similarities.exp() * others) / weights).sum(dim=1, keepdim=True)
    logarithms = similarities - (denominators + 1e-6).log()
    return -((positive * logarithms).sum(dim=1) / (positive.sum(dim=1) + 1e-6)).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"published": published_loss, "ours": group_loss}


def side_of(pixels: int) -> int:
    """Of a block."""
    return math.isqrt(pixels // MAPS)


def group(pixels: int, channels: int) -> tuple[Tensor, Tensor]:
    """Unit vectors (8, D, s, s) with a gradient, and labels (8, s, s), of a fixed seed; 8 s^2 are the pixels."""
    generator = torch.Generator().manual_seed(0)
    shape = (MAPS, side_of(pixels), side_of(pixels))
    labels = torch.multinomial(torch.tensor(SHARES), pixels, replacement=True, generator=generator).view(shape)
    drawn = torch.randn(MAPS, channels, *shape[1:], generator=generator)
    return F.normalize(drawn, dim=1).requires_grad_(), labels


def run(side: str, features: Tensor, labels: Tensor) -> tuple[float, float, Tensor]:
    """Seconds, loss and gradient of one forward and backward pass."""
    start = time.perf_counter()
    loss = LOSSES[side](features, labels)
    (gradient,) = torch.autograd.grad(loss, features)
    return time.perf_counter() - start, loss.item(), gradient


def peak_memory(side: str, pixels: int, channels: int, threads: int) -> float:
    """MB that one pass adds to this process's peak, so call it in a fresh one."""
    torch.set_num_threads(threads)
    data = group(pixels, channels)
    run(side, *group(MAPS * 4, channels))  # libraries load what they need
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(side, *data)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6


def measure(pixels: int, channels: int, threads: int, repeats: int) -> dict[str, Any]:
    """All that is printed."""
    memory = {}
    for side in LOSSES:  # first, because a process begins with the peak of the one that starts it
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            memory[side] = fresh.apply(peak_memory, (side, pixels, channels, threads))
    torch.set_num_threads(threads)
    data = group(pixels, channels)
    seconds: dict[str, list[float]] = {side: [] for side in LOSSES}
    for index in range(repeats + 1):
        found = {side: run(side, *data) for side in LOSSES}
        check(found["published"], found["ours"])
        for side in seconds:
            if index:
                seconds[side].append(found[side][0])
    ratios = [theirs / ours for theirs, ours in zip(seconds["published"], seconds["ours"], strict=True)]
    return {
        "pixels": pixels,
        "channels": channels,
        "ms": {side: 1e3 * statistics.median(each) for side, each in seconds.items()},
        "min_ms": {side: 1e3 * min(each) for side, each in seconds.items()},
        "peak_memory_mb": memory,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "memory_ratio": memory["published"] / max(memory["ours"], 0.1),
    }


def check(theirs: tuple[float, float, Tensor], ours: tuple[float, float, Tensor]) -> None:
    """Exit where the two do not compute the same."""
    loss = abs(theirs[1] - ours[1])
    gradient = ((theirs[2] - ours[2]).abs().max() / theirs[2].abs().max()).item()
    if not (loss <= TOLERANCE and gradient <= TOLERANCE):
        sys.exit(f"error: losses differ by {loss:.1e}, gradients by {gradient:.1e} of the largest")


def show(facts: dict[str, Any]) -> str:
    """The table, in Markdown."""
    lines = ["| | median ms | least ms | peak memory, MB |", "|---|---:|---:|---:|"]
    for side in LOSSES:
        cells = (facts["ms"][side], facts["min_ms"][side], facts["peak_memory_mb"][side])
        lines.append(f"| {side} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    low, high = facts["ratio_range"]
    lines.append(f"| ratio | {facts['ratio']:.1f} ({low:.1f} to {high:.1f}) | | {facts['memory_ratio']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=MAPS * 19 * 19, help=f"of the group, {MAPS} squares")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.pixels < 4 * MAPS or arguments.pixels != MAPS * side_of(arguments.pixels) ** 2:
        parser.error(f"--pixels {arguments.pixels}: a group has {MAPS} square blocks, so give {MAPS} times a square")
    facts = measure(arguments.pixels, arguments.channels, arguments.threads, arguments.repeats)
    print(f"{facts['pixels']} pixels of {facts['channels']} channels, {arguments.threads} threads\n")
    print(show(facts))
    if arguments.json:
        machine = {"machine": diagnose()["machine"], "torch": torch.__version__, "threads": arguments.threads}
        arguments.json.write_text(json.dumps({**machine, **facts}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
