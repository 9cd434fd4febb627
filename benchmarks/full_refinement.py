"""Steps of mode ``full`` beside steps of the published code, on one image from the same weights.

    python benchmarks/full_refinement.py IMAGE [--steps 5] [--threads 2] [--side 257] [--json FILE]

The steps alternate, so that a busy machine slows both; the first of each warms up. Losses must agree to 1e-4 and label
counts exactly at every step, or the script fails. Before that, each side makes two steps in a process of its own, for
its peak memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from published import PublishedLoop, PublishedMSFormer
from torch import Tensor

from msformer_deploy import read_image
from msformer_deploy.bundle import ModelSizes
from msformer_deploy.diagnosis import diagnose
from msformer_deploy.imaging import network_input
from msformer_deploy.network import new_network
from msformer_deploy.refine import refine_full
from msformer_deploy.registry import RefineSettings

# No stop at few labels: both sides make as many steps as are asked for.
SETTINGS = RefineSettings(mode="full", lr=0.1, inter_weight=1.5, intra_weight=1.3, stop_labels=0)
TOLERANCE = 1e-4
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def published_loop(sizes: ModelSizes) -> PublishedLoop:
    """The published side, at the weights of seed 0."""
    network = PublishedMSFormer(sizes.side, sizes.width, sizes.clusters, sizes.blocks)
    network.load_state_dict(new_network(sizes, 0).state_dict())
    return PublishedLoop(network, SETTINGS.lr, SETTINGS.momentum, SETTINGS.inter_weight, SETTINGS.intra_weight)


def compare(image: Tensor, sizes: ModelSizes, steps: int) -> dict[str, Any]:
    """Seconds of every step of both sides, by wall clock and of the processor, and their losses."""
    loop = published_loop(sizes)
    seconds: dict[str, dict[str, list[float]]] = {side: {name: [] for name in CLOCKS} for side in ("published", "ours")}
    published = []
    began = {name: clock() for name, clock in CLOCKS.items()}

    def note(side: str) -> None:
        for name, clock in CLOCKS.items():
            seconds[side][name].append(clock() - began[name])

    def lap(stage: str) -> None:
        """After each of our steps, one of theirs."""
        if stage == "step":
            note("ours")
            began.update({name: clock() for name, clock in CLOCKS.items()})
            published.append(loop.step(image))
            note("published")
            began.update({name: clock() for name, clock in CLOCKS.items()})

    outcome = refine_full(new_network(sizes, 0), image, replace(SETTINGS, steps=steps), lap=lap)
    ours = [(step.cross_entropy, step.inter_scale, step.intra_scale, step.label_count) for step in outcome.trace]
    return {"seconds": seconds, "losses": {"published": published, "ours": ours}}


def differences(losses: dict[str, list[tuple[float, ...]]]) -> list[str]:
    """Where the two sides do not make the same numbers."""
    return [
        f"step {index}: published {theirs}, ours {ours}"
        for index, (theirs, ours) in enumerate(zip(losses["published"], losses["ours"], strict=True))
        if any(abs(a - b) > TOLERANCE for a, b in zip(theirs, ours, strict=True))
    ]


def peak_memory(side: str, image: Tensor, sizes: ModelSizes, threads: int) -> float:
    """Peak memory in MB of two steps of one side; of this process, so call it in a fresh one."""
    torch.set_num_threads(threads)
    if side == "ours":
        refine_full(new_network(sizes, 0), image, replace(SETTINGS, steps=2))
    else:
        loop = published_loop(sizes)
        for _ in range(2):
            loop.step(image)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def report(image: Tensor, sizes: ModelSizes, steps: int, threads: int) -> dict[str, Any]:
    """All that is measured; prints it."""
    # First, because a process begins with the peak of the one that starts it.
    memory = {}
    for side in ("published", "ours"):
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            memory[side] = fresh.apply(peak_memory, (side, image, sizes, threads))
    torch.set_num_threads(threads)
    facts = {"peak_memory_mb": memory, **compare(image, sizes, steps + 1)}
    facts["ratio"] = {}
    for clock in CLOCKS:
        theirs, ours = (facts["seconds"][side][clock][1:] for side in ("published", "ours"))
        ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
        facts["ratio"][clock] = ratio
        print(
            f"{clock + ' seconds per step':<24} published {statistics.median(theirs):7.3f}"
            f"   ours {statistics.median(ours):7.3f}   ratio {ratio:5.2f}"
        )
    print(f"{'peak memory, MB':<24} published {memory['published']:7.0f}   ours {memory['ours']:7.0f}")
    return facts


def main() -> None:
    """Print the ratio of both sides' steps; exit 1 where their numbers differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=257)
    parser.add_argument("--width", type=int, default=100, help="of the embedding; as many clusters")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sizes = ModelSizes(arguments.side, arguments.width, arguments.width, 2)
    image = torch.from_numpy(network_input(read_image(arguments.image), arguments.side)[None])
    facts = report(image, sizes, arguments.steps, arguments.threads)
    if arguments.json:
        machine = {"machine": diagnose()["machine"], "torch": torch.__version__, "threads": arguments.threads}
        arguments.json.write_text(json.dumps({**machine, **facts}, indent=1) + "\n", encoding="utf-8")
    wrong = differences(facts["losses"])
    if wrong:
        sys.exit("error: the two sides make different numbers:\n" + "\n".join(wrong))
    print(f"the same losses to {TOLERANCE:g} and label counts, {len(facts['losses']['ours'])} steps")


if __name__ == "__main__":
    main()
