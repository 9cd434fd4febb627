"""The encoder on this CPU beside its matrix products alone: how much of its time is arithmetic that must be done.

    python studies/encoder_gemm.py --bundle BUNDLE [--threads 2] [--backend NAME]... [--seconds 20] [--json FILE]

Each round runs, one after the other, every product at exactly its shape with ``torch.mm`` into memory that is there,
and then the warm encoder of each backend on one image; so all see the same machine. Medians are shown. There are two
lists of products: those of the published encoder (fc1 once), and those left in the frozen one. Convolutions of the
image count as products, depthwise ones do not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from script import exit_code

from msformer_deploy import load_bundle
from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.bundle.folder import Bundle, ModelSizes
from msformer_deploy.doctor.diagnosis import diagnose
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.machine.cores import usable_cores
from msformer_deploy.models.msformer import EXPANSION

CPU_BACKENDS = ("onnxruntime", "openvino", "torch")
LISTS = ("published", "frozen")


class Product(NamedTuple):
    """(rows, inner) times (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def flop(self) -> int:
        return 2 * self.rows * self.inner * self.columns


def products(sizes: ModelSizes, which: str) -> list[Product]:
    """The encoder's matrix products for one image, in order.

    Args:
        sizes: of the network.
        which: ``published``, as the paper's network has them, or ``frozen``, what :mod:`.models.frozen` and the strips
            leave: no values, the output projection taken into the context, one kernel for four sub-pixels.
    """
    width, hidden, side = sizes.width, EXPANSION * sizes.width, sizes.side
    frozen, coarse = which == "frozen", (side + 1) // 2
    found = []
    for tokens in (side * side, coarse * coarse):
        found.append(Product(tokens, 27, width))  # patches of 3 x 3 x 3
        for block in range(sizes.blocks):
            projection, small = Product(tokens, width, width), Product(width, width, width)
            found += [projection] * (2 if frozen else 3)
            found += [Product(width, tokens, width), projection]  # context, and what attends to it
            found += [small] * (2 if block == sizes.blocks - 1 else 1) if frozen else [projection]
            found += [Product(tokens, width, hidden), Product(tokens, hidden, width)]
    found.append(Product(coarse * coarse, width, width if frozen else 4 * width))
    return found


def multiplier(wanted: Sequence[Product]) -> Callable[[], None]:
    """A function that computes all products, into memory that exists."""
    generator = torch.Generator().manual_seed(0)
    operands: dict[Product, tuple[torch.Tensor, ...]] = {}
    for rows, inner, columns in dict.fromkeys(wanted):
        left, right = (torch.randn(shape, generator=generator) for shape in ((rows, inner), (inner, columns)))
        operands[Product(rows, inner, columns)] = left, right, torch.empty(rows, columns)

    def multiply() -> None:
        for product in wanted:
            left, right, out = operands[product]
            torch.mm(left, right, out=out)

    return multiply


def rounds(subjects: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each subject, in turns, after one round that is not counted; at least three."""
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for run in subjects.values():
        run()
    end = time.perf_counter() + seconds
    for count in itertools.count():
        if count >= 3 and time.perf_counter() >= end:
            return samples
        for name, run in subjects.items():
            start = time.perf_counter_ns()
            run()
            samples[name].append((time.perf_counter_ns() - start) / 1e6)
    raise AssertionError


def measure(bundle: Bundle, names: Sequence[str], threads: int, seconds: float) -> dict[str, Any]:
    """The report: the two lists of products, each backend with its ratio to both, and what could not run."""
    lists = {which: products(bundle.sizes, which) for which in LISTS}
    subjects: dict[str, Callable[[], object]] = {which: multiplier(found) for which, found in lists.items()}
    side = bundle.sizes.side
    image = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    failures = {}
    torch.set_num_threads(threads)
    with ExitStack() as stack:
        for name in names:
            try:
                backend = stack.enter_context(open_backend(name, bundle, Device("cpu"), threads, precision="fp32"))
            except BackendUnavailable as error:
                failures[name] = str(error)
            else:
                subjects[name] = partial(backend.encode, image)
        samples = rounds(subjects, seconds)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "threads": threads,
        "rounds": len(samples[LISTS[0]]),
        "products": {
            which: {
                "gflop": sum(product.flop for product in found) / 1e9,
                "p50_ms": medians[which],
                "shapes": [list(product) for product in found],
            }
            for which, found in lists.items()
        },
        "encoders": {
            name: {
                "p50_ms": medians[name],
                "min_ms": min(samples[name]),
                "ratio": {which: medians[name] / medians[which] for which in LISTS},
            }
            for name in names
            if name in samples
        },
        "failures": failures,
    }


def show(report: dict[str, Any]) -> str:
    """The report as lines."""
    lines = [f"{report['rounds']} rounds, {report['threads']} threads"]
    for which, found in report["products"].items():
        rate = found["gflop"] / found["p50_ms"] * 1e3
        lines.append(
            f"{which + ' products':<20} {found['gflop']:6.1f} GFLOP {found['p50_ms']:8.1f} ms {rate:8.0f} GFLOP/s"
        )
    for name, found in report["encoders"].items():
        ratios = ", ".join(f"{found['ratio'][which]:.2f} of the {which} products" for which in LISTS)
        lines.append(f"{name:<20} {'':12} {found['p50_ms']:8.1f} ms  {ratios}")
    lines += [f"{name:<20} {reason}" for name, reason in report["failures"].items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--backend", action="append", choices=CPU_BACKENDS, help="repeatable; default: all")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: one per core")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error(f"--threads must be at least 1, got {arguments.threads}")
    return exit_code(run, arguments)


def run(arguments: argparse.Namespace) -> int:
    """What was asked for; 4 if there was no encoder to measure."""
    bundle = load_bundle(arguments.bundle)
    report = measure(bundle, arguments.backend or CPU_BACKENDS, arguments.threads, arguments.seconds)
    print(show(report))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report | {"machine": diagnose()}, indent=1) + "\n", encoding="utf-8")
    return 0 if report["encoders"] else 4


if __name__ == "__main__":
    sys.exit(main())
