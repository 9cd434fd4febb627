"""The contrastive loss, forward and backward, beside the arrangement of the published code.

    python studies/contrastive.py [--slices FOLDER] [--block 19] [--side 224] [--channels 128]
                                     [--threads 2] [--device cuda] [--repeats N] [--json FILE]

Without slices, one group of blocks with random labels: of full scale by default, a block of 19 x 19 pixels of each of
two views of four slices. With slices, all groups of an update: HDF5 files with labels, of which four are drawn anew
for each measurement, resized to the side and tiled as published.

The published arrangement makes the whole matrix of similarities, asks for the weight of every pixel in a Python loop,
and leaves the rest to autograd. It does so for groups of background alone as well, and then throws them away. Graphs of
all groups of an update at once would need tens of gigabytes, so here each group is followed by its backward pass, which
is no slower. Features are random unit vectors; cutting maps into groups counts on both sides, projectors on neither.

``products`` are torch's matrix products alone that both need at least: half of the similarities, which are symmetric,
and the gradient. What the published arrangement takes beside them bounds the ratio that any exact one can have.

All alternate, so that a busy machine slows them alike; a first measurement of each warms up. Losses must agree to 1e-4,
and gradients to 1e-4 of the largest, or the script fails. Before that each runs once in a process of its own, for the
memory that it takes beyond what was there.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from msformer_deploy.doctor.diagnosis import diagnose
from msformer_deploy.errors import BackendUnavailable, DeployError
from msformer_deploy.images.read import resize_nearest
from msformer_deploy.losses.contrastive import TEMPERATURE, contrastive_loss, draw_groups, group_loss
from msformer_deploy.training.semi_supervised.slices import find_slices, read_labels

DRAWN = 4
MAPS = 2 * DRAWN  # views
SHARES = (0.7, 0.1, 0.1, 0.1)  # of the classes in a group, background first
TOLERANCE = 1e-4
SIDES = ("published", "ours")


class Case(NamedTuple):
    """What is measured.

    Attributes:
        features: unit vectors (8, D, h, w) with a gradient.
        labels: int64 (8, h, w).
        block: side of the blocks in an update; None for one group.
        seed: of the order of blocks.
    """

    features: Tensor
    labels: Tensor
    block: int | None = None
    seed: int = 0


def published_loss(features: Tensor, labels: Tensor) -> Tensor:
    """The loss of a group as kathyliu579/MCSC arranges it, but with each pixel's own label."""
    pixels = features.permute(0, 2, 3, 1).flatten(0, 2)
    similarities = F.conv2d(features, pixels[:, :, None, None]) / TEMPERATURE  # every pixel is a kernel
    similarities = similarities.transpose(0, 1).flatten(1)
    column = labels.flatten()[:, None]
    counts = F.one_hot(column[:, 0], len(SHARES)).float().sum(dim=0)
    others = 1 - torch.eye(len(column), device=features.device)
    positive = (column == column.T).float() * others
    weights = torch.tensor([counts[label] for label in column[:, 0]], device=features.device)[None] - positive
    denominators = ((similarities.exp() * others) / weights).sum(dim=1, keepdim=True)
    logarithms = similarities - (denominators + 1e-6).log()
    return -((positive * logarithms).sum(dim=1) / (positive.sum(dim=1) + 1e-6)).mean()


def published(case: Case) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    if case.block is None:
        loss = published_loss(case.features, case.labels)
        return loss, torch.autograd.grad(loss, case.features)[0]
    # Classes from 1 on leave no group out, and draw the same ones.
    groups = draw_groups(case.labels + 1, case.block, generator=_generator(case.seed), published_tiling=True)
    picked = groups.pick(case.features)
    kept, losses, gradients = 0, [], []
    for blocks, shifted in zip(picked.detach().tensor_split(len(groups.labels), dim=2), groups.labels, strict=True):
        labels, leaf = shifted - 1, blocks.unflatten(2, shifted.shape[1:])[..., 0].requires_grad_()
        loss = published_loss(leaf, labels)
        if labels.sum() == 0:
            gradients.append(torch.zeros_like(blocks))
            continue
        kept += 1
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, leaf)[0].flatten(2)[..., None])
    return torch.stack(losses).mean(), torch.autograd.grad(picked, case.features, torch.cat(gradients, dim=2) / kept)[0]


