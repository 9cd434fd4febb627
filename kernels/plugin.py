"""The kernels as TensorRT's ahead-of-time plugins: an engine contains the PTX and runs without Python and torch.

Such a plugin is one launch of one kernel, and the memory of its outputs is not initialised. So an operation needs one
or three plugins, with TensorRT's own layers around them. :func:`register` registers the plugins with TensorRT, and
:func:`substitute` replaces functions of a model by functions of the same names that use the plugins. ``HeadRefineStep``
has no plugins: TensorRT inlines its standard body. TensorRT-RTX does not support such plugins.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import GenericAlias, ModuleType
from typing import Any

import onnx
import onnx.parser

from msformer_deploy.errors import BackendUnavailable, DeployError

from . import compile as compiled
from . import geometry
from .compile import Image
from .geometry import Launch, Size
from .ops import NAMESPACE

Shape = Sequence[Size]

PLUGIN_SOURCES = ("cluster_argmax", "cross_scale_attention")

# Allowed types of a tensor in TensorRT's notation. All tensors with several types have the same type in one engine.
FLOATS, FLOAT, INTEGER = "FP32|FP16|BF16", "FP32", "INT32"
KINDS = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16"}  # TensorRT's name of a type, and the kind in a kernel's name

# Parts of the positions with a separate context. They are constants, because attention_merge cannot get them from a
# shape. With them, a single image has a block for every multiprocessor of a small device; an empty part costs little.
FINE_PARTS, COARSE_PARTS = 32, 8


@dataclass(frozen=True)
class Plugin:
    """One kernel of ``csrc`` as a plugin. ``shapes`` and ``launch`` take the input shapes, ``launch`` also a kind."""

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    shapes: Callable[..., tuple[Shape, ...]]
    launch: Callable[..., Launch]

    @property
    def id(self) -> str:
        """The plugin's name for TensorRT's Python functions."""
        return f"{NAMESPACE}::{self.name}"


def _argmax_shapes(features: Shape, head: Shape) -> tuple[Shape, ...]:
    batch, _, height, width = features
    return (batch, height, width), (batch, geometry.argmax_tiles(height * width), head[1])


def _argmax_launch(kind: str, features: Shape, head: Shape) -> Launch:
    batch, channels, height, width = features
    clusters = _fixed(head[1], "clusters")
    return geometry.argmax(kind, batch, channels, height * width, clusters, head[0] == 1, label_bytes=4)


def _context_shapes(key_fine: Shape, value_fine: Shape, key_coarse: Shape, value_coarse: Shape) -> tuple[Shape, ...]:
    batch, width, _ = key_fine
    parts = FINE_PARTS + COARSE_PARTS
    return (batch, parts, width, width), (batch, parts, width), (batch, parts, width)


def _context_launch(kind: str, key_fine: Shape, value_fine: Shape, key_coarse: Shape, value_coarse: Shape) -> Launch:
    batch, width, fine_positions = key_fine
    width = _fixed(width, "channels")
    return geometry.context(kind, batch, width, fine_positions, key_coarse[2], FINE_PARTS, COARSE_PARTS)


def _merge_shapes(partial: Shape, maximum: Shape, total: Shape) -> tuple[Shape, ...]:
    batch, _, width = maximum
    return (batch, width, width), (batch, width, width), (batch, width)


def _merge_launch(kind: str, partial: Shape, maximum: Shape, total: Shape) -> Launch:
    batch, _, width = maximum
    return geometry.merge(kind, batch, _fixed(width, "channels"), FINE_PARTS, COARSE_PARTS)


def _apply_shapes(query_fine: Shape, query_coarse: Shape, *_: Shape) -> tuple[Shape, ...]:
    return tuple(query_fine), tuple(query_coarse), (query_fine[0],)


def _apply_launch(kind: str, query_fine: Shape, query_coarse: Shape, *_: Shape) -> Launch:
    batch, fine_positions, width = query_fine
    return geometry.apply(kind, batch, _fixed(width, "channels"), fine_positions, query_coarse[1])


PLUGINS = (
    Plugin(
        "ClusterArgmaxTiles",
        {"features": FLOATS, "head": FLOATS},
        {"labels": INTEGER, "tile_counts": INTEGER},
        _argmax_shapes,
        _argmax_launch,
    ),
    Plugin(
        "AttentionContext",
        {"key_fine": FLOATS, "value_fine": FLOATS, "key_coarse": FLOATS, "value_coarse": FLOATS},
        {"partial": FLOAT, "maximum": FLOAT, "total": FLOAT},
        _context_shapes,
        _context_launch,
    ),
    Plugin(
        "AttentionMerge",
        {"partial": FLOAT, "maximum": FLOAT, "total": FLOAT},
        {"context_fine": FLOAT, "context_coarse": FLOAT, "cosine": FLOAT},
        _merge_shapes,
        _merge_launch,
    ),
    Plugin(
        "AttentionApply",
        {
            "query_fine": FLOATS,
            "query_coarse": FLOATS,
            "context_fine": FLOATS,
            "context_coarse": FLOATS,
            "cosine": FLOAT,
        },
        {"fine": FLOATS, "coarse": FLOATS, "consistency": FLOATS},
        _apply_shapes,
        _apply_launch,
    ),
)


def register(tensorrt: ModuleType, capability: int, cuda: str | None) -> None:
    """Register the plugins with ``tensorrt``. A second call changes the device of later engines.

    Args:
        tensorrt: the imported package.
        capability: compute capability of the device (86 is 8.6).
        cuda: version of CUDA that the driver supports, such as "13.0", because the driver compiles the kernels' PTX;
            None where it is not known.

    Raises:
        BackendUnavailable: this TensorRT does not support ahead-of-time plugins, the device is too old, or there is no
            PTX that the driver accepts.
        DeployError: a source does not compile.
    """
    if not hasattr(tensorrt, "IPluginV3QuickAOTBuild"):
        raise BackendUnavailable(
            f"{tensorrt.__name__} {tensorrt.__version__} takes no ahead-of-time plugins; tensorrt 10.9 or newer does"
        )
    target = compiled.ptx_capability(capability)
    code = {source: compiled.load_for_driver(source, target, cuda) for source in PLUGIN_SOURCES}
    api = importlib.import_module(f"{tensorrt.__name__}.plugin")
    known = getattr(api.op, NAMESPACE, None)
    for plugin in PLUGINS:
        if not hasattr(known, plugin.name):
            _describe(plugin, tensorrt, api)
        _implement(plugin, api, code)


def _describe(plugin: Plugin, tensorrt: Any, api: Any) -> None:
    dtypes = {FLOAT: tensorrt.float32, INTEGER: tensorrt.int32}

    def describe(*inputs: Any) -> tuple[Any, ...]:
        shapes = plugin.shapes(*(each.shape_expr for each in inputs))
        return tuple(
            api.from_shape_expr(tuple(shape), dtypes.get(types, inputs[0].dtype))
            for shape, types in zip(shapes, plugin.outputs.values(), strict=True)
        )

    def combine(*_: Any) -> list[Any]:
        return [api.AutoTuneCombination(", ".join((*plugin.inputs.values(), *plugin.outputs.values())), "LINEAR")]

    tensors = dict.fromkeys(plugin.inputs, api.TensorDesc)
    api.register(plugin.id)(_Signed(describe, tensors, GenericAlias(tuple, (api.TensorDesc,) * len(plugin.outputs))))
    api.autotune(plugin.id)(
        _Signed(combine, {**tensors, "outputs": inspect.Parameter.empty}, list[api.AutoTuneCombination])
    )


def _implement(plugin: Plugin, api: Any, code: Mapping[str, Image]) -> None:
    def implement(*arguments: Any) -> tuple[str, bytes, Any, Any]:
        inputs = arguments[: len(plugin.inputs)]
        launch = plugin.launch(KINDS[inputs[0].dtype.name], *(each.shape_expr for each in inputs))
        parameters = api.KernelLaunchParams()
        parameters.grid_x, parameters.grid_y, parameters.grid_z = launch.grid
        parameters.block_x, parameters.shared_mem = launch.block, launch.shared_bytes(code[launch.source].capability)
        integers = api.SymIntExprs.from_tuple([api.SymInt32(each) for each in launch.integers])
        return launch.kernel, code[launch.source].only(launch.kernel).data, parameters, integers

    api.aot_impl(plugin.id)(
        _Signed(
            implement,
            dict.fromkeys((*plugin.inputs, "outputs", "tactic"), inspect.Parameter.empty),
            tuple[str, bytes, api.KernelLaunchParams, api.SymIntExprs],
        )
    )


class _Signed:
    """A function with a given signature; TensorRT reads the inputs and outputs of a plugin from the signature."""

    def __init__(self, function: Callable[..., Any], parameters: dict[str, Any], returned: Any) -> None:
        self._function = function
        self.__signature__ = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
                for name, annotation in parameters.items()
            ],
            return_annotation=returned,
        )

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


# TensorRT's parser treats a node with a plugin_namespace as a plugin, also inside functions. It refuses the model if no
# such plugin is registered, so an engine never lacks the plugins unnoticed.
FUNCTIONS = (
    """
    <domain: "msformer", opset_import: ["": 20, "msformer": 1]>
    ClusterArgmax <label_type> (features, head) => (labels, counts) {
        ids, tile_counts = msformer.ClusterArgmaxTiles (features, head)
        labels = Cast <to: int = @label_type> (ids)
        tiles = Constant <value_ints = [1]> ()
        image_counts = ReduceSum <keepdims = 0> (tile_counts, tiles)
        counts = Cast <to = 7> (image_counts)
    }
    """,
    """
    <domain: "msformer", opset_import: ["": 20, "msformer": 1]>
    CrossScaleAttention (query_fine, key_fine, value_fine, query_coarse, key_coarse, value_coarse)
        => (fine, coarse, context_fine, context_coarse, consistency) {
        partial, maximum, total = msformer.AttentionContext (key_fine, value_fine, key_coarse, value_coarse)
        wide_fine, wide_coarse, cosine = msformer.AttentionMerge (partial, maximum, total)
        context_fine = CastLike (wide_fine, query_fine)
        context_coarse = CastLike (wide_coarse, query_coarse)
        fine, coarse, consistency
            = msformer.AttentionApply (query_fine, query_coarse, context_fine, context_coarse, cosine)
    }
    """,
)


def substitute(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model whose functions use the plugins; call :func:`register` for this TensorRT first."""
    functions = [onnx.parser.parse_function(text) for text in FUNCTIONS]
    for function in functions:
        for node in function.node:
            if node.domain == NAMESPACE:
                node.attribute.append(onnx.helper.make_attribute("plugin_namespace", NAMESPACE))
                node.attribute.append(onnx.helper.make_attribute("aot", 1))
    return with_functions(model, functions)


def with_functions(model: onnx.ModelProto, functions: Sequence[onnx.FunctionProto]) -> onnx.ModelProto:
    """Return a copy of a model for TensorRT, with ``functions`` in place of its own, and int32 labels.

    TensorRT supports no smaller integers inside a function.
    """
    bodies = {(function.domain, function.name): function for function in functions}
    replaced = onnx.ModelProto()
    replaced.CopyFrom(model)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for function in replaced.functions:
        function.CopyFrom(bodies.get((function.domain, function.name), function))
        for entry in function.opset_import:
            entry.version = versions[entry.domain]
    graph = replaced.graph
    labels = set()
    for node in graph.node:
        for attribute in node.attribute:
            if node.domain == NAMESPACE and attribute.name == "label_type":
                labels.add(node.output[0])
                attribute.i = onnx.TensorProto.INT32
    for value in (*graph.output, *graph.value_info):
        if value.name in labels:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT32
    return replaced


def _fixed(size: Size, what: str) -> int:
    """The integer value of a size that chooses the kernel, and so must be the same in every run of an engine."""
    if isinstance(size, int):
        return size
    if not size.is_constant:
        raise DeployError(f"TensorRT's plugins need the number of {what} fixed in the network; export it fixed")
    return int(size.constant_value())
