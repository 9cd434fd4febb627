"""torch to ONNX: the encoder, the learning, the figure, and the whole method, which is these joined at the features."""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer
from torch import nn

from msformer_deploy.backends.graph_content import PRIOR, PROMPTS
from msformer_deploy.backends.rewrites.outputs import drop_unneeded, needed_for
from msformer_deploy.errors import ValidationMismatch
from msformer_deploy.kernels.reference import label_dtype
from msformer_deploy.models.deployed import Inside
from msformer_deploy.models.figure import Figure
from msformer_deploy.models.prior import PROMPTS as CHANNELS
from msformer_deploy.models.prior import SIDE
from msformer_deploy.registry import RefineSettings
from msformer_deploy.weights.prior import load_prior

from . import nodes
from .functions import OPSET

BATCH = "batch"  # name of the dynamic axis
FIGURE = "figure/"  # before the names of what gives the probability of figure, which is float32 in every precision
IR_VERSION = 10  # the first of opset 21's time; runtimes that know opset 20 read it


def export_encoder(encoder: nn.Module, side: int, outputs: Sequence[str], *, symbolic: bool = False) -> onnx.ModelProto:
    """The encoder: image (batch, 3, S, S) to features and whatever else it gives.

    Args:
        encoder: frozen, a tuple of outputs.
        side: of the image.
        outputs: their names.
        symbolic: trace with a batch of any size, which takes twice the time and fits any network.
    """
    return _export(encoder, {"image": (3, side, side)}, outputs, symbolic)


