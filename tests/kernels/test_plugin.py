"""TensorRT's plugins without a GPU: their launches run in the emulator, as a substituted model orders them.

No engine that holds them was ever built here: that takes enterprise TensorRT and a GPU.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx.inliner
import pytest
import torch
from emulation import EmulatedLauncher, needs_compiler
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from msformer_deploy.errors import BackendUnavailable, DeployError
from msformer_deploy.export.functions import OPS, OPSET
from msformer_deploy.export.graphs import refinement_graph
from msformer_deploy.kernels import compile as compiled
from msformer_deploy.kernels import plugin, reference
from msformer_deploy.kernels.errors import KernelsUnavailable
from msformer_deploy.registry import RefineSettings

TOLERANCES = {np.float32: 4e-6, np.float16: 4e-3}  # of the largest value, as in test_cuda.py


def random(*shape: int, seed: int = 0, dtype: type[np.generic] = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def call(op: str, inputs: list[np.ndarray], outputs: int, **attributes: int) -> onnx.ModelProto:
    """A model that calls one of our functions, with the body that every runtime takes."""
    proto = {function.name: function.to_function_proto() for function in OPS}[op]
    names, results = [f"in{index}" for index in range(len(inputs))], [f"out{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, domain="msformer", **attributes)],
        op,
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in zip(names, inputs, strict=True)
        ],
        [helper.make_empty_tensor_value_info(result) for result in results],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("msformer", 1)]
    return helper.make_model(graph, functions=[proto], opset_imports=opsets, ir_version=10)


def emulate(each: plugin.Plugin, launcher: EmulatedLauncher, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The plugin's outputs, by its launch as TensorRT would make it."""
    tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in inputs]
    kind = {torch.float32: "f32", torch.float16: "f16"}[tensors[0].dtype]
    dtypes = {plugin.FLOATS: tensors[0].dtype, plugin.FLOAT: torch.float32, plugin.INTEGER: torch.int32}
    shapes = [tensor.shape for tensor in tensors]
    outputs = [
        torch.full(shape, torch.nan if dtypes[types].is_floating_point else 2**31 - 1, dtype=dtypes[types])
        for shape, types in zip(each.shapes(*shapes), each.outputs.values(), strict=True)
    ]
    for tensor, types in zip(tensors, each.inputs.values(), strict=True):
        assert tensor.dtype == dtypes[types]
    source, kernel, grid, block, _, integers = how = each.launch(kind, *shapes)
    shared_bytes = how.shared_bytes(launcher.capability)
    assert shared_bytes <= 48 * 1024, "TensorRT is not known to raise CUDA's default limit"
    arguments = [*tensors, *map(ctypes.c_int32, integers), *outputs]
    launcher.launch(source, kernel, grid, block, shared_bytes, arguments)
    return tuple(output.numpy() for output in outputs)


def evaluate(model: onnx.ModelProto, inputs: list[np.ndarray], launcher: EmulatedLauncher) -> list[np.ndarray]:
    """The outputs of a substituted model: plugins in the emulator, all other nodes by onnx."""

    def operator(each: plugin.Plugin) -> type[OpRun]:
        def run(self: OpRun, *tensors: np.ndarray, plugin_namespace: str, aot: int) -> tuple[np.ndarray, ...]:
            assert (plugin_namespace, aot) == ("msformer", 1)
            return emulate(each, launcher, tensors)

        return type(each.name, (OpRun,), {"op_domain": "msformer", "_run": run})

    # Inlined, because onnx does not hand new ops on to functions.
    inlined = onnx.inliner.inline_local_functions(model)
    evaluator = ReferenceEvaluator(inlined, new_ops=[operator(each) for each in plugin.PLUGINS])
    return evaluator.run(None, {value.name: data for value, data in zip(model.graph.input, inputs, strict=True)})


def assert_close(got: np.ndarray, expected: Tensor, dtype: type[np.generic]) -> None:
    assert got.dtype == dtype
    assert got.shape == expected.shape
    wide = expected.numpy()
    largest = 1.0 if wide.ndim == 1 else np.abs(wide).max()
    assert np.abs(got - wide).max() <= TOLERANCES[dtype] * largest


