"""What a bundle can have beside its fp32 graphs: other precisions and TensorRT engines, each judged on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from msformer_deploy.backends import Encoded, Segmented
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.onnxruntime import refuse_saturation_on_cpu
from msformer_deploy.bundle import engines
from msformer_deploy.bundle import folder as bundle
from msformer_deploy.bundle.fingerprint import noise, samples
from msformer_deploy.bundle.sidecar import EngineOptions
from msformer_deploy.errors import BackendUnavailable, ValidationMismatch
from msformer_deploy.foreground.rules import ForegroundRule, of_classes, parse_rule
from msformer_deploy.machine.driver import Gpu
from msformer_deploy.registry import Precision, find_system

from . import graphs
from .evidence import Evidence
from .judge import explain, judge
from .precision import emulate, lower, quantize
from .validate import Run, run_probe

if TYPE_CHECKING:
    from msformer_deploy.bundle.folder import Bundle
    from msformer_deploy.machine.trt_flavour import Flavour

    from .tensorrt import Progress

GRAPHS: tuple[bundle.Graph, ...] = ("encoder", "segmenter")


@dataclass(frozen=True)
class EnginePlan:
    """How to build engines: with which TensorRT, how, on which GPU and its driver's CUDA version if there is one."""

    flavour: Flavour
    options: EngineOptions
    gpu: Gpu | None
    driver: str | None


def add_precision(made: Bundle, precision: Precision, evidence: Evidence) -> dict[str, Any]:
    """Write a precision's graphs into a bundle that is being made.

    Args:
        made: the bundle, its fp32 graphs written.
        precision: which, other than fp32.
        evidence: the images to calibrate on.

    Returns:
        what the manifest says of the calibration; empty where there is none.

    Raises:
        ValidationMismatch: a weight does not fit the type.
        ImageError: an image cannot be read.
    """
    encoder, segmenter = (onnx.load(made.file(name)) for name in (bundle.ENCODER, bundle.SEGMENTER))
    if precision == "int8":
        lowered = quantize(encoder, evidence.inputs(made.sizes.side))
    else:
        assert precision != "fp32"
        lowered = lower(encoder, precision)
    joined = graphs.exchange_encoder(segmenter, encoder, lowered)
    for graph, model in zip(GRAPHS, (lowered, joined), strict=True):
        graphs.check(model)
        onnx.save(model, made.file(bundle.graph_name(graph, precision)))
    return {"calibration": [path.name for path in evidence.calibration]} if precision == "int8" else {}


def judge_precision(made: Bundle, precision: Precision, evidence: Evidence, accept_loss: bool) -> dict[str, Any]:
    """Judge a precision's graphs beside those of fp32.

    Args:
        made: the bundle, with both.
        precision: which, other than fp32.
        evidence: the images to judge on.
        accept_loss: keep it also if it is judged too far from fp32.

    Returns:
        what the manifest says of it: the judgement, what it was judged by, and its fingerprint.

    Raises:
        ValidationMismatch: it is too far from fp32.
        BackendUnavailable: an older bundle's int8, whose products this CPU saturates.
        ImageError: an image cannot be read.
    """
    encoder, segmenter = (onnx.load(made.file(name)) for name in (bundle.ENCODER, bundle.SEGMENTER))
    if precision == "bf16":  # ONNX Runtime has no such kernels for the CPU
        judged_by = "onnxruntime, rounding to bf16 between float32 operations"
        lowered = emulate(encoder, precision)
        joined = graphs.exchange_encoder(segmenter, encoder, lowered)
    else:
        judged_by = "onnxruntime"
        if precision == "int8":
            refuse_saturation_on_cpu(made.graph_file("encoder", precision))  # of an older bundle
        lowered, joined = (onnx.load(made.graph_file(graph, precision)) for graph in GRAPHS)
    candidate = run_probe(graphs.probe(joined, lowered))
    reference = run_probe(graphs.probe(segmenter, encoder))
    record = judge(evidence.samples(made.sizes.side), reference, candidate, _rule(made))
    _refuse_loss(precision, record, accept_loss)
    encoded, segmented = candidate(noise(made.sizes.side))
    return {
        **record,
        "judged_by": judged_by,
        "judged_on": [path.name for path, _ in evidence.judged],
        "fingerprint": asdict(samples(encoded.features[0], segmented.label_map[0])),
    }


