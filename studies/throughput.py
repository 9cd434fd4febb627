"""Images per second of ``msformer-deploy run`` on a folder, against its encoder alone on the same images.

    python studies/throughput.py INPUT... --bundle BUNDLE [--threads 2] [--learning-threads 1] [--writers 2]
                                    [--processes 0] [--batch 1] [--rounds 5] [--ways around] [--json FILE]

Each round does all images in four ways, one after the other, so that whatever else the machine does meets them alike:

    encoder     the encoder's calls alone, on inputs made before
    run         what ``run`` does: decode, segment, write all files, the stages overlapped
    around      the same around a network that takes no time, for what it found was kept: the bound for any accelerator
    serial      the same as ``run``, one stage after the other

Wall-clock is what counts on a machine that does nothing else. CPU seconds, of all threads and processes, are little
disturbed by other work, and say what the stages beside the encoder cost it when all cores are busy. With
``--processes`` both have the start of the processes in them, so many images are needed. What the main process spends on
an image bounds how many images a second any number of processes can do.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from script import exit_code

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import parse_device
from msformer_deploy.commands.output import complain
from msformer_deploy.commands.segmenters import learning_threads, writing_threads
from msformer_deploy.doctor.diagnosis import diagnose
from msformer_deploy.errors import DeployError
from msformer_deploy.images.inputs import Item, discover
from msformer_deploy.images.read import network_input, read_image
from msformer_deploy.results import report
from msformer_deploy.results.batch import BatchRun
from msformer_deploy.results.formats import Wanted
from msformer_deploy.segmenter import Learned, Prepared

Way = Callable[[], None]
WAYS = ("run", "around", "serial")


def ways(arguments: argparse.Namespace, items: Sequence[Item], scratch: Path) -> dict[str, Way]:
    """What is compared, each ready to be called; every call does all images."""
    bundle = load_bundle(arguments.bundle)
    device = parse_device(arguments.device)
    asked = {"backend": arguments.backend, "device": arguments.device, "threads": arguments.threads}
    learning = arguments.learning_threads or learning_threads(arguments.threads)
    segmenter = Segmenter(bundle, **asked, learning_threads=learning)
    alone = open_backend(arguments.backend, bundle, device, arguments.threads, "encoder", segmenter.precision)
    groups = [items[first : first + arguments.batch] for first in range(0, len(items), arguments.batch)]
    inputs = [np.stack([network_input(read_image(item.path), bundle.sizes.side) for item in group]) for group in groups]

    def encoder() -> None:
        for images in inputs:
            alone.encode(images)
        wait_for(alone.device)

    def run(segmenter: Segmenter = segmenter) -> None:
        given = (scratch, arguments.batch, False, True, arguments.writers, complain, Wanted())
        batch_run = BatchRun(segmenter, items, *given, processes=arguments.processes)
        batch_run.run()
        if failed := [record["error"] for record in batch_run.records() if record["error"]]:
            raise DeployError(failed[0])

    knowing, undisturbed = with_answers(segmenter, items), Segmenter(bundle, **asked)

    def serial() -> None:
        for group in groups:
            results = undisturbed.segment_batch([read_image(item.path) for item in group])
            for item, result in zip(group, results, strict=True):
                report.write_results(item, scratch, result, undisturbed, Wanted())

    compared: dict[str, Way] = {"run": run, "around": lambda: run(knowing), "serial": serial}
    return {"encoder": encoder, **{name: compared[name] for name in arguments.ways}}


def wait_for(device: str) -> None:
    """Let a GPU finish what it was given: a call returns before that, and its time would be that of queueing."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def with_answers(segmenter: Segmenter, items: Sequence[Item]) -> Segmenter:
    """The same segmenter, which knows at once what its network finds in these images."""
    found = {}
    for item in items:
        (learned,) = segmenter.learn([segmenter.prepare(read_image(item.path))])
        found[learned.prepared.image.name] = learned.refinement

    def recall(
        prepared: Sequence[Prepared], progress: Callable[[int, int], None] | None = None, *, keep: bool = False
    ) -> list[Learned]:
        return [Learned(each, found[each.image.name], {}, {}) for each in prepared]

    knowing = copy.copy(segmenter)
    knowing._strategy = copy.copy(segmenter._strategy)  # which stays here when processes finish
    knowing._strategy.learn = recall
    return knowing


def measure(compared: dict[str, Way], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Wall-clock and CPU seconds of every way in every round, after one round to warm up."""
    for way in compared.values():
        way()
    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": [], "main": []} for name in compared}
    for _ in range(rounds):
        for name, way in compared.items():
            wall, cpu, main = time.perf_counter(), cpu_seconds(), time.process_time()
            way()
            seconds[name]["wall"].append(time.perf_counter() - wall)
            seconds[name]["cpu"].append(cpu_seconds() - cpu)
            seconds[name]["main"].append(time.process_time() - main)
    return seconds


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system


def summarise(seconds: dict[str, dict[str, list[float]]], images: int) -> list[dict[str, Any]]:
    """One row per way: medians over rounds, shares of the encoder's throughput within a round, and the raw seconds."""
    encoder = seconds["encoder"]
    return [
        {
            "way": name,
            "images_per_second": images / statistics.median(spent["wall"]),
            "cpu_seconds_per_image": statistics.median(spent["cpu"]) / images,
            "main_cpu_seconds_per_image": statistics.median(spent["main"]) / images,
            "share_of_encoder": statistics.median(np.divide(encoder["wall"], spent["wall"]).tolist()),
            "cpu_over_encoder": statistics.median(np.divide(spent["cpu"], encoder["cpu"]).tolist()),
            "seconds": spent,
        }
        for name, spent in seconds.items()
    ]


def main() -> int:
    """Print the table; the exit code is that of the failure, if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, help="images, or folders of them")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--learning-threads", type=int, help="that learn in run, which leaves one core by default")
    parser.add_argument("--writers", type=int, default=writing_threads(), help="threads that draw and write")
    parser.add_argument("--processes", type=int, help="that read, draw and write; 0 for threads; without it as in run")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="beside the encoder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where all numbers go")
    arguments = parser.parse_args()
    counts = {"batch": arguments.batch, "writers": arguments.writers, "rounds": arguments.rounds}
    counts["learning-threads"] = 1 if arguments.learning_threads is None else arguments.learning_threads
    if few := [name for name, value in counts.items() if value < 1]:
        parser.error(f"--{few[0]} is at least 1")
    return exit_code(run, arguments)


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    items = discover(arguments.inputs)
    with tempfile.TemporaryDirectory() as scratch:
        rows = summarise(measure(ways(arguments, items, Path(scratch)), arguments.rounds), len(items))
    print(
        f"{len(items)} images, batch {arguments.batch}, {arguments.writers} writing threads, processes:"
        f" {'as in run' if arguments.processes is None else arguments.processes}, {arguments.rounds} rounds; medians"
    )
    print(f"{'':10} {'images/s':>9} {'of encoder':>11} {'CPU s/image':>12} {'over encoder':>13} {'main process':>13}")
    for row in rows:
        print(
            f"{row['way']:10} {row['images_per_second']:9.3f} {row['share_of_encoder']:11.1%}"
            f" {row['cpu_seconds_per_image']:12.3f} {row['cpu_over_encoder']:13.3f}"
            f" {row['main_cpu_seconds_per_image']:13.4f}"
        )
    if arguments.json is not None:
        settings = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(arguments).items()
            if key not in ("inputs", "json")
        }
        facts = {"images": [str(item.path) for item in items], "settings": settings, "machine": diagnose()}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
