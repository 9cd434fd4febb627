"""Steps of mode ``full`` beside steps of the published code, on one image from the same weights.

    python studies/full_refinement.py IMAGE [--steps 5] [--device cuda] [--threads 2] [--side 257] [--json FILE]

On a CPU the steps alternate, so that a busy machine slows both; the first of each warms up. Losses must agree to 1e-4
and label counts exactly at every step, or the script fails. Before that, each side makes two steps in a process of its
own, for its peak memory.

On a GPU, which is taken where there is one, the published loop, ours as it runs by default, and ours compiled, in
mixed precision and both make so many steps, one side after the other, after three that are not counted. The GPU is
waited for after every step. Told are the median step, the first one, which compiles, and how far the final labels are
the published ones; what cannot run here is told as well.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from published import PublishedLoop, PublishedMSFormer
from torch import Tensor

from msformer_deploy import read_image
from msformer_deploy.backends.base import parse_device
from msformer_deploy.backends.torch import torch_device
from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.doctor.diagnosis import diagnose
from msformer_deploy.errors import DeployError
from msformer_deploy.images.read import network_input
from msformer_deploy.measures.overlap import agreement, match_labels
from msformer_deploy.refinement.full import refine_full
from msformer_deploy.refinement.passes import Passes, require_compiler
from msformer_deploy.registry import Precision, RefineSettings
from msformer_deploy.weights.network import new_network

# No stop at few labels: both sides make as many steps as are asked for.
SETTINGS = RefineSettings(mode="full", lr=0.1, inter_weight=1.5, intra_weight=1.3, stop_labels=0)
TOLERANCE = 1e-4
CPU = torch.device("cpu")
VARIANTS: tuple[tuple[Precision, bool], ...] = (("fp32", False), ("fp32", True), ("fp16", False), ("fp16", True))
WARM_UP = 3  # steps on a GPU that are not timed: libraries are loaded, code is compiled, memory is taken
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def published_loop(sizes: ModelSizes, device: torch.device = CPU) -> PublishedLoop:
    """The published side, at the weights of seed 0."""
    network = PublishedMSFormer(sizes.side, sizes.width, sizes.clusters, sizes.blocks)
    network.load_state_dict(new_network(sizes, 0).state_dict())
    network.to(device)
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


class Side(NamedTuple):
    """What one side did on a GPU."""

    seconds: list[float]  # of every step, the first ones included
    losses: list[tuple[float, ...]]
    labels: NDArray[np.integer]  # (S, S), after the last step

    @property
    def step(self) -> float:
        """Median seconds of the steps that are timed."""
        return statistics.median(self.seconds[WARM_UP:])


def timed(device: torch.device) -> tuple[list[float], Callable[[], None]]:
    """A list that gets the seconds since the call before at every call, once the device has done what it was given."""
    seconds: list[float] = []
    began = time.perf_counter()

    def note() -> None:
        nonlocal began
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()

    return seconds, note


def published_side(image: Tensor, sizes: ModelSizes, steps: int) -> Side:
    """The published loop on the image's device."""
    loop, losses = published_loop(sizes, image.device), []
    seconds, note = timed(image.device)
    for _ in range(steps):
        losses.append(loop.step(image))
        note()
    with torch.no_grad():
        return Side(seconds, losses, loop.network(image)[0].argmax(dim=1)[0].cpu().numpy())


def our_side(image: Tensor, sizes: ModelSizes, steps: int, passes: Passes) -> Side:
    """Ours on the image's device."""
    network = new_network(sizes, 0).to(image.device)
    seconds, note = timed(image.device)
    outcome = refine_full(
        network,
        image,
        replace(SETTINGS, steps=steps),
        lap=lambda stage: note() if stage == "step" else None,
        passes=passes,
    )
    losses = [(step.cross_entropy, step.inter_scale, step.intra_scale, step.label_count) for step in outcome.trace]
    return Side(seconds, losses, outcome.labels.cpu().numpy())


def report_on_gpu(image: Tensor, sizes: ModelSizes, steps: int) -> dict[str, Any]:
    """All that is measured on the image's device, by side; prints it."""
    theirs = published_side(image, sizes, WARM_UP + steps)
    sides = {"published": theirs}
    for precision, compiled in VARIANTS:
        name = f"ours {precision}" + (" compiled" if compiled else "")
        try:
            if compiled:
                require_compiler(image.device.type)
            sides[name] = our_side(image, sizes, WARM_UP + steps, Passes(precision, compiled))
        except DeployError as error:
            print(f"{name}: {error}")
    facts = {}
    print(f"{'':<22}{'ms a step':>10}{'x':>7}{'first, s':>10}{'labels agree':>14}   last cross-entropy and labels")
    for name, side in sides.items():
        facts[name] = {
            "seconds": side.seconds,
            "ratio": theirs.step / side.step,
            "label_agreement": agreement(match_labels(side.labels, theirs.labels), theirs.labels),
            "losses": side.losses,
        }
        told = facts[name]
        print(
            f"{name:<22}{1e3 * side.step:>10.2f}{told['ratio']:>7.2f}{side.seconds[0]:>10.1f}"
            f"{told['label_agreement']:>14.2%}   {side.losses[-1][0]:.4f} {side.losses[-1][3]}"
        )
    return facts


def main() -> None:
    """Print the ratio of both sides' steps; exit 1 where their numbers differ on a CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=257)
    parser.add_argument("--width", type=int, default=100, help="of the embedding; as many clusters")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sizes = ModelSizes(arguments.side, arguments.width, arguments.width, 2)
    image = torch.from_numpy(network_input(read_image(arguments.image), arguments.side)[None])
    try:
        device = torch_device(parse_device(arguments.device))
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    on_gpu = device.type == "cuda"
    if on_gpu:
        facts = report_on_gpu(image.to(device), sizes, arguments.steps)
    else:
        facts = report(image, sizes, arguments.steps, arguments.threads)
    if arguments.json:
        machine = {"machine": diagnose()["machine"], "torch": torch.__version__, "threads": arguments.threads}
        if on_gpu:
            machine["gpu"] = torch.cuda.get_device_name(device)
        arguments.json.write_text(json.dumps({**machine, **facts}, indent=1) + "\n", encoding="utf-8")
    if on_gpu:
        return
    wrong = differences(facts["losses"])
    if wrong:
        sys.exit("error: the two sides make different numbers:\n" + "\n".join(wrong))
    print(f"the same losses to {TOLERANCE:g} and label counts, {len(facts['losses']['ours'])} steps")


if __name__ == "__main__":
    main()
