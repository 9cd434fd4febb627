"""Every backend and precision of a bundle on this machine: agreement with fp32 on the CPU, and milliseconds.

    python benchmarks/backends.py --bundle BUNDLE [--device cuda] [--images FOLDER] [--json FILE]

Without a bundle one is made, with fp16 graphs, and with engines where TensorRT builds them. What cannot run says why.
Times are medians for one image after warm-up, images in rotation; a GPU is waited for before the clock is read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msformer_deploy import Segmenter, load_bundle
from msformer_deploy.bundle import Bundle
from msformer_deploy.diagnosis import diagnose
from msformer_deploy.driver import find_driver
from msformer_deploy.engines import EngineOptions
from msformer_deploy.errors import BackendUnavailable, DeployError
from msformer_deploy.export.build import Additions, build_bundle, update_bundle
from msformer_deploy.export.variants import EnginePlan
from msformer_deploy.imaging import InputImage, read_image
from msformer_deploy.inputs import discover
from msformer_deploy.metrics import agreement, match_labels, overlap
from msformer_deploy.registry import BACKENDS, SYSTEMS, Precision
from msformer_deploy.samples import sample_images
from msformer_deploy.trt_flavour import find

ROW = (
    "{backend:<22} {precision:<6} {graph:<10} {agreement:>9} {mask_dsc:>8} {encoder:>9} {refine:>9} {total:>9}  {note}"
)


def make_bundle(path: Path) -> Bundle:
    """A bundle with fp32 and fp16 graphs, and with engines where TensorRT builds and runs them."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    made = build_bundle(SYSTEMS["msformer"], path, additions=Additions(precisions), force=True, say=print)
    try:
        flavour, driver = find(), find_driver()
        plan = EnginePlan(flavour, EngineOptions(), driver.devices[0], driver.version)
        return update_bundle(path, Additions(precisions, plan), say=print)
    except BackendUnavailable as error:
        print(f"no engines: {error}")
        return made


def measure(segmenter: Segmenter, images: Sequence[InputImage], seconds: float) -> dict[str, float]:
    """Median milliseconds of one image by stage, after a warm-up of two rounds."""
    samples: dict[str, list[float]] = {}
    rotation = itertools.cycle(images)
    for _ in range(2 * len(images)):
        segmenter.segment(next(rotation))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples.get("total", [])) < len(images):
        start = time.perf_counter()
        result = segmenter.segment(next(rotation))
        samples.setdefault("total", []).append(time.perf_counter() - start)
        for stage, value in result.seconds.items():
            samples.setdefault(stage, []).append(value)
    return {stage: 1e3 * statistics.median(values) for stage, values in samples.items()}


def row(
    open_segmenter: Callable[[], Segmenter],
    images: Sequence[InputImage],
    reference: Sequence[Any],
    seconds: float,
) -> dict[str, Any]:
    """One backend: how far it agrees with the reference, and how long it takes; or why it cannot run."""
    try:
        start = time.perf_counter()
        segmenter = open_segmenter()
        loaded = time.perf_counter() - start
        results = [segmenter.segment(image) for image in images]
        milliseconds = measure(segmenter, images, seconds)
    except DeployError as error:
        return {"status": "failed", "reason": str(error), "exit_code": error.exit_code}
    except Exception as error:  # a bug in one backend must not hide what the others do
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {"status": "failed", "reason": reason, "exit_code": DeployError.exit_code}
    pairs = list(zip(results, reference, strict=True))
    agreements = [
        agreement(match_labels(got.network_labels, right.network_labels), right.network_labels) for got, right in pairs
    ]
    return {
        "status": "ok",
        "provider": segmenter.provider,
        "kernels": segmenter.kernels,
        "load_s": loaded,
        "agreement": float(np.mean(agreements)),
        "mask_dsc": float(np.nanmean([overlap(got.mask, right.mask).dsc for got, right in pairs])),
        "milliseconds": milliseconds,
    }


def show(entry: dict[str, Any]) -> str:
    """One line of the table."""
    cells = {key: entry[key] for key in ("backend", "precision", "graph")}
    if entry["status"] != "ok":
        dashes = dict.fromkeys(("agreement", "mask_dsc", "encoder", "refine", "total"), "-")
        return ROW.format(**cells, **dashes, note=entry["reason"])
    times = {stage: f"{entry['milliseconds'].get(stage, float('nan')):.2f}" for stage in ("encoder", "refine", "total")}
    return ROW.format(
        **cells,
        agreement=f"{entry['agreement']:.4f}",
        mask_dsc=f"{entry['mask_dsc']:.4f}",
        **times,
        note=entry["provider"],
    )


def verdict(rows: Sequence[dict[str, Any]]) -> int:
    """The exit code: 0 if all is well.

    3 if a row disagrees with fp32, or failed other than for want of what it needs here (exit code 4). 4 if none ran, or
    torch alone of several backends.
    """
    ran = [entry for entry in rows if entry["status"] == "ok"]
    if any(entry["status"] != "ok" and entry["exit_code"] != BackendUnavailable.exit_code for entry in rows):
        return 3
    if any(entry["agreement"] < 0.97 for entry in ran):
        return 3
    wanted = {entry["backend"] for entry in rows}
    useful = wanted - {"torch"} or wanted
    return 0 if any(entry["backend"] in useful for entry in ran) else 4


def main() -> int:
    """Print the table; :func:`verdict` is the exit code, unless there is no bundle or image to begin with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="by default one is made")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="by default all")
    parser.add_argument("--images", type=Path, help="by default scikit-image's samples")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each backend")
    parser.add_argument("--json", type=Path, help="where the full numbers go")
    arguments = parser.parse_args()
    try:
        return run(arguments)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(arguments: argparse.Namespace) -> int:
    paths = sample_images() if arguments.images is None else [item.path for item in discover([arguments.images])]
    images = [read_image(path) for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        bundle = load_bundle(arguments.bundle) if arguments.bundle else make_bundle(Path(folder) / "bundle")
        fp32 = Segmenter(bundle, backend="onnxruntime", device="cpu", precision="fp32")
        reference = [fp32.segment(image) for image in images]
        print(
            ROW.format(
                **dict(zip(("backend", "precision", "graph"), ("backend", "precision", "graph"), strict=True)),
                agreement="agreement",
                mask_dsc="mask DSC",
                encoder="encoder",
                refine="refine",
                total="total",
                note="ms for one image; provider, or why not",
            )
        )
        rows = []
        for backend, precision, whole in itertools.product(
            arguments.backend or BACKENDS, bundle.precisions, (False, True)
        ):
            if backend == "torch" and (whole or precision != "fp32"):
                continue
            entry = row(
                lambda backend=backend, precision=precision, whole=whole: Segmenter(
                    bundle, backend=backend, device=arguments.device, precision=precision, whole_graph=whole
                ),
                images,
                reference,
                arguments.seconds,
            )
            rows.append(
                {"backend": backend, "precision": precision, "graph": "segmenter" if whole else "encoder", **entry}
            )
            print(show(rows[-1]), flush=True)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"device": arguments.device, "rows": rows, "machine": diagnose(), "torch_cuda": torch.version.cuda}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return verdict(rows)


if __name__ == "__main__":
    sys.exit(main())
