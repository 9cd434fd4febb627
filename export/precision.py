"""The encoder in other precisions, made from its float32 graph: typed for fp16 and bf16, with Q and DQ nodes for int8.

Input and outputs stay float32, so that every backend keeps one contract. Only products and what moves or compares their
results change type. Norms, averages, resizing and the attention stay in float32: a softmax over 66,049 positions has
probabilities of 1.5e-5, which fp16 holds as subnormals only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from msformer_deploy.errors import BackendUnavailable, UsageError, ValidationMismatch

from .functions import OPSET

Half = Literal["fp16", "bf16"]

TYPES: dict[Half, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
OPSETS: dict[Half, int] = {"fp16": OPSET, "bf16": 22}  # 22 is the first whose Conv takes bfloat16

PRODUCTS = {"Conv", "MatMul", "Gelu"}
MOVES = {"Transpose", "Reshape", "Slice", "Concat", "Split", "Gather", "Squeeze", "Unsqueeze"}
POINTWISE = {"Add", "Abs", "Relu", "LeakyRelu", "MaxPool"}  # as exact in a half type as what they are given
NORMS = {"LayerNormalization", "ReduceMean", "Sub", "Pow", "Sqrt", "Reciprocal", "Mul"}
ACTIVATIONS = {"Softmax", "LogSoftmax", "ReduceLogSumExp", "Div", "Log"}
SAMPLING = {"DeformConv", "Resize", "AveragePool"}
SHAPES = {"Shape", "Expand"}
EXACT = NORMS | ACTIVATIONS | SAMPLING | SHAPES | {"BatchNormalization", "CrossScaleAttention"}


def lower(encoder: onnx.ModelProto, precision: Half) -> onnx.ModelProto:
    """The encoder with its products in a half type; opset 22 for bf16, in its functions too.

    A sum or a move is of the half type as soon as one of its inputs is. Casts stand only where the type changes, one
    per value and direction.

    Args:
        encoder: the float32 graph; it is not changed.
        precision: of the products.

    Raises:
        ValidationMismatch: a weight is too large for the type.
        ValueError: the graph has an operator that is not known here.
    """
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    _Lowering(model.graph, precision).apply()
    for owner in (model, *model.functions):
        for entry in owner.opset_import:
            if not entry.domain:
                entry.version = OPSETS[precision]
    return model


class _Lowering:
    """One pass over a graph's nodes, in order, that decides the type of each and casts where types meet."""

    def __init__(self, graph: onnx.GraphProto, precision: Half) -> None:
        self._graph, self._precision = graph, precision
        self._weights = {entry.name: entry for entry in graph.initializer if entry.data_type == TensorProto.FLOAT}
        self._is_half = {value.name: False for value in graph.input}
        self._nodes: list[onnx.NodeProto] = []
        self._converted: dict[str, str] = {}

    def apply(self) -> None:
        outputs = {value.name for value in self._graph.output}
        for node in self._graph.node:
            half = self._wants_half(node)
            inputs = [self._as(name, half) for name in node.input]
            del node.input[:]
            node.input.extend(inputs)
            self._nodes.append(node)
            for index, name in enumerate(node.output):
                if half and name in outputs:
                    node.output[index] = f"{name}/{self._precision}"
                    self._cast(node.output[index], name, TensorProto.FLOAT)
                self._is_half[name] = half and name not in outputs
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        del self._graph.value_info[:]  # their types are those from before
        used = {name for node in self._nodes for name in node.input}
        kept = [entry for entry in self._graph.initializer if entry.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _wants_half(self, node: onnx.NodeProto) -> bool:
        if node.op_type in PRODUCTS:
            return True
        if node.op_type in EXACT:
            return False
        if node.op_type in MOVES | POINTWISE:
            return any(self._is_half.get(name, False) for name in node.input)
        raise ValueError(f"node {node.name}: no precision is known for operator {node.op_type}")

    def _as(self, name: str, half: bool) -> str:
        """What to read in place of ``name`` for it to be of the type; shapes and the like are left alone."""
        if name in self._weights:
            if not half:
                return name
            if name not in self._converted:
                self._converted[name] = f"{name}/{self._precision}"
                self._graph.initializer.append(_converted(self._weights[name], self._converted[name], self._precision))
            return self._converted[name]
        if name not in self._is_half or self._is_half[name] == half:
            return name
        # A value has one type, so there is but one direction to cast it in.
        if name not in self._converted:
            self._converted[name] = f"{name}/{self._precision if half else 'fp32'}"
            self._cast(name, self._converted[name], TYPES[self._precision] if half else TensorProto.FLOAT)
        return self._converted[name]

    def _cast(self, source: str, target: str, dtype: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"cast {target}", to=dtype))