@needs_compiler
@pytest.mark.parametrize("capability", compiled.PTX_CAPABILITIES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("batch", "channels", "size", "clusters", "shared", "label_type"),
    [
        (1, 1, (1, 1), 1, True, TensorProto.UINT8),
        (2, 37, (3, 97), 100, True, TensorProto.INT32),
        (3, 5, (97, 1), 256, False, TensorProto.UINT8),
        (1, 33, (6, 10), 300, True, TensorProto.UINT16),
    ],
)
def test_cluster_argmax(capability, dtype, batch, channels, size, clusters, shared, label_type):
    features = random(batch, channels, *size, dtype=dtype)
    head = random(1 if shared else batch, clusters, channels, seed=1, dtype=dtype)
    model = plugin.substitute(call("ClusterArgmax", [features, head], 2, label_type=label_type))
    labels, counts = evaluate(model, [features, head], EmulatedLauncher(capability))
    assert labels.dtype == np.int32
    wide = [torch.from_numpy(value).double() for value in (features, head)]
    expected_labels, _ = reference.cluster_argmax(*wide)
    assert np.array_equal(labels, expected_labels.numpy())
    assert counts.dtype == np.int64
    assert counts.tolist() == [np.bincount(image.ravel(), minlength=clusters).tolist() for image in labels]


# one position; stretches without positions, and a last one with few; the default width; the widest
@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("capability", compiled.PTX_CAPABILITIES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("batch", "width", "fine", "coarse"), [(2, 5, 1, 1), (1, 31, 1100, 300), (1, 100, 97, 33), (1, 256, 9, 5)]
)
def test_cross_scale_attention(capability, dtype, batch, width, fine, coarse):
    shapes = [shape for n in (fine, coarse) for shape in ((batch, n, width), (batch, width, n), (batch, n, width))]
    inputs = [(2 * random(*shape, seed=seed)).astype(dtype) for seed, shape in enumerate(shapes)]
    model = plugin.substitute(call("CrossScaleAttention", inputs, 5))
    outputs = evaluate(model, inputs, EmulatedLauncher(capability))
    expected = reference.cross_scale_attention(*(torch.from_numpy(value).double() for value in inputs))
    for got, right in zip(outputs, expected, strict=True):
        assert_close(got, right, dtype)


@needs_compiler
def test_keys_of_minus_infinity_weigh_nothing_beside_stretches_without_positions():
    inputs = [random(*shape, seed=seed) for seed, shape in enumerate([(1, 40, 6), (1, 6, 40), (1, 40, 6)] * 2)]
    inputs[1][:, :, :34] = -np.inf
    outputs = evaluate(plugin.substitute(call("CrossScaleAttention", inputs, 5)), inputs, EmulatedLauncher())
    expected = reference.cross_scale_attention(*(torch.from_numpy(value).double() for value in inputs))
    for got, right in zip(outputs, expected, strict=True):
        assert_close(got, right, np.float32)


def test_a_model_keeps_its_nodes_and_the_functions_that_have_no_plugins():
    model = refinement_graph(torch.zeros(6, 8), RefineSettings(steps=2, stride=4), 5)
    before = model.SerializeToString()
    substituted = plugin.substitute(model)
    assert model.SerializeToString() == before
    assert [node.op_type for node in substituted.graph.node] == [node.op_type for node in model.graph.node]
    assert [node for node in substituted.graph.node if node.op_type != "ClusterArgmax"] == [
        node for node in model.graph.node if node.op_type != "ClusterArgmax"
    ]
    types = {value.name: value.type.tensor_type.elem_type for value in substituted.graph.output}
    assert types == {"label_map": TensorProto.INT32, "counts": TensorProto.INT64, "collapsed": TensorProto.BOOL}
    for new, old in zip(substituted.functions, model.functions, strict=True):
        assert (new.name, new.attribute) == (old.name, old.attribute)
        assert (len(new.input), len(new.output)) == (len(old.input), len(old.output))
        assert (new == old) == (old.name != "ClusterArgmax")
    onnx.checker.check_model(substituted)


@pytest.mark.parametrize("kind", plugin.KINDS.values())
def test_shared_memory_stays_within_what_every_launch_may_have(kind):
    argmax, context, merge, apply = plugin.PLUGINS
    launches = [argmax.launch(kind, (1, 9, 9, 9), (1, clusters, 9)) for clusters in range(1, 4097)]
    for width in range(1, 257):
        positions, channels = (1, 99, width), (1, width, 99)
        launches.append(context.launch(kind, channels, positions, channels, positions))
        launches.append(merge.launch("f32", *merge_inputs(width)))
        launches.append(apply.launch(kind, positions, positions, (1, width, width), (1, width, width), (1, width)))
    assert max(max(each.shared) for each in launches) <= 48 * 1024


def merge_inputs(width: int) -> list[tuple[int, ...]]:
    parts = plugin.FINE_PARTS + plugin.COARSE_PARTS
    return [(1, parts, width, width), (1, parts, width), (1, parts, width)]