def _rule(made: Bundle) -> ForegroundRule:
    """Of the masks by which graphs are judged."""
    rule = parse_rule("auto")
    return of_classes(rule) if find_system(made.system).trained else rule


def add_engines(
    folder: Path, precision: Precision, plan: EnginePlan, progress: Callable[[bundle.Graph], Progress]
) -> list[str]:
    """Build the engines of a precision into the folder of a bundle that is being made; return their folders in it.

    Raises:
        UsageError, BackendUnavailable, DeployError, ValidationMismatch: as :func:`.tensorrt.build_engine`.
    """
    from .tensorrt import build_engine

    return [
        build_engine(
            folder,
            graph,
            precision,
            plan.flavour,
            plan.options,
            gpu=plan.gpu,
            driver=plan.driver,
            progress=progress(graph),
        ).folder
        for graph in GRAPHS
    ]


def prove_engines(
    made: Bundle, folders: Sequence[str], plan: EnginePlan, evidence: Evidence, accept_loss: bool
) -> dict[str, Any]:
    """Run engines just built, encoder and whole method, beside the fp32 graphs, where there is a GPU that runs them.

    Args:
        made: the bundle, its manifest in memory listing the engines.
        folders: of the encoder's engine and the whole method's.
        plan: they were built by.
        evidence: the images to judge on.
        accept_loss: keep them also if they are judged too far from fp32.

    Returns:
        what the manifest says of them: the judgement, or why they were built and not run.

    Raises:
        ValidationMismatch: they are too far from fp32.
        BackendUnavailable: TensorRT does not open what it built.
    """
    reason = _cannot_run(made, folders, plan)
    if reason is not None:
        return {"accepted": None, "not_run": reason}
    assert plan.gpu is not None
    encoder, segmenter = (onnx.load(made.file(name)) for name in (bundle.ENCODER, bundle.SEGMENTER))
    with _engine_runner(made, folders) as run:
        record = judge(evidence.samples(made.sizes.side), run_probe(graphs.probe(segmenter, encoder)), run, _rule(made))
    _refuse_loss(engines.records(made)[folders[0]].precision, record, accept_loss, "TensorRT's ")
    return {
        **record,
        "judged_by": f"{plan.flavour} on {plan.gpu.name}",
        "judged_on": [path.name for path, _ in evidence.judged],
    }


def _cannot_run(made: Bundle, folders: Sequence[str], plan: EnginePlan) -> str | None:
    """Why the engines cannot be run on this machine; it may well build for another."""
    if plan.gpu is None:
        return "there was no GPU"
    known = engines.records(made)
    for folder in folders:
        reason = engines.mismatch(known[folder], made, {plan.flavour.name: plan.flavour.version}, plan.gpu)
        if reason is not None:
            return f"it {reason}"
    from msformer_deploy.backends.tensorrt import Cuda

    try:
        Cuda(Device("cuda"))
    except BackendUnavailable as error:
        return str(error)
    return None


@contextmanager
def _engine_runner(made: Bundle, folders: Sequence[str]) -> Iterator[Run]:
    """Both engines as one run."""
    from msformer_deploy.backends.tensorrt import TensorRTBackend

    device, precision = Device("cuda"), engines.records(made)[folders[0]].precision
    with ExitStack() as stack:
        encoder, segmenter = (
            stack.enter_context(TensorRTBackend(made, device, None, graph, precision, folder))
            for graph, folder in zip(GRAPHS, folders, strict=True)
        )

        def run(image: np.ndarray) -> tuple[Encoded, Segmented]:
            encoded = Encoded(*(each if each is None else each.cpu().numpy() for each in encoder.encode(image)))
            return encoded, segmenter.segment(image)

        yield run


def _refuse_loss(precision: Precision, record: dict[str, Any], accept_loss: bool, what: str = "") -> None:
    if not record["accepted"] and not accept_loss:
        raise ValidationMismatch(f"{what}{explain(precision, record)} or keep it with --accept-loss")