def _converted(weight: onnx.TensorProto, name: str, precision: Half) -> onnx.TensorProto:
    exact = numpy_helper.to_array(weight)
    with np.errstate(over="ignore"):
        rounded = exact.astype(helper.tensor_dtype_to_np_dtype(TYPES[precision]))
    if not np.isfinite(rounded.astype(np.float32)).all():
        raise ValidationMismatch(
            f"weight {weight.name} reaches {np.abs(exact).max():.3g}, too large for {precision};"
            " export another precision"
        )
    return numpy_helper.from_array(rounded, name)


def emulate(encoder: onnx.ModelProto, precision: Half) -> onnx.ModelProto:
    """The roundings of :func:`lower` with every operation in float32, for a runtime without kernels of the half type.

    Weights, inputs and results of the half operations are rounded to the type; sums inside an operation are not.

    Args:
        encoder: the float32 graph; it is not changed.
        precision: to emulate.

    Raises:
        ValidationMismatch, ValueError: as :func:`lower`.
    """
    model = lower(encoder, precision)
    graph, half = model.graph, TYPES[precision]
    rounded = set()
    for entry in graph.initializer:
        if entry.data_type == half:
            entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float32), entry.name))
            rounded.add(entry.name)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT:
            nodes.append(helper.make_node("Identity", node.input, node.output, name=node.name))
            continue
        if node.op_type == "Cast":
            rounded.add(node.output[0])
            nodes += _rounding(node.input[0], node.output[0], half)
            continue
        nodes.append(node)
        if rounded.isdisjoint(node.input):
            continue
        rounded.update(node.output)
        if node.op_type not in MOVES:
            for index, output in enumerate(node.output):
                node.output[index] = f"{output}/exact"
                nodes += _rounding(node.output[index], output, half)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _rounding(source: str, target: str, half: int) -> Iterator[onnx.NodeProto]:
    yield helper.make_node("Cast", [source], [f"{target}/half"], name=f"round {target}", to=half)
    yield helper.make_node("Cast", [f"{target}/half"], [target], name=f"widen {target}", to=TensorProto.FLOAT)


def quantize(
    encoder: onnx.ModelProto, images: Iterable[NDArray[np.float32]], weight_bits: Literal[7, 8] = 7
) -> onnx.ModelProto:
    """The encoder with the products of its MLPs in int8, by Q and DQ nodes at their inputs.

    Symmetric, zero points 0, one scale per activation and one per column of a weight: what TensorRT takes, and ONNX
    Runtime fuses on a CPU. Activations have 8 bits and weights 7, so that no CPU saturates
    (:mod:`msformer_deploy.backends.saturation`). What is quantised, and how it is calibrated, was chosen by measurement
    (docs/explanation/precision.md): with the attention's projections it is slower; with the upsampling, whose result is
    the features, their root mean square error is 40 % larger for a hundredth of the time.

    Args:
        encoder: the float32 graph, its weights initializers; it is not changed.
        images: (1, 3, S, S) each, at least one, looked at one at a time: the ranges are the extremes over all.
        weight_bits: 8 makes graphs as they were before; some CPUs compute them wrongly, which
            ``benchmarks/saturation.py`` measures.

    Raises:
        BackendUnavailable: ONNX Runtime, which calibrates, is missing.
        UsageError: there is no such product in the graph.
        ValueError: no images.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata
    except ImportError as error:
        raise BackendUnavailable(
            f"onnxruntime cannot be imported ({error}), and int8 needs it to calibrate; install msformer-deploy[cpu]"
        ) from error
    names = _mlp_products(encoder)
    if not names:
        raise UsageError(
            "int8 quantises the products of MS-Former's MLPs, and this encoder has none; choose fp16 or bf16"
        )
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    # Without this mark the quantizer warns, through the root logger, to run an optimisation that inlines functions.
    add_pre_process_metadata(model)
    with TemporaryDirectory(prefix="msformer-deploy-") as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            _Images(images),
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
            reduce_range=weight_bits == 7,  # of the weights, to -64..64: see msformer_deploy.backends.saturation
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=names,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
        )
        quantized = onnx.load(target)
    model.CopyFrom(encoder)  # its functions and opset, without the notes that the quantizer adds
    model.graph.CopyFrom(quantized.graph)
    return model


def _mlp_products(encoder: onnx.ModelProto) -> list[str]:
    """Products of what a LayerNormalization or a Gelu gives with a constant weight that widens or narrows it.

    Those of an attention are square.
    """
    weights = {entry.name for entry in encoder.graph.initializer if len({*entry.dims}) == 2}
    activations = {node.output[0] for node in encoder.graph.node if node.op_type in ("LayerNormalization", "Gelu")}
    return [
        node.name
        for node in encoder.graph.node
        if node.op_type == "MatMul" and node.input[0] in activations and node.input[1] in weights
    ]


class _Images:
    """Images as ONNX Runtime's calibrator asks for them."""

    def __init__(self, images: Iterable[NDArray[np.float32]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image}
