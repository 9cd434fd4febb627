"""Mode ``head``: its stages, what its matrix products alone would take, and how a batch scales.

    python benchmarks/refinement.py BUNDLE IMAGE... [--threads 2] [--repeats 20] [--batch 8] [--json FILE]

Three loops alternate on the same features: the reference operations one after another, the refinement as it runs on
features with channels first in memory, and the same with channels last. Below them the products of the updates and of
the argmax at their shapes, each on data that is in the cache, as the least there can be. Times are medians in ms, with
the minimum beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msformer_deploy import load_bundle, read_image
from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.doctor.diagnosis import diagnose
from msformer_deploy.images.read import network_input
from msformer_deploy.kernels import reference
from msformer_deploy.refinement.head import refine_head
from msformer_deploy.registry import RefineSettings


def by_reference(features: Tensor, head: Tensor, settings: RefineSettings) -> tuple[Tensor, Tensor]:
    """Labels (B, S, S) and losses (steps, B) by the reference operations, without the stop and the guard."""
    pixels = features.flatten(2)
    heads = (settings.head_scale * head).expand(len(features), -1, -1).contiguous()
    velocity, losses = torch.zeros_like(heads), []
    samples = [pixels[:, :, phase :: settings.stride].contiguous() for phase in range(settings.stride)]
    for step in range(settings.steps):
        heads, velocity, loss, _ = reference.head_refine_step(
            samples[step % settings.stride], heads, velocity, 0, 1, settings.lr, settings.momentum
        )
        losses.append(loss)
    if not settings.regions:
        return reference.cluster_argmax(features, heads)[0], torch.stack(losses)
    counts = reference.cluster_argmax(samples[settings.steps % settings.stride].unsqueeze(3), heads)[1]
    ids = counts.sort(dim=1, descending=True, stable=True).indices[:, : settings.regions]
    kept = torch.stack([each[which] for each, which in zip(heads, ids, strict=True)])
    ranks = reference.cluster_argmax(features, kept)[0].long()
    labels = torch.stack([which[rank] for which, rank in zip(ids, ranks, strict=True)])
    return labels, torch.stack(losses)


def products(features: Tensor, head: Tensor, settings: RefineSettings) -> tuple[float, Callable[[], None]]:
    """GFLOP of one image's matrix products, and a call that makes just these."""
    channels, pixels = features.shape[1], features[0, 0].numel()
    samples = torch.randn(channels, -(-pixels // settings.stride))
    scores, gradient = head @ samples, torch.empty_like(head)
    kept = head[: settings.regions or None].contiguous()
    shared = kept @ samples
    checks = int(settings.regions > 0)  # products of a sample with all clusters, to see which ones to keep

    def run() -> None:
        for _ in range(settings.steps):
            torch.mm(head, samples, out=scores)
            torch.mm(scores, samples.T, out=gradient)
        for _ in range(checks):
            torch.mm(head, samples, out=scores)
        for _ in range(settings.stride):  # the argmax, in as many parts of the size of a sample
            torch.mm(kept, samples, out=shared)

    rows = (2 * settings.steps + checks) * len(head) + settings.stride * len(kept)
    return 2 * rows * head.shape[1] * samples.shape[1] / 1e9, run


def alternate(loops: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every loop; the first round warms up and is left out."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    for index in range(repeats + 1):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop()
            if index:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def stages(features: Tensor, head: Tensor, settings: RefineSettings, repeats: int) -> dict[str, float]:
    """Median milliseconds of gathering the samples, of one step and of the argmax."""
    times: dict[str, list[float]] = {"sample": [], "step": [], "argmax": []}
    last = 0.0

    def lap(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        times[stage].append(1e3 * (now - last))
        last = now

    for _ in range(repeats):
        last = time.perf_counter()
        refine_head(features, head, settings, lap=lap)
    return {stage: statistics.median(values) for stage, values in times.items()}


def encoded(bundle_path: Path, images: Sequence[Path], threads: int) -> tuple[Tensor, Tensor, RefineSettings]:
    """Features (n, C, S, S) of the images, the bundle's head and its settings."""
    bundle = load_bundle(bundle_path)
    backend = open_backend("auto", bundle, Device("cpu"), threads, "encoder", None)
    inputs = [network_input(read_image(path), bundle.sizes.side)[None] for path in images]
    features = [torch.as_tensor(backend.encode(each).features).contiguous().clone() for each in inputs]
    return torch.cat(features), torch.from_numpy(bundle.head()), bundle.refinement


def measure(features: Tensor, head: Tensor, settings: RefineSettings, batch: int, repeats: int) -> dict[str, Any]:
    """Everything that is printed."""
    one, several = features[:1], features.repeat(-(-batch // len(features)), 1, 1, 1)[:batch]
    last = one.contiguous(memory_format=torch.channels_last)
    labels, losses = by_reference(one, head, settings)
    for layout in (one, last):
        (outcome,) = refine_head(layout, head, settings)
        pairs = zip(outcome.trace, losses[:, 0].tolist(), strict=False)  # the reference does not stop at few labels
        difference = max((abs(step.cross_entropy - loss) for step, loss in pairs), default=0)
        unequal = int((outcome.labels != labels[0]).sum()) if len(outcome.trace) == settings.steps else 0
        if difference > 1e-5 or unequal > labels.numel() // 10_000:
            sys.exit(f"error: losses differ by {difference:.1e} from the reference, labels on {unequal} pixels")
    gflop, floor = products(one, head, settings)
    times = alternate(
        {
            "reference": lambda: by_reference(one, head, settings),
            "channels first": lambda: refine_head(one, head, settings),
            "channels last": lambda: refine_head(last, head, settings),
            f"batch of {batch}": lambda: refine_head(several, head, settings),
            "products alone": floor,
        },
        repeats,
    )
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "ms": median,
        "min_ms": {name: min(values) for name, values in times.items()},
        "stages_ms": {
            "channels first": stages(one, head, settings, repeats),
            "channels last": stages(last, head, settings, repeats),
        },
        "gflop": gflop,
        "gflops": gflop / (median["products alone"] / 1e3),
        "speedup": median["reference"] / median["channels first"],
        "scaling": batch * median["channels first"] / median[f"batch of {batch}"],
        "steps": len(refine_head(one, head, settings)[0].trace),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    features, head, settings = encoded(arguments.bundle, arguments.images, arguments.threads)
    facts = measure(features, head, settings, arguments.batch, arguments.repeats)
    for name, value in facts["ms"].items():
        print(f"{name:<16} {value:8.1f} ms   least {facts['min_ms'][name]:8.1f}")
    for layout, parts in facts["stages_ms"].items():
        told = ", ".join(f"{stage} {value:.1f}" for stage, value in parts.items())
        print(f"{layout}: {told} ms; {facts['steps']} steps")
    print(f"products: {facts['gflop']:.2f} GFLOP at {facts['gflops']:.0f} GFLOP/s")
    print(f"{facts['speedup']:.2f} times as fast as the reference; scaling of the batch {facts['scaling']:.2f}")
    if arguments.json:
        machine = {"machine": diagnose()["machine"], "torch": torch.__version__, "threads": arguments.threads}
        arguments.json.write_text(json.dumps({**machine, **facts}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
