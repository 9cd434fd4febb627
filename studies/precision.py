"""What fp16, bf16 and int8 lose against fp32 on images with masks, and what they gain in ONNX Runtime on the CPU.

    python studies/precision.py --data ../shared/data/ph2 [--data FOLDER] [--bundle BUNDLE] [--json FILE]

A data set is a folder with images/ and masks/, paired by name. The precisions are made from the bundle's
encoder.onnx; bf16 is emulated, so not timed. int8 is calibrated on the sample images of scikit-image, none of which is
judged, or with --calibrate N on the first N images of each folder, the others being judged. Times are of the encoder on
one image: the precisions take turns, medians of wall clock and of processor time. Without a bundle one is made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from published_protocol import pairs

from msformer_deploy import load_bundle
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.onnxruntime import open_session
from msformer_deploy.bundle.folder import ENCODER, SEGMENTER, Bundle
from msformer_deploy.doctor.diagnosis import diagnose
from msformer_deploy.export import graphs
from msformer_deploy.export.build import build_bundle
from msformer_deploy.export.judge import Sample, judge
from msformer_deploy.export.precision import emulate, lower, quantize
from msformer_deploy.export.validate import run_probe
from msformer_deploy.images.read import network_input, read_image
from msformer_deploy.images.samples import sample_images
from msformer_deploy.images.truth import published_truth
from msformer_deploy.registry import SYSTEMS

ROW = "{precision:<6} {features:>9} {matched:>17} {rand:>6} {mask:>7} {dsc:>7} {loss:>8} {wall:>8} {cpu:>8} {ratio:>12}"
HEADER = {
    "precision": "",
    "features": "features",
    "matched": "matched, least",
    "rand": "ARI",
    "mask": "mask",
    "dsc": "DSC",
    "loss": "loss",
    "wall": "ms",
    "cpu": "cpu ms",
    "ratio": "ratio, cpu",
}


def inputs(paths: Sequence[Path], side: int) -> Iterator[NDArray[np.float32]]:
    """Images as the network takes them, (1, 3, S, S) each."""
    for path in paths:
        yield network_input(read_image(path), side)[None]


def judgement(bundle: Bundle, encoder: onnx.ModelProto, chosen: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    """The record of one precision's encoder, its refinement being fp32's, against the bundle's own graphs."""
    side = bundle.sizes.side
    exact, segmenter = (onnx.load(bundle.file(name)) for name in (ENCODER, SEGMENTER))
    samples = (
        Sample(image.name, pixels, published_truth(mask, side))
        for (image, mask), pixels in zip(chosen, inputs([image for image, _ in chosen], side), strict=True)
    )
    candidate = graphs.probe(graphs.exchange_encoder(segmenter, exact, encoder), encoder)
    return judge(samples, run_probe(graphs.probe(segmenter, exact)), run_probe(candidate))


def times(
    encoders: dict[str, onnx.ModelProto], images: Sequence[NDArray[np.float32]], rounds: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds of each encoder on one image, and how many times as fast as the first that is."""
    sessions = {name: open_session(model.SerializeToString(), Device("cpu")) for name, model in encoders.items()}
    measured: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in sessions}
    for index in range(-1, rounds):
        for name, session in sessions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            session.run(None, {"image": images[index % len(images)]})
            if index >= 0:  # the first round warms up
                measured[name]["wall"].append(1e3 * (time.perf_counter() - wall))
                measured[name]["cpu"].append(1e3 * (time.process_time() - cpu))
    medians = {
        name: {clock: statistics.median(values) for clock, values in clocks.items()}
        for name, clocks in measured.items()
    }
    first = next(iter(medians.values()))
    return {
        name: {**each, "ratio": first["wall"] / each["wall"], "cpu_ratio": first["cpu"] / each["cpu"]}
        for name, each in medians.items()
    }


def row(precision: str, record: dict[str, Any] | None, clocks: dict[str, float] | None) -> str:
    """One line of the table; what was not measured is a dash."""
    cells = dict.fromkeys(HEADER, "-")
    if record is not None:
        matched = record["agreement"]["matched"]
        cells |= {
            "features": f"{record['features']:.2%}",
            "matched": f"{matched['mean']:.4f}, {matched['least']:.4f}",
            "rand": f"{record['adjusted_rand_index']['mean']:.3f}",
            "mask": f"{record['mask_dsc']['mean']:.4f}",
            "dsc": f"{record['dsc']['candidate']:.4f}",
            "loss": f"{record['dsc']['loss']:+.4f}",
        }
    if clocks is not None:
        cells |= {
            "wall": f"{clocks['wall']:.0f}",
            "cpu": f"{clocks['cpu']:.0f}",
            "ratio": f"{clocks['ratio']:.2f}, {clocks['cpu_ratio']:.2f}",
        }
    return ROW.format(**cells | {"precision": precision})


def compare(bundle: Bundle, folder: Path, limit: int | None, calibrate: int, rounds: int) -> dict[str, Any]:
    """Judge and time every precision on one data set; print its table."""
    found = pairs(folder)
    chosen = found[calibrate:][:limit]
    if not chosen:
        sys.exit(
            f"error: {folder}: {len(found)} images with masks, of which {calibrate} calibrate: none is left to judge"
        )
    calibration = [image for image, _ in found[:calibrate]] or sample_images()
    side, encoder = bundle.sizes.side, onnx.load(bundle.file(ENCODER))
    candidates = {
        "fp16": lower(encoder, "fp16"),
        "bf16": emulate(encoder, "bf16"),
        "int8": quantize(encoder, inputs(calibration, side)),
    }
    whose = "its own" if calibrate else "scikit-image's"
    print(f"\n{folder.name}: {len(chosen)} images; int8 calibrated on {len(calibration)} others, {whose}")
    print(ROW.format(**HEADER))
    timed = {"fp32": encoder, "fp16": candidates["fp16"], "int8": candidates["int8"]}
    shown = list(inputs([image for image, _ in chosen[:4]], side))
    clocks = times(timed, shown, rounds)
    print(row("fp32", None, clocks["fp32"]), flush=True)
    records = {}
    for name, candidate in candidates.items():
        records[name] = judgement(bundle, candidate, chosen)
        print(row(name, records[name], clocks.get(name)), flush=True)
    print(
        f"DSC of fp32 {records['fp16']['dsc']['fp32']:.4f}, on {len(chosen) - records['fp16']['dsc']['left_out']} masks"
    )
    return {
        "data": folder.name,
        "images": [image.name for image, _ in chosen],
        "calibration": [path.name for path in calibration],
        "records": records,
        "milliseconds": clocks,
    }


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[Bundle]:
    """The bundle given, or the default one, made for this run."""
    if path is not None:
        yield load_bundle(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield build_bundle(SYSTEMS["msformer"].sized(), Path(folder) / "bundle", say=print)


def main() -> None:
    """Print one table per data set."""
    import onnxruntime  # after msformer_deploy, which switches its telemetry off

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--limit", type=int, help="judge at most so many images of a data set")
    parser.add_argument("--calibrate", type=int, default=0, help="images of each data set that calibrate int8")
    parser.add_argument("--rounds", type=int, default=15, help="of timing")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with opened(arguments.bundle) as bundle:
        print(f"ONNX Runtime {onnxruntime.__version__}, CPU provider; ratio: times as fast as fp32")
        results = [
            compare(bundle, folder, arguments.limit, arguments.calibrate, arguments.rounds) for folder in arguments.data
        ]
    if arguments.json:
        facts = {"machine": diagnose()["machine"], "onnxruntime": onnxruntime.__version__, "data": results}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
