"""What a bundle can have beside its fp32 graphs: other precisions and TensorRT engines, each judged on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from msformer_deploy import bundle
from msformer_deploy.backends import Encoded, Segmented
from msformer_deploy.backends.base import Device
from msformer_deploy.driver import Gpu
from msformer_deploy.engines import EngineOptions
from msformer_deploy.errors import ValidationMismatch
from msformer_deploy.registry import Precision

from . import graphs
from .evidence import Evidence
from .judge import explain, judge
from .precision import emulate, lower, quantize
from .validate import Run, run_probe

if TYPE_CHECKING:
    from msformer_deploy.bundle import Bundle
    from msformer_deploy.trt_flavour import Flavour

    from .tensorrt import Progress

GRAPHS: tuple[bundle.Graph, ...] = ("encoder", "segmenter")


@dataclass(frozen=True)
class EnginePlan:
    """How to build engines: with which TensorRT, how, on which GPU and its driver's CUDA version if there is one."""

    flavour: Flavour
    options: EngineOptions
    gpu: Gpu | None
    driver: str | None


def add_precision(made: Bundle, precision: Precision, evidence: Evidence, accept_loss: bool) -> dict[str, Any]:
    """Write a precision's graphs into a bundle that is being made, and judge them beside fp32.

    Args:
        made: the bundle, its fp32 graphs written.
        precision: which, other than fp32.
        evidence: the images to calibrate and judge on.
        accept_loss: keep it also if it is judged too far from fp32.

    Returns:
        what the manifest says of it: the judgement, and what it was judged by.

    Raises:
        ValidationMismatch: it is too far from fp32, or a weight does not fit the type.
        ImageError: an image cannot be read.
    """
    encoder, segmenter = (onnx.load(made.file(name)) for name in (bundle.ENCODER, bundle.SEGMENTER))
    refinement = graphs.refinement_graph(torch.from_numpy(made.head()), made.refinement, made.sizes.side)
    judged_by = "onnxruntime"
    if precision == "int8":
        lowered = quantize(encoder, evidence.inputs(made.sizes.side))
    else:
        assert precision != "fp32"
        lowered = lower(encoder, precision)
    joined = graphs.join(lowered, refinement)
    candidate = lowered, joined
    if precision == "bf16":  # ONNX Runtime has no such kernels for the CPU
        judged_by = "onnxruntime, rounding to bf16 between float32 operations"
        emulated = emulate(encoder, precision)
        candidate = emulated, graphs.join(emulated, refinement)
    for model in (lowered, joined):
        graphs.check(model)
    record = judge(
        evidence.samples(made.sizes.side),
        run_probe(graphs.probe(segmenter, encoder)),
        run_probe(graphs.probe(candidate[1], candidate[0])),
    )
    _refuse_loss(precision, record, accept_loss)
    onnx.save(lowered, made.file(bundle.graph_name("encoder", precision)))
    onnx.save(joined, made.file(bundle.graph_name("segmenter", precision)))
    calibration = {"calibration": [path.name for path in evidence.calibration]} if precision == "int8" else {}
    return {**record, "judged_by": judged_by, **calibration}


def add_engines(
    made: Bundle, precision: Precision, plan: EnginePlan, progress: Callable[[bundle.Graph], Progress]
) -> list[str]:
    """Build the engines of a precision into a bundle that is being made; return their folders in it.

    Raises:
        UsageError, BackendUnavailable, DeployError, ValidationMismatch: as :func:`.tensorrt.build_engine`.
    """
    from .tensorrt import build_engine

    return [
        build_engine(
            made.path,
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
    made: Bundle, precision: Precision, plan: EnginePlan, evidence: Evidence, accept_loss: bool
) -> dict[str, Any]:
    """Run a precision's engines, encoder and whole method, beside the fp32 graphs, where there is a GPU to run them on.

    Args:
        made: the bundle, its manifest listing the engines.
        precision: of the engines.
        plan: they were built by.
        evidence: the images to judge on.
        accept_loss: keep them also if they are judged too far from fp32.

    Returns:
        what the manifest says of them: the judgement, or that they were built and not run.

    Raises:
        ValidationMismatch: they are too far from fp32.
    """
    if plan.gpu is None:
        return {"accepted": None, "judged_by": "nothing: there was no GPU to run them on; built, not run"}
    encoder, segmenter = (onnx.load(made.file(name)) for name in (bundle.ENCODER, bundle.SEGMENTER))
    with _engine_runner(made, precision) as run:
        record = judge(evidence.samples(made.sizes.side), run_probe(graphs.probe(segmenter, encoder)), run)
    _refuse_loss(precision, record, accept_loss, "TensorRT's ")
    return {**record, "judged_by": f"{plan.flavour} on {plan.gpu.name}"}


@contextmanager
def _engine_runner(made: Bundle, precision: Precision) -> Iterator[Run]:
    """Both engines as one run."""
    from msformer_deploy.backends.tensorrt import TensorRTBackend

    device = Device("cuda")
    with ExitStack() as stack:
        encoder = stack.enter_context(TensorRTBackend(made, device, "encoder", precision))
        segmenter = stack.enter_context(TensorRTBackend(made, device, "segmenter", precision))

        def run(image: np.ndarray) -> tuple[Encoded, Segmented]:
            encoded = Encoded(*(each.cpu().numpy() for each in encoder.encode(image)))
            return encoded, segmenter.segment(image)

        yield run


def _refuse_loss(precision: Precision, record: dict[str, Any], accept_loss: bool, what: str = "") -> None:
    if not record["accepted"] and not accept_loss:
        raise ValidationMismatch(f"{what}{explain(precision, record)} or keep it with --accept-loss")
