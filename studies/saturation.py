"""What 8-bit arithmetic makes of the int8 encoder on this CPU, with weights of 8 and of 7 bits.

    python studies/saturation.py [IMAGE...] [--bundle BUNDLE] [--threads N] [--json FILE] [--markdown FILE]

The encoder is the default bundle's, made for this run, or that of --bundle. It is quantised with both kinds of weights,
calibrated on scikit-image's samples. Each number is the largest error of a feature beside the float32 encoder, in per
cent of its largest feature: on the noise of the fingerprint, and on each image (default: the same samples).

"exact" is ONNX Runtime without its optimisations: it then multiplies in float32, so that only the quantisation is left.
"onnxruntime" and "openvino" run the graph as the backends do. "x64quantprecision" is ONNX Runtime with its session
option of that name, on the whole graph, because it opens no graph in strips with it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from script import exit_code, tell

from msformer_deploy import load_bundle
from msformer_deploy.backends.base import Device, image_by_image
from msformer_deploy.backends.onnxruntime import open_session
from msformer_deploy.backends.openvino import compile_on_cpu, open_core, prepared
from msformer_deploy.backends.saturation import refuse_saturation
from msformer_deploy.bundle.fingerprint import noise
from msformer_deploy.bundle.folder import ENCODER
from msformer_deploy.doctor import environment
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.export.build import build_bundle
from msformer_deploy.export.precision import quantize
from msformer_deploy.images.read import network_input, read_image
from msformer_deploy.images.samples import sample_images
from msformer_deploy.registry import SYSTEMS

CPU = Device("cpu")
BITS = (8, 7)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino")

Array = NDArray[np.float32]
Run = Callable[[Array], Array]  # an image (1, 3, S, S) to its features (1, C, S, S)


def plain(model: Path, threads: int | None, *, optimised: bool, precise: bool = False) -> Run:
    """ONNX Runtime on the whole graph, with or without its optimisations and its option for 8-bit products."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", str(int(precise)))
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda image: np.asarray(session.run(["features"], {"image": image})[0])


def in_onnxruntime(model: Path, threads: int | None) -> Run:
    """ONNX Runtime as its backend runs int8: in strips."""
    session = open_session(model, CPU, threads, strips=True)
    return channels_first(lambda image: session.run(["features"], {"image": image}))


def in_openvino(model: Path, threads: int | None) -> Run:
    """OpenVINO as its backend runs int8."""
    core = open_core()
    compiled = compile_on_cpu(core, core.read_model(prepared(model, strips=False)), threads, "int8")
    return channels_first(lambda image: [compiled([image])["features"]])


def channels_first(run: Callable[[Array], list[Array]]) -> Run:
    """The features of a graph that a backend has given channels last."""
    return lambda image: image_by_image(run, image, channels_last=True)[0]


def runs_of(model: Path, threads: int | None) -> dict[str, Run]:
    """The ways to run an int8 graph here, by name; without OpenVINO where it is not installed."""
    runs = {
        "exact": plain(model, threads, optimised=False),
        "onnxruntime": in_onnxruntime(model, threads),
        "x64quantprecision": plain(model, threads, optimised=True, precise=True),
    }
    try:
        runs["openvino"] = in_openvino(model, threads)
    except BackendUnavailable as error:
        print(error, file=sys.stderr)
    return runs


def products(model: Path, threads: int | None) -> str:
    """What ONNX Runtime makes of sums of two 8-bit products on this CPU, found by a trial."""

    def run(trial: bytes, x: Array) -> Array:
        return np.asarray(open_session(trial, CPU, threads).run(None, {"x": x})[0])

    try:
        refuse_saturation("onnxruntime", model, run)
    except BackendUnavailable:
        return "are cut off"
    return "are exact"


def errors(run: Run, images: Iterable[Array], expected: Iterable[Array]) -> list[float]:
    """The largest error of a feature of each image, in per cent of the largest feature."""
    return [
        100 * float(np.abs(run(image) - right).max() / np.abs(right).max())
        for image, right in zip(images, expected, strict=True)
    ]


def measure(encoder: Path, paths: list[Path], threads: int | None, folder: Path) -> dict[str, Any]:
    """The errors of each kind of weights, each way to run them, and each image."""
    model = onnx.load(encoder)
    side = model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
    images = [noise(side), *(network_input(read_image(path), side)[None] for path in paths)]
    exact = plain(encoder, threads, optimised=True)
    expected = [exact(image) for image in images]
    facts: dict[str, Any] = {"images": ["noise", *(path.name for path in paths)], "errors": {}}
    for bits in BITS:
        calibration = (network_input(read_image(path), side)[None] for path in sample_images())
        target = folder / f"encoder.int{bits}.onnx"
        onnx.save(quantize(model, calibration, bits), target)
        if bits == 8:
            facts["sums"] = products(target, threads)
        facts["errors"][bits] = {name: errors(run, images, expected) for name, run in runs_of(target, threads).items()}
    return facts


def table(facts: Mapping[str, Any]) -> str:
    """A line on the machine, and a row for each kind of weights and way to run them."""
    versions = facts["environment"]["versions"]
    runtimes = ", ".join(f"{name} {versions[name]}" for name in RUNTIMES if name in versions)
    lines = [
        f"{facts['environment']['cpu']}, {runtimes}: sums of two 8-bit products {facts['sums']}.",
        "",
        f"| weights | run by | {' | '.join(facts['images'])} |",
        "|---" * (2 + len(facts["images"])) + "|",
    ]
    for bits, rows in facts["errors"].items():
        lines += [
            f"| {bits} bits | {name} | {' | '.join(f'{each:.2f}' for each in row)} |" for name, row in rows.items()
        ]
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    paths = arguments.images or sample_images()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if arguments.bundle is None:
            bundle = build_bundle(
                SYSTEMS["msformer"].sized(), folder / "bundle", say=lambda line: print(line, file=sys.stderr)
            )
        else:
            bundle = load_bundle(arguments.bundle)
        facts = measure(bundle.file(ENCODER), paths, arguments.threads, folder)
    facts["environment"] = environment.describe([], arguments.threads)
    tell(table(facts), facts, arguments)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    sys.exit(exit_code(main, parser.parse_args()))