class Expression:
    """A size as TensorRT has it: an integer that is known when the engine runs, or already when it is built."""

    def __init__(self, value: int, is_constant: bool = True) -> None:
        self.value, self.is_constant = value, is_constant

    def constant_value(self) -> int:
        assert self.is_constant
        return self.value

    def _with(self, other: Expression | int, operation: Callable[[int, int], int]) -> Expression:
        other = other if isinstance(other, Expression) else Expression(other)
        return Expression(operation(self.value, other.value), self.is_constant and other.is_constant)

    def __add__(self, other: Expression | int) -> Expression:
        return self._with(other, lambda a, b: a + b)

    def __mul__(self, other: Expression | int) -> Expression:
        return self._with(other, lambda a, b: a * b)

    def __floordiv__(self, other: Expression | int) -> Expression:
        return self._with(other, lambda a, b: a // b)

    def __eq__(self, other: object) -> Expression:
        assert isinstance(other, Expression | int)
        return self._with(other, lambda a, b: int(a == b))

    __hash__ = None

    def __bool__(self) -> bool:
        raise TypeError("an expression is not true or false while an engine is built")


class TensorDesc(SimpleNamespace):
    shape_expr: tuple[Any, ...]
    dtype: SimpleNamespace


class SymIntExprs(list[Any]):
    @classmethod
    def from_tuple(cls, values: list[Any]) -> SymIntExprs:
        return cls(values)


class SymInt32:
    def __init__(self, value: Any) -> None:
        self.value = value.value if isinstance(value, Expression) else int(value)


DTYPES = {name: SimpleNamespace(name=name) for name in ("FLOAT", "HALF", "BF16", "INT32")}


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Stands in for the package as far as plugins are registered with it, and refuses what it refuses."""
    functions: dict[str, dict[str, Any]] = {"register": {}, "autotune": {}, "aot_impl": {}}
    operators = SimpleNamespace()

    def register(plugin_id: str) -> Callable[[Any], None]:
        namespace, name = plugin_id.split("::")
        known = operators.__dict__.setdefault(namespace, SimpleNamespace())
        assert not hasattr(known, name), f"'_Op' already has a defintion for '{name}'"
        setattr(known, name, plugin_id)
        return lambda function: functions["register"].__setitem__(plugin_id, function)

    def refine(kind: str) -> Callable[[str], Callable[[Any], None]]:
        def decorate(plugin_id: str) -> Callable[[Any], None]:
            assert plugin_id in functions["register"], f"Plugin {plugin_id} is not registered."
            return lambda function: functions[kind].__setitem__(plugin_id, function)

        return decorate

    api = ModuleType("tensorrt.plugin")
    api.__dict__.update(
        op=operators,
        register=register,
        autotune=refine("autotune"),
        aot_impl=refine("aot_impl"),
        TensorDesc=TensorDesc,
        KernelLaunchParams=SimpleNamespace,
        SymIntExprs=SymIntExprs,
        SymInt32=SymInt32,
        AutoTuneCombination=lambda types, layouts: (types, layouts),
        from_shape_expr=lambda shape, dtype: TensorDesc(shape_expr=shape, dtype=dtype),
        functions=functions,
    )
    package = ModuleType("tensorrt")
    package.__dict__.update(
        __version__="11.4", IPluginV3QuickAOTBuild=object, float32=DTYPES["FLOAT"], int32=DTYPES["INT32"], plugin=api
    )
    monkeypatch.setitem(sys.modules, "tensorrt", package)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", api)
    yield package


SHAPES = {
    "ClusterArgmaxTiles": [(3, 16, 20, 30), (1, 100, 16)],
    "AttentionContext": [(3, 100, 600), (3, 600, 100), (3, 100, 150), (3, 150, 100)],
    "AttentionMerge": [(3, 40, 100, 100), (3, 40, 100), (3, 40, 100)],
    "AttentionApply": [(3, 600, 100), (3, 150, 100), (3, 100, 100), (3, 100, 100), (3, 100)],
}
OUTPUTS = {
    "ClusterArgmaxTiles": [((3, 20, 30), "INT32"), ((3, 5, 100), "INT32")],
    "AttentionContext": [((3, 40, 100, 100), "FLOAT"), ((3, 40, 100), "FLOAT"), ((3, 40, 100), "FLOAT")],
    "AttentionMerge": [((3, 100, 100), "FLOAT"), ((3, 100, 100), "FLOAT"), ((3, 100), "FLOAT")],
    "AttentionApply": [((3, 600, 100), "HALF"), ((3, 150, 100), "HALF"), ((3,), "HALF")],
}


def described(shapes: list[tuple[int, ...]], types: dict[str, str]) -> list[TensorDesc]:
    """Inputs as TensorRT describes them: half where a plugin lets them be, and any number of images."""
    return [
        TensorDesc(
            shape_expr=tuple(Expression(size, is_constant=axis > 0) for axis, size in enumerate(shape)),
            dtype=DTYPES["HALF" if allowed == plugin.FLOATS else "FLOAT"],
        )
        for shape, allowed in zip(shapes, types.values(), strict=True)
    ]


@pytest.mark.parametrize("each", plugin.PLUGINS, ids=lambda each: each.name)
def test_registering(tensorrt, monkeypatch, each):
    monkeypatch.setattr(compiled, "load_for_driver", lambda *_: IMAGE)
    plugin.register(tensorrt, 86, "13.0")
    functions = {kind: by_id[f"msformer::{each.name}"] for kind, by_id in tensorrt.plugin.functions.items()}
    inputs = described(SHAPES[each.name], each.inputs)

    signature = inspect.signature(functions["register"])
    assert [(name, parameter.annotation) for name, parameter in signature.parameters.items()] == [
        (name, TensorDesc) for name in each.inputs
    ]
    assert signature.return_annotation == tuple[(TensorDesc,) * len(each.outputs)]
    outputs = functions["register"](*inputs)
    got = [(tuple(int(getattr(size, "value", size)) for size in out.shape_expr), out.dtype.name) for out in outputs]
    assert got == OUTPUTS[each.name]

    assert list(inspect.signature(functions["autotune"]).parameters) == [*each.inputs, "outputs"]
    ((types, layouts),) = functions["autotune"](*inputs, outputs)
    assert len(types.split(", ")) == len(inputs) + len(outputs)
    assert layouts == "LINEAR"

    signature = inspect.signature(functions["aot_impl"])
    assert list(signature.parameters) == [*each.inputs, "outputs", "tactic"]
    assert signature.return_annotation == tuple[str, bytes, SimpleNamespace, SymIntExprs]
    kernel, _, parameters, integers = functions["aot_impl"](*inputs, outputs, 0)
    kind = "f16" if plugin.FLOATS in each.inputs.values() else "f32"
    expected = each.launch(kind, *SHAPES[each.name])
    grid = (parameters.grid_x, parameters.grid_y, parameters.grid_z)
    assert kernel == expected.kernel
    assert tuple(SymInt32(size).value for size in grid) == expected.grid
    assert (parameters.block_x, parameters.shared_mem) == (expected.block, expected.shared_bytes(80))
    assert all(isinstance(each, SymInt32) for each in integers)
    assert [each.value for each in integers] == list(map(int, expected.integers))


PTX = b"""//
.version 9.0
.target sm_80
\t// .globl\tfirst
.extern .shared .align 16 .b8 memory[];
.visible .entry first(
\t.param .u64 first_param_0
)
{
\t{ add.f32 %f1, %f2, %f3; }
\tret;
}
\t// .globl\tfirst_n8
.visible .entry first_n8()
{
\tret;
}
\t.file\t1 "source.cu"
"""
IMAGE = compiled.Image(PTX, "ptx", 80, "shipped", "9.0")


def test_a_plugin_carries_its_own_kernel_only():
    first, second = IMAGE.only("first").data, IMAGE.only("first_n8").data
    assert IMAGE._replace(kind="cubin").only("first").data == PTX, "machine code is not taken apart"
    assert first.count(b".entry") == second.count(b".entry") == 1
    assert b".entry first(" in first
    assert b".entry first_n8(" in second
    for part in (b".target sm_80\n", b".extern .shared", b'\t.file\t1 "source.cu"\n'):
        assert part in first
        assert part in second


def test_registering_again_changes_the_device(tensorrt, monkeypatch):
    loaded = []

    def load(source: str, capability: int, cuda: str) -> SimpleNamespace:
        loaded.append((source, capability, cuda))
        kernel = f".target sm_{capability}\n.visible .entry attention_merge_f32(\n)\n{{\n}}\n"
        return compiled.Image(kernel.encode(), "ptx", capability, "shipped", "9.0")

    monkeypatch.setattr(compiled, "load_for_driver", load)
    implementations = tensorrt.plugin.functions["aot_impl"]
    for capability in (75, 90):
        plugin.register(tensorrt, capability, "13.0")
        inputs = described(SHAPES["AttentionMerge"], plugin.PLUGINS[2].inputs)
        _, ptx, _, _ = implementations["msformer::AttentionMerge"](*inputs, [], 0)
        assert f".target sm_{min(capability, 80)}\n".encode() in ptx
    assert loaded == [(source, target, "13.0") for target in (75, 80) for source in plugin.PLUGIN_SOURCES]


def test_a_driver_without_ptx_of_its_age_is_refused_before_anything_is_registered(tensorrt, monkeypatch):
    def load(*_: object) -> None:
        raise BackendUnavailable("the driver (for CUDA 12.6) is older than the PTX of our kernels")

    monkeypatch.setattr(compiled, "load_for_driver", load)
    with pytest.raises(BackendUnavailable, match=r"driver \(for CUDA 12.6\) is older"):
        plugin.register(tensorrt, 87, "12.6")
    assert not tensorrt.plugin.functions["register"]


@pytest.mark.parametrize(("dtype", "kernel"), [("FLOAT", "f32"), ("HALF", "f16"), ("BF16", "bf16")])
def test_every_type_has_its_kernel(tensorrt, monkeypatch, dtype, kernel):
    monkeypatch.setattr(compiled, "load_for_driver", lambda *_: IMAGE)
    plugin.register(tensorrt, 86, "13.0")
    inputs = described(SHAPES["ClusterArgmaxTiles"], plugin.PLUGINS[0].inputs)
    for each in inputs:
        each.dtype = DTYPES[dtype]
    functions = tensorrt.plugin.functions
    name, *_ = functions["aot_impl"]["msformer::ClusterArgmaxTiles"](*inputs, [], 0)
    assert name == f"cluster_argmax_{kernel}_n13"
    ((types, _),) = functions["autotune"]["msformer::ClusterArgmaxTiles"](*inputs, [])
    assert {"FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16"}[dtype] in types.split(", ")[0].split("|")


def test_what_chooses_a_kernel_must_be_fixed(tensorrt, monkeypatch):
    monkeypatch.setattr(compiled, "load_for_driver", lambda *_: IMAGE)
    plugin.register(tensorrt, 80, "13.0")
    features, head = described(SHAPES["ClusterArgmaxTiles"], plugin.PLUGINS[0].inputs)
    head.shape_expr = (Expression(1), Expression(100, is_constant=False), Expression(16))
    with pytest.raises(DeployError, match="need the number of clusters fixed in the network"):
        tensorrt.plugin.functions["aot_impl"]["msformer::ClusterArgmaxTiles"](features, head, [], 0)


def test_sizes_beyond_the_kernels():
    argmax, _, _, apply = plugin.PLUGINS
    with pytest.raises(KernelsUnavailable, match="cluster_argmax takes up to 4096 clusters, got 4097"):
        argmax.launch("f32", (1, 2, 3, 3), (1, 4097, 2))
    with pytest.raises(KernelsUnavailable, match="takes up to 256 channels, got 257"):
        apply.launch("f32", (1, 2, 257), (1, 2, 257), (1, 257, 257), (1, 257, 257), (1, 257))


def test_a_tensorrt_without_such_plugins(tensorrt):
    del tensorrt.IPluginV3QuickAOTBuild
    with pytest.raises(BackendUnavailable, match=r"tensorrt 11.4 takes no ahead-of-time plugins"):
        plugin.register(tensorrt, 80, "13.0")


def test_an_old_device(tensorrt):
    with pytest.raises(BackendUnavailable, match="too old"):
        plugin.register(tensorrt, 61, "13.0")


@pytest.mark.slow
@pytest.mark.trt
def test_tensorrt_rtx_takes_no_such_plugins():
    rtx = pytest.importorskip("tensorrt_rtx")
    with pytest.raises(BackendUnavailable, match=r"tensorrt_rtx .* takes no ahead-of-time plugins"):
        plugin.register(rtx, 80, "13.0")


@pytest.mark.trt
def test_the_parser_takes_nodes_within_our_functions_for_plugins():
    """It misses the first plugin, so it read all before. The parsers of TensorRT and TensorRT-RTX are of one source."""
    rtx = pytest.importorskip("tensorrt_rtx")
    logger = rtx.Logger(rtx.Logger.INTERNAL_ERROR)
    network = rtx.Builder(logger).create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    model = refinement_graph(torch.zeros(6, 8), RefineSettings(steps=2, stride=4), 5)
    assert not parser.parse(plugin.substitute(model).SerializeToString())
    error = parser.get_error(0)
    assert "Plugin not found" in error.desc()
    assert "ClusterArgmaxTiles" in str(error)