def ours(case: Case) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    if case.block is None:
        loss = group_loss(case.features, case.labels)
    else:
        groups = draw_groups(case.labels, case.block, generator=_generator(case.seed), published_tiling=True)
        loss = contrastive_loss(groups.pick(case.features), groups)
    return loss, torch.autograd.grad(loss, case.features)[0]


def products(case: Case, groups: int) -> float:
    """Seconds of the bare products of so many groups of the case's pixels."""
    block = case.block or case.features.shape[-1]
    pixels = case.features.detach()[..., :block, :block].permute(0, 2, 3, 1).flatten(0, 2)
    slopes = torch.rand(len(pixels), len(pixels), device=pixels.device)
    start = _now(case)
    for _ in range(groups):
        torch.mm(pixels[: len(pixels) // 2], pixels.T)
        torch.mm(slopes, pixels)
    return _now(case) - start


def on(device: str, case: Case) -> Case:
    """The same on a device."""
    return case._replace(features=case.features.detach().to(device).requires_grad_(), labels=case.labels.to(device))


def made_on(device: str, make: Callable[..., Case], seed: int) -> Case:
    """The case of a seed; a function that another process can be given."""
    return on(device, make(seed=seed))


def group(block: int, channels: int, seed: int = 0) -> Case:
    """One group with labels that are drawn pixel by pixel."""
    generator = _generator(seed)
    labels = torch.multinomial(torch.tensor(SHARES), MAPS * block**2, replacement=True, generator=generator)
    shape = (MAPS, block, block)
    return Case(_unit(MAPS, channels, *shape[1:], generator=generator), labels.view(shape))


def draw_labels(folder: Path, side: int, seed: int) -> Tensor:
    """Of both views of four slices of a folder, int64 (8, side, side)."""
    labelled = [each for each in find_slices(folder) if each.labelled]
    if len(labelled) < DRAWN:
        sys.exit(f"error: {folder}: {len(labelled)} slices with labels, {DRAWN} are needed")
    drawn = np.random.default_rng(seed).choice(len(labelled), DRAWN, replace=False)
    truths = [resize_nearest(read_labels(labelled[index], range(len(SHARES))), side, side) for index in drawn]
    labels = torch.from_numpy(np.stack(truths).astype(np.int64)).repeat(2, 1, 1)
    if not labels.any():
        sys.exit(f"error: {folder}: {DRAWN} slices drawn with seed {seed} are all background")
    return labels


def update(folder: Path, side: int, block: int, channels: int, seed: int = 0) -> Case:
    """All groups of :func:`draw_labels`."""
    features = _unit(MAPS, channels, side, side, generator=_generator(seed))
    return Case(features, draw_labels(folder, side, seed), block, seed)


def run(side: str, case: Case) -> tuple[float, float, Tensor]:
    """Seconds, loss and gradient of one forward and backward pass."""
    start = _now(case)
    loss, gradient = {"published": published, "ours": ours}[side](case)
    return _now(case) - start, loss.item(), gradient


def _now(case: Case) -> float:
    """Seconds, once the device has done what it was given."""
    if case.features.is_cuda:
        torch.cuda.synchronize(case.features.device)
    return time.perf_counter()


def peak_memory(side: str, make: Callable[..., Case], threads: int) -> float:
    """MB that one pass adds to the peak of this process, or of its GPU; so call it in a fresh one."""
    torch.set_num_threads(threads)
    case = make(seed=0)
    run(side, on(case.features.device.type, group(2, case.features.shape[1])))  # libraries load what they need
    if case.features.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(side, case)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(side, case)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6


def measure(make: Callable[..., Case], threads: int, repeats: int) -> dict[str, Any]:
    """All that is printed.

    Args:
        make: the case of a seed.
        threads: of torch.
        repeats: measurements, each of a seed of its own.
    """
    memory = {}
    for side in SIDES:  # first, because a process begins with the peak of the one that starts it
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            memory[side] = fresh.apply(peak_memory, (side, make, threads))
    torch.set_num_threads(threads)
    seconds: dict[str, list[float]] = {side: [] for side in (*SIDES, "products")}
    groups = []
    for index in range(-1, repeats):
        case = make(seed=max(index, 0))
        found = {side: run(side, case) for side in SIDES}
        check(found["published"], found["ours"])
        kept, every = count(case)
        bare = products(case, kept)
        if index >= 0:
            groups.append((kept, every))
            for side in SIDES:
                seconds[side].append(found[side][0])
            seconds["products"].append(bare)
    ratios = [theirs / mine for theirs, mine in zip(seconds["published"], seconds["ours"], strict=True)]
    bounds = [theirs / bare for theirs, bare in zip(seconds["published"], seconds["products"], strict=True)]
    return {
        "groups": groups,
        "ms": {side: 1e3 * statistics.median(each) for side, each in seconds.items()},
        "min_ms": {side: 1e3 * min(each) for side, each in seconds.items()},
        "peak_memory_mb": memory,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "bound": statistics.median(bounds),
        "bounds": bounds,
        "memory_ratio": memory["published"] / max(memory["ours"], 0.1),
    }


def count(case: Case) -> tuple[int, int]:
    """Groups with foreground, and all of them."""
    if case.block is None:
        return 1, 1
    kept, every = (
        len(draw_groups(labels, case.block, generator=_generator(case.seed), published_tiling=True).labels)
        for labels in (case.labels, case.labels + 1)
    )
    return kept, every


def check(theirs: tuple[float, float, Tensor], mine: tuple[float, float, Tensor]) -> None:
    """Exit where the two do not compute the same."""
    loss = abs(theirs[1] - mine[1]) / abs(theirs[1])
    gradient = ((theirs[2] - mine[2]).abs().max() / theirs[2].abs().max()).item()
    if not (loss <= TOLERANCE and gradient <= TOLERANCE):
        sys.exit(f"error: losses differ by {loss:.1e} of theirs, gradients by {gradient:.1e} of the largest")


def show(facts: dict[str, Any]) -> str:
    """The table, in Markdown."""
    lines = ["| | median ms | least ms | peak memory, MB |", "|---|---:|---:|---:|"]
    for side in SIDES:
        cells = (facts["ms"][side], facts["min_ms"][side], facts["peak_memory_mb"][side])
        lines.append(f"| {side} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    lines.append(f"| products | {facts['ms']['products']:.1f} | {facts['min_ms']['products']:.1f} | |")
    low, high = min(facts["ratios"]), max(facts["ratios"])
    lines.append(f"| ratio | {facts['ratio']:.1f} ({low:.1f} to {high:.1f}) | | {facts['memory_ratio']:.1f} |")
    low, high = min(facts["bounds"]), max(facts["bounds"])
    lines.append(f"| ratio, all but the products free | {facts['bound']:.1f} ({low:.1f} to {high:.1f}) | | |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=Path, help="folder of labelled HDF5 slices: measure all groups of an update")
    parser.add_argument("--block", type=int, default=19, help="side of a block, pixels")
    parser.add_argument("--side", type=int, default=224, help="of the slices, pixels")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, help="20 of a group, 3 of an update by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    block, channels, threads = arguments.block, arguments.channels, arguments.threads
    sizes = {"block": block, "channels": channels, "threads": threads, "device": arguments.device}
    make: Callable[..., Case] = functools.partial(group, block, channels)
    if block < 2 or (arguments.slices and arguments.side < 2 * block):
        parser.error(f"--block {block}: give 2 or more, and of slices at most half of their side {arguments.side}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: torch finds no CUDA GPU; drop --device", file=sys.stderr)
        sys.exit(BackendUnavailable.exit_code)
    repeats = arguments.repeats or (3 if arguments.slices else 20)
    try:
        if arguments.slices:
            for seed in range(repeats):  # here, because a process of a pool that exits is waited for
                draw_labels(arguments.slices, arguments.side, seed)
            make = functools.partial(update, arguments.slices, arguments.side, block, channels)
            sizes["side"] = arguments.side
        facts = measure(functools.partial(made_on, arguments.device, make), threads, repeats)
    except DeployError as error:
        parser.error(str(error))
    kept = ", ".join(f"{few} of {every}" for few, every in dict.fromkeys(facts["groups"]))
    print(f"{MAPS} blocks of {block} x {block} pixels, {channels} channels, {threads} threads, {arguments.device}")
    print(f"groups with foreground: {kept}\n")
    print(show(facts))
    if arguments.json:
        machine = {"machine": diagnose()["machine"], "torch": torch.__version__}
        if arguments.device == "cuda":
            machine["gpu"] = torch.cuda.get_device_name()
        arguments.json.write_text(json.dumps({**machine, **sizes, **facts}, indent=1) + "\n", encoding="utf-8")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _unit(*shape: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(shape, generator=generator), dim=1).requires_grad_()


if __name__ == "__main__":
    main()
