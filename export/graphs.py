"""torch to ONNX: the encoder, and the whole method as encoder and unrolled refinement joined at the features."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import nn

from msformer_deploy.models.msformer import MSFormer
from msformer_deploy.registry import RefineSettings

from . import nodes
from .functions import OPSET
from .wrappers import EncoderGraph, RefinementGraph

SEGMENTER_OUTPUTS = ["label_map", "counts", "collapsed"]
MAX_BATCH = 1024  # the exporter wants a bound on the dynamic axis; no graph depends on it


def export_encoder(model: MSFormer) -> onnx.ModelProto:
    """The encoder: image (batch, 3, S, S) to features, context_small and context_large."""
    image = torch.zeros(2, 3, model.side, model.side)
    return _export(EncoderGraph(model), "image", image, ["features", "context_small", "context_large"])


def export_segmenter(encoder: onnx.ModelProto, model: MSFormer, settings: RefineSettings) -> onnx.ModelProto:
    """The whole method in one graph: image (batch, 3, S, S) to label_map, counts and collapsed.

    Args:
        encoder: what :func:`export_encoder` gave for ``model``.
        model: for its sizes and initial head.
        settings: the refinement to unroll, mode ``head`` or ``none``.
    """
    refinement = export_refinement(model.linear_down.weight.detach().clone(), settings, model.side)
    refinement = onnx.compose.add_prefix(
        refinement, "refinement/", rename_inputs=False, rename_outputs=False, rename_functions=False
    )
    joined = onnx.compose.merge_models(encoder, refinement, io_map=[("features", "encoded")], outputs=SEGMENTER_OUTPUTS)
    _describe(joined)
    return joined


def export_refinement(head: torch.Tensor, settings: RefineSettings, side: int) -> onnx.ModelProto:
    """The learning alone: encoded (batch, C, side, side) to label_map, counts and collapsed, from head (K, C)."""
    features = torch.zeros(2, head.shape[1], side, side)
    return _export(RefinementGraph(head, settings), "encoded", features, SEGMENTER_OUTPUTS)


def check(model: onnx.ModelProto) -> None:
    """Full structural check, shapes inferred.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: with what is wrong.
    """
    onnx.checker.check_model(model, full_check=True)


def _export(module: nn.Module, input_name: str, example: torch.Tensor, outputs: list[str]) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval().requires_grad_(False),
            (example,),
            dynamo=True,
            optimize=False,  # the optimiser would run before the function bodies are attached, and may inline them
            verbose=False,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=outputs,
            dynamic_shapes=({0: batch},),
            custom_translation_table=nodes.translations(),
        )
    assert program is not None
    optimizer.optimize(program.model, inline=False)
    nodes.attach(program.model)
    model = ir.to_proto(program.model)
    _describe(model)
    return model


def _describe(model: onnx.ModelProto) -> None:
    """Name the producer; drop the exporter's notes on every node, which hold source paths and outweigh the graph."""
    model.producer_name = "msformer-deploy"
    model.graph.name = "msformer"
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of itself and of packages that are absent on purpose; its errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