def refinement_graph(head: torch.Tensor, settings: RefineSettings, side: int) -> onnx.ModelProto:
    """The learning: encoded (batch, C, side, side) to label_map, counts and collapsed, every update unrolled.

    Built node by node from the functions of ``functions.py``: tracing the same loop from torch takes seconds.

    Args:
        head: initial head (K, C).
        settings: the refinement, mode ``head`` or ``none``.
        side: of the features.
    """
    clusters, channels = head.shape
    is_byte = label_dtype(clusters) == torch.uint8
    label_type = TensorProto.UINT8 if is_byte else TensorProto.UINT16
    constants = {"head": head.numpy(), "pixels_shape": np.array([0, -1, channels])}
    sgd = {"lr": settings.lr, "momentum": settings.momentum}
    head_name, velocity, safe, active, collapsed = (
        f"{name}_0" for name in ("head", "velocity", "safe", "active", "collapsed")
    )
    body = [
        # By way of pixels that lie one after the other, which is how an encoder makes its features.
        helper.make_node("Transpose", ["encoded"], ["rows"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["rows", "pixels_shape"], ["pixels"]),
        helper.make_node("Transpose", ["pixels"], ["flat"], perm=[0, 2, 1]),
        _call(
            "BeginRefinement",
            ["pixels", "head"],
            [head_name, velocity, safe, active, collapsed],
            head_scale=settings.head_scale,
        ),
    ]
    # One step more than is learned: its counts tell whether the last update left a single label.
    for step in range(settings.steps + 1):
        outputs = [f"{name}_{step + 1}" for name in ("updated", "velocity", "loss", "counts")]
        sample = {"offset": step % settings.stride, "stride": settings.stride}
        body.append(_call("HeadRefineStep", ["flat", head_name, velocity], outputs, **sample, **sgd))
        updated, velocity, _, counts = outputs
        if step < settings.steps:
            guarded = [updated, counts, head_name, safe, active, collapsed]
            head_name, safe, active, collapsed = (
                f"{name}_{step + 1}" for name in ("head", "safe", "active", "collapsed")
            )
            state = [head_name, safe, active, collapsed]
            body.append(_call("GuardUpdate", guarded, state, stop_labels=settings.stop_labels))
    body.append(_call("SettleRefinement", [counts, head_name, safe, collapsed], ["final_head", "collapsed"]))
    if 0 < settings.regions < clusters:
        checked = ["unused_head", "unused_velocity", "unused_loss", "final_counts"]
        sample = {"offset": settings.steps % settings.stride, "stride": settings.stride}
        body += [
            # Of this only the counts are read, and a runtime leaves out the rest, for which any velocity will do.
            _call("HeadRefineStep", ["flat", "final_head", "velocity_0"], checked, **sample, **sgd),
            _call("SharedHead", ["final_head", "final_counts"], ["ids", "shared_head"], regions=settings.regions),
            # TensorRT knows bytes at a graph's ends only.
            _call("ClusterArgmax", ["encoded", "shared_head"], ["ranks", "shares"], label_type=TensorProto.INT32),
            _call(
                "SharedLabels",
                ["ids", "ranks", "shares", "final_counts"],
                ["label_map", "counts"],
                label_type=label_type,
            ),
        ]
    else:
        body.append(_call("ClusterArgmax", ["encoded", "final_head"], ["label_map", "counts"], label_type=label_type))
    graph = helper.make_graph(
        body,
        "msformer",
        [helper.make_tensor_value_info("encoded", TensorProto.FLOAT, [BATCH, channels, side, side])],
        [
            helper.make_tensor_value_info("label_map", label_type, [BATCH, side, side]),
            helper.make_tensor_value_info("counts", TensorProto.INT64, [BATCH, clusters]),
            helper.make_tensor_value_info("collapsed", TensorProto.BOOL, [BATCH]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _finish(helper.make_model(graph))


@lru_cache(maxsize=2)  # tracing it takes longer than the encoder, and it is the same for all seeds
def figure_graph(channels: int, side: int, *, trained: bool) -> onnx.ModelProto:
    """What finds the figure: encoded (batch, channels, side, side) to probability (batch, side, side).

    That of a self-guided system also takes the image (batch, 3, side, side), and has the prior's weights in it. Its
    ``prompts`` (1, 3, 96, 96) are zeros that a node of the graph makes, and whoever has prompts puts them in their
    place. Do not change what is returned: it is returned again.

    Args:
        channels: of the features.
        side: of image and features.
        trained: whether the features are the scores of a trained system.
    """
    encoded = {"encoded": (channels, side, side)}
    if trained:
        return _export(Inside(), encoded, ["probability"], symbolic=False)
    # Not fused, so that its weights are those of the package, value for value; runtimes fuse them.
    figure = _FigureWithPrior(load_prior(), side)
    inputs = {"image": (3, side, side), **encoded}
    shared = {PROMPTS: (1, CHANNELS, SIDE, SIDE)}
    return _without_prompts(_export(figure, inputs, ["probability", PRIOR], symbolic=False, shared=shared))


class _FigureWithPrior(Figure):
    """The figure, and the logits of the prior before anything was learned from them."""

    def forward(  # type: ignore[override]
        self, images: torch.Tensor, features: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.known(images, prompts)
        return self.from_known(logits, images, features, prompts), logits


def _without_prompts(figure: onnx.ModelProto) -> onnx.ModelProto:
    """A figure whose prompts are no input but zeros, in place; a node makes these 110 kB, so they are not stored."""
    (prompts,) = (each for each in figure.graph.input if each.name == PROMPTS)
    shape = [dim.dim_value for dim in prompts.type.tensor_type.shape.dim]
    figure.graph.input.remove(prompts)
    figure.graph.initializer.append(numpy_helper.from_array(np.array(shape), f"{PROMPTS}_shape"))
    zeros = helper.make_node("ConstantOfShape", [f"{PROMPTS}_shape"], [PROMPTS], name=PROMPTS)
    figure.graph.node.insert(0, zeros)
    return figure


def join(encoder: onnx.ModelProto, refinement: onnx.ModelProto, figure: onnx.ModelProto) -> onnx.ModelProto:
    """The whole method in one graph: image (batch, 3, S, S) to label_map, counts, collapsed and probability.

    Inside it ``features`` and, of a self-guided system, the prior's logits and the prompts keep their names: volumes
    and images with prompts are segmented from these.
    """
    behind = onnx.GraphProto()
    inside = {"encoded": "features", f"{FIGURE}{PROMPTS}": PROMPTS}
    for prefix, part in (("refinement/", refinement), (FIGURE, figure)):
        inner = onnx.compose.add_prefix(
            part, prefix, rename_inputs=False, rename_outputs=False, rename_functions=False
        ).graph
        for node in inner.node:
            for names in (node.input, node.output):
                names[:] = [inside.get(each, each) for each in names]
        for kind in PARTS:
            getattr(behind, kind).extend(getattr(inner, kind))
        behind.output.extend(each for each in inner.output if each.name != PRIOR)
    return _behind_encoder(encoder, behind)


def exchange_encoder(segmenter: onnx.ModelProto, former: onnx.ModelProto, encoder: onnx.ModelProto) -> onnx.ModelProto:
    """The whole method behind another encoder.

    Args:
        segmenter: of :func:`join`; it is not changed.
        former: the encoder in it, node for node.
        encoder: which to put in its place.
    """
    behind = onnx.GraphProto()
    behind.output.extend(segmenter.graph.output)
    for kind in PARTS:
        inside = {_bytes(each) for each in getattr(former.graph, kind)}
        getattr(behind, kind).extend(each for each in getattr(segmenter.graph, kind) if _bytes(each) not in inside)
    return _behind_encoder(encoder, behind)


PARTS = ("node", "initializer", "value_info")  # of a graph, besides what goes in and comes out


def _behind_encoder(encoder: onnx.ModelProto, behind: onnx.GraphProto) -> onnx.ModelProto:
    """A graph that reads ``image`` and ``features``, with the encoder before it.

    The opset is the encoder's, which some precisions raise. What only the encoder's other outputs need is left out.
    """
    opset = next(entry.version for entry in encoder.opset_import if not entry.domain)
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    graph = model.graph
    del graph.output[:]
    for kind in (*PARTS, "output"):
        getattr(graph, kind).extend(getattr(behind, kind))
    drop_unneeded(graph)
    return _finish(model, opset)


def probe(segmenter: onnx.ModelProto, encoder: onnx.ModelProto) -> onnx.ModelProto:
    """The segmenter with the encoder's outputs beside its own, to see in one run what both compute.

    What only the contexts need is not in a segmenter, and is added.

    Raises:
        ValidationMismatch: what gives the features is not inside the segmenter, node for node and weight for weight.
    """
    model = onnx.ModelProto()
    model.CopyFrom(segmenter)
    needed = needed_for(encoder.graph, "features")
    for kind in ("node", "initializer"):
        inside = {_bytes(entry) for entry in getattr(segmenter.graph, kind)}
        for entry in getattr(encoder.graph, kind):
            if _bytes(entry) in inside:
                continue
            if needed.intersection([entry.name] if kind == "initializer" else entry.output):
                raise ValidationMismatch(f"{kind} {entry.name} of the encoder is not in the segmenter as it is")
            getattr(model.graph, kind).append(entry)
    model.graph.output.extend(encoder.graph.output)
    return model


def _bytes(entry: onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto) -> bytes:
    return entry.SerializeToString(deterministic=True)


def check(model: onnx.ModelProto) -> None:
    """Full structural check, shapes inferred.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: with what is wrong.
    """
    onnx.checker.check_model(model, full_check=True)


def _call(function: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(function, inputs, outputs, domain=nodes.DOMAIN, **attributes)


FOLD_ALL = 2**31  # bytes
MARKER = 7  # batch size while exporting; no size of a network is 7, which _free_batch checks


def _export(
    module: nn.Module,
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
    symbolic: bool,
    shared: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> onnx.ModelProto:
    """The graph of a module.

    Args:
        module: which is called with all inputs in their order.
        inputs: shapes by name, without the batch.
        outputs: their names.
        symbolic: trace with a batch of any size.
        shared: whole shapes by name, of inputs that all images of a batch share; they come last.
    """
    with _tracing(), torch.no_grad():
        program = torch.onnx.export(
            module.eval().requires_grad_(False),
            tuple(torch.zeros(shape) for shape in ((*((MARKER, *each) for each in inputs.values()), *shared.values()))),
            dynamo=True,
            optimize=False,  # the optimiser would run before the function bodies are attached, and may inline them
            verbose=False,
            opset_version=OPSET,
            input_names=[*inputs, *shared],
            output_names=list(outputs),
            dynamic_shapes=tuple({0: torch.export.Dim(BATCH)} for _ in inputs) if symbolic else None,
            custom_translation_table=nodes.translations(),
        )
    assert program is not None
    # Every constant is folded, however large: the reshaped weights of the projections are then plain initializers.
    optimizer.optimize(program.model, inline=False, input_size_limit=FOLD_ALL, output_size_limit=FOLD_ALL)
    model = ir.to_proto(program.model)
    return _finish(model if symbolic else _free_batch(model))


def _free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make the batch axis dynamic, in place.

    The exporter can do so itself, but needs twice the time. Every tensor of these networks keeps the batch first, so a
    reshape that begins with the marker may begin with 0, which copies the axis; and a split into parts of the batch is
    one into equal parts.

    Raises:
        ValueError: the marker stands where it cannot be an axis to copy.
    """
    reshapes = [node for node in model.graph.node if node.op_type == "Reshape"]
    shapes = {node.input[1] for node in reshapes}
    splits = [node for node in model.graph.node if node.op_type == "Split"]
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.INT64:
            continue
        values = numpy_helper.to_array(tensor).copy()
        if MARKER not in values:
            continue
        split = [node for node in splits if tensor.name in node.input]
        if split and (values == MARKER).all():
            for node in split:
                del node.input[1]
                node.attribute.append(helper.make_attribute("num_outputs", len(values)))
            model.graph.initializer.remove(tensor)
            continue
        if tensor.name not in shapes or values.ndim != 1 or values[0] != MARKER or MARKER in values[1:]:
            raise ValueError(f"constant {tensor.name} = {values.tolist()} fixes the batch size")
        values[0] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in reshapes:
        del node.attribute[:]  # allowzero, which would give the 0 another meaning
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if len(dims) and dims[0].dim_value == MARKER:
            dims[0].dim_param = BATCH
        elif len(dims) and dims[0].dim_value == 2 * MARKER:  # images as they are, and mirrored
            dims[0].Clear()
    return model


def _finish(model: onnx.ModelProto, opset: int = OPSET) -> onnx.ModelProto:
    """Attach the bodies of our functions, in the graph's opset, and drop the exporter's notes.

    The notes hold source paths and outweigh the graph.
    """
    called = {node.op_type for node in model.graph.node if node.domain == nodes.DOMAIN}
    del model.functions[:]
    model.functions.extend(nodes.bodies(called))
    for entry in (entry for body in model.functions for entry in body.opset_import if not entry.domain):
        entry.version = opset
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", opset), helper.make_opsetid(nodes.DOMAIN, nodes.VERSION)])
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "msformer-deploy", ""
    model.graph.name = "msformer"
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        if node.doc_string:  # emptied only where there is one: probe compares nodes byte for byte
            node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    return model


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Silence what the exporter says of itself and of packages that are absent on purpose; its errors still raise.

    Garbage collection waits, too: tracing makes a great many objects that live on, and looking through them again and
    again takes an eighth of the time.
    """
    logger = logging.getLogger("torch.onnx")
    level, collecting = logger.level, gc.isenabled()
    logger.setLevel(logging.ERROR)
    gc.disable()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if collecting:
            gc.enable()
