"""The part of TensorRT's Python API that our code uses, recorded: it is not TensorRT, and computes with ONNX Runtime.

NVIDIA's full ``tensorrt`` cannot be installed on every machine and opens no engine without a GPU; this stands in for it
and for ``tensorrt_rtx`` where an engine must be opened. Names, parameters, enumeration members and what is refused are
those of the bindings of tensorrt_rtx 1.7.1 (``test_the_recorded_surface`` compares them where they are installed). What
the full TensorRT 10 and 11 have beyond that is taken from NVIDIA's published documents: precision flags in 10 only,
``HardwareCompatibilityLevel``, ``IPluginV3QuickAOTBuild`` from 10.9, the JSON of the engine inspector before and from
11. Behaviour is no more than the documents promise.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import json
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from onnx import TensorProto

BUILDER_FLAGS = (
    "DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE EDITABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE"
    " VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME ERROR_ON_TIMING_CACHE_MISS DISABLE_COMPILATION_CACHE STRIP_PLAN"
    " REFIT_IDENTICAL WEIGHT_STREAMING REFIT_INDIVIDUAL STRICT_NANS MONITOR_MEMORY DISTRIBUTIVE_INDEPENDENCE"
)
ENUMERATIONS = {
    "BuilderFlag": BUILDER_FLAGS,
    "ComputeCapability": "NONE CURRENT SM75 SM80 SM86 SM89 SM120 SM121",
    "CudaGraphStrategy": "DISABLED WHOLE_GRAPH_CAPTURE",
    "DataType": "FLOAT HALF BF16 INT8 INT32 INT64 BOOL UINT8",
    "DynamicShapesKernelSpecializationStrategy": "LAZY EAGER NONE",
    "ExecutionContextAllocationStrategy": "STATIC ON_PROFILE_CHANGE USER_MANAGED",
    "HardwareCompatibilityLevel": "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY",
    "LayerInformationFormat": "ONELINE JSON",
    "LayerType": "CONVOLUTION CAST ACTIVATION SOFTMAX ELEMENTWISE MATRIX_MULTIPLY CONSTANT QUANTIZE DEQUANTIZE"
    " PLUGIN_V3",
    "MemoryPoolType": "WORKSPACE TACTIC_DRAM TACTIC_SHARED_MEMORY",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "ProfilingVerbosity": "LAYER_NAMES_ONLY DETAILED NONE",
    "TensorIOMode": "NONE INPUT OUTPUT",
}
RTX_ONLY = ("ComputeCapability", "CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy")
# Of TensorRT 10 alone, from its documents: the first is what TensorRT 11 and TensorRT-RTX have lost.
ONLY_10 = {
    "BuilderFlag": f"FP16 BF16 INT8 FP8 INT4 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS {BUILDER_FLAGS}",
    "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH STRONGLY_TYPED",
}
MAGIC = b"ptrt"
LAYERS = {
    "Conv": "CONVOLUTION",
    "MatMul": "MATRIX_MULTIPLY",
    "Cast": "CAST",
    "Constant": "CONSTANT",
    "Gelu": "ACTIVATION",
    "Softmax": "SOFTMAX",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
}
TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
}
INSPECTED_10 = {"FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT8": "Int8", "INT32": "Int32", "BOOL": "Bool"}
INSPECTED_11 = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16", "INT8": "Int8", "INT32": "Int32", "BOOL": "Bool"}


class _Member(Enum):
    def __int__(self) -> int:
        return int(self.value)


class _Recorded:
    """What the bindings' classes have in common: no new attributes, and arguments of the declared types only."""

    api: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        for name, member in list(vars(cls).items()):
            if cls.__module__ == __name__ and inspect.isfunction(member) and not name.startswith("_"):
                setattr(cls, name, _refusing(member))

    def __setattr__(self, name: str, value: Any) -> None:
        ours = type(self).__module__ != __name__  # a class of ours that implements one of theirs
        if not ours and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


def _refusing(method: Any) -> Any:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: _Recorded, *arguments: Any, **named: Any) -> Any:
        bound = signature.bind(self, *arguments, **named)
        for name, value in list(bound.arguments.items())[1:]:
            _refuse(self.api, value, str(signature.parameters[name].annotation), f"{method.__name__}(): {name}")
        return method(self, *arguments, **named)

    return call


def _refuse(api: Any, value: Any, kind: str, where: str) -> None:
    """Raise the bindings' TypeError unless the value is of one of the types, which are told by name."""
    plain = {"int": (int, _Member), "str": str, "bool": bool, "Buffer": (bytes, memoryview), "Dims": (tuple, list)}
    wanted = [plain.get(each) or getattr(api, each) for each in kind.split(" | ")]
    if not any(isinstance(value, each) for each in wanted):
        raise TypeError(f"{where}: incompatible function arguments: {value!r} is not {kind}")


class _Property:
    """A property of the bindings that takes one type."""

    def __init__(self, kind: str, initial: Any = None) -> None:
        self._kind, self._initial = kind, initial

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance.__dict__.get(f"_{self._name}", self._initial)

    def __set__(self, instance: Any, value: Any) -> None:
        if value is not None:
            _refuse(instance.api, value, self._kind, self._name)
        instance.__dict__[f"_{self._name}"] = value


class ILogger(_Recorded):
    Severity = _Member("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)

    def log(self, severity: Any, msg: Any) -> None:
        raise RuntimeError("a pure virtual function was called")


class IProgressMonitor(_Recorded):
    """Its methods are ours to write; TensorRT calls them."""


class _Says(_Recorded):
    """Made by another object, whose log it shares."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def _fail(self, message: str) -> None:
        self._log.log(ILogger.Severity.ERROR, message)


class Builder(_Says):
    def __init__(self, logger: Any) -> None:
        _refuse(self.api, logger, "ILogger", "__init__(): logger")
        if not self.api.starts:
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        super().__init__(logger)

    def create_network(self, flags: int = 0) -> Any:
        return self.api.INetworkDefinition(self._log, flags)

    def create_builder_config(self) -> Any:
        return self.api.IBuilderConfig(self._log)

    def create_optimization_profile(self) -> Any:
        return self.api.IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        if not config._profiles:
            return self._fail("network has dynamic inputs, but no optimization profile has been defined")
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building engine", None, 2)
            going = all(monitor.step_complete("Building engine", step) for step in range(2))
            monitor.phase_finish("Building engine")
            if not going:
                return self._fail("the build was cancelled by the progress monitor")
        header = {
            "version": self.api.__version__,
            "flags": sorted(flag.name for flag in config._flags),
            "profile": config._profiles[0]._shapes,
            "detailed": config.profiling_verbosity is self.api.ProfilingVerbosity.DETAILED,
        }
        self.api.built.append(config)
        config._network = network
        text = json.dumps(header).encode()
        return MAGIC + len(text).to_bytes(4, "little") + text + network._model.SerializeToString()


class IOptimizationProfile(_Recorded):
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:  # noqa: F821
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache(_Recorded):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> Any:
        return self._data + b"."


class IBuilderConfig(_Says):
    profiling_verbosity = _Property("ProfilingVerbosity")
    hardware_compatibility_level = _Property("HardwareCompatibilityLevel")
    progress_monitor = _Property("IProgressMonitor")
    num_compute_capabilities = _Property("int", 0)

    def __init__(self, log: Any) -> None:
        super().__init__(log)
        self._flags = {self.api.BuilderFlag.TF32}
        self._pools: dict[Any, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._capabilities: dict[int, Any] = {}
        self._cache: ITimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:  # noqa: F821
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:  # noqa: F821
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:  # noqa: F821
        self._pools[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_compute_capability(self, compute_capability: ComputeCapability, index: int) -> bool:  # noqa: F821
        self._capabilities[index] = compute_capability
        return index < self.num_compute_capabilities

    def create_timing_cache(self, serialized_timing_cache: Buffer) -> Any:  # noqa: F821
        return self.api.ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._data.startswith(b"other") and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class INetworkDefinition(_Says):
    def __init__(self, log: Any, flags: int) -> None:
        super().__init__(log)
        self._flags = flags
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._layers: list[Any] = []
        self._session = functools.cache(self._open)

    def _open(self) -> Any:
        return onnxruntime.InferenceSession(self._model.SerializeToString(), providers=["CPUExecutionProvider"])

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def get_layer(self, index: int) -> Any:
        return self._layers[index]


class ITensor(_Recorded):
    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        self._of = name, dtype, shape

    name = property(lambda self: self._of[0])
    dtype = property(lambda self: self._of[1])
    shape = property(lambda self: self._of[2])


class ILayer(_Recorded):
    def __init__(self, kind: Any, output: ITensor) -> None:
        self._kind, self._output = kind, output

    type = property(lambda self: self._kind)
    num_outputs = property(lambda self: 1)

    def get_output(self, index: int) -> Any:
        return self._output


class ParserError(_Recorded):
    def __init__(self, node: onnx.NodeProto, text: str) -> None:
        self._node, self._text = node, text

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return str(self._node.name)

    def node_operator(self) -> str:
        return str(self._node.op_type)


class OnnxParser(_Says):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        super().__init__(logger)
        self._network = network
        self._errors: list[Any] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, model: Buffer, path: str = "") -> bool:  # noqa: F821
        api, network = self.api, self._network
        network._model = onnx.load_from_string(model)
        inlined = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(network._model))
        types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*inlined.graph.input, *inlined.graph.value_info, *inlined.graph.output)
        }

        def tensor(name: str, shape: tuple[int, ...] = ()) -> Any:
            return api.ITensor(name, getattr(api.DataType, TYPES[types.get(name) or TensorProto.FLOAT]), shape)

        for node in inlined.graph.node:
            plugin = any(attribute.name == "plugin_namespace" for attribute in node.attribute)
            if node.domain and not (plugin and f"{node.domain}::{node.op_type}" in api.plugins):
                self._errors.append(api.ParserError(node, "Plugin not found, are the plugin name and namespace right?"))
                return False
            kind = "PLUGIN_V3" if plugin else LAYERS.get(node.op_type, "ELEMENTWISE")
            network._layers.append(api.ILayer(getattr(api.LayerType, kind), tensor(node.output[0])))
        for values, found in ((inlined.graph.input, network._inputs), (inlined.graph.output, network._outputs)):
            for value in values:
                found.append(tensor(value.name, tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)))
        return True


class Runtime(_Says):
    engine_host_code_allowed = _Property("bool", False)

    def __init__(self, logger: Any) -> None:
        _refuse(self.api, logger, "ILogger", "__init__(): logger")
        super().__init__(logger)

    def deserialize_cuda_engine(self, serialized_engine: Buffer) -> Any:  # noqa: F821
        data = bytes(serialized_engine)
        self.api.events.append("deserialize")
        if not self.api.opens:
            return self._fail("IRuntime::deserializeCudaEngine: Error Code 2:\n  out of memory")
        if data[:4] != MAGIC:
            return self._fail("header.magicTag == kEXPECTED_MAGIC_TAG failed")
        size = int.from_bytes(data[4:8], "little")
        header = json.loads(data[8 : 8 + size])
        if "VERSION_COMPATIBLE" in header["flags"] and not self.engine_host_code_allowed:
            return self._fail("the engine holds host code, which is not allowed")
        if header["version"] != self.api.__version__:
            return self._fail(f"the engine was built with {header['version']}, this is {self.api.__version__}")
        network = self.api.INetworkDefinition(self._log, 1)
        self.api.OnnxParser(network, self._log).parse(data[8 + size :])
        return self.api.ICudaEngine(self._log, header, network)


class ICudaEngine(_Says):
    def __init__(self, log: Any, header: dict[str, Any], network: INetworkDefinition) -> None:
        super().__init__(log)
        self._header, self._network = header, network
        self._tensors = {each.name: each for each in (*network._inputs, *network._outputs)}

    num_io_tensors = property(lambda self: len(self._tensors))
    device_memory_size_v2 = property(lambda self: 1024)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name].dtype

    def get_tensor_shape(self, name: str) -> Any:
        return self._tensors[name].shape

    def get_tensor_mode(self, name: str) -> Any:
        mode = self.api.TensorIOMode
        return mode.INPUT if self._tensors[name] in self._network._inputs else mode.OUTPUT

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        assert profile_index == 0
        return self._header["profile"][name]

    def create_engine_inspector(self) -> Any:
        return self.api.EngineInspector(self)

    def create_runtime_config(self) -> Any:
        return self.api.IRuntimeConfig()

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy | IRuntimeConfig) -> Any:  # noqa: F821
        if not self.api.prepares:
            return self._fail("Error Code 2: OutOfMemory")
        return self.api.IExecutionContext(self._log, self, strategy)


class EngineInspector(_Recorded):
    execution_context = _Property("IExecutionContext")

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: F821
        layers = self._engine._network._layers
        if not self._engine._header["detailed"]:
            return json.dumps({"Layers": [layer._output.name for layer in layers]})
        return json.dumps(
            {
                "Layers": [
                    {"LayerType": layer.type.name, "Outputs": [self._tensor(layer.get_output(0))]} for layer in layers
                ]
            }
        )

    def _tensor(self, tensor: ITensor) -> dict[str, str]:
        dynamic = any(-1 in each.shape for each in self._engine._network._inputs)
        if dynamic and (self.execution_context is None or self.execution_context._shape is None):
            name = "Format/Datatype" if self.api.__version__.startswith("10") else "DataType"
            return {"Name": tensor.name, name: "N/A due to dynamic shapes"}
        if self.api.__version__.startswith("10"):
            inspected = INSPECTED_10.get(tensor.dtype.name, "Int64")
            return {"Name": tensor.name, "Format/Datatype": f"Row major linear {inspected} format"}
        inspected = INSPECTED_11.get(tensor.dtype.name, "Int64")
        return {"Name": tensor.name, "DataType": inspected, "Format": "Row major linear"}


class IRuntimeConfig(_Recorded):
    cuda_graph_strategy = _Property("CudaGraphStrategy")
    dynamic_shapes_kernel_specialization_strategy = _Property("DynamicShapesKernelSpecializationStrategy")


class IExecutionContext(_Says):
    """Runs the graph in ONNX Runtime, on host memory at the addresses it was given."""

    def __init__(self, log: Any, engine: ICudaEngine, how: Any) -> None:
        super().__init__(log)
        self._engine, self._how = engine, how
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] | None = None
        self._memory: int | None = None
        self._changes = 0
        self.api.contexts.append(self)

    def set_input_shape(self, name: str, shape: Dims) -> bool:  # noqa: F821
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            self._fail(f"shape {shape} is not within the profile")
            return False
        self._shape, self._changes = tuple(shape), self._changes + 1
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors:
            self._fail(f"no tensor {name}")
            return False
        self._addresses[name], self._changes = memory, self._changes + 1
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory = memory

    def execute_async_v3(self, stream_handle: int) -> bool:
        managed = self._how is self.api.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._shape is None or self._addresses.keys() != self._engine._tensors.keys():
            self._fail("not all shapes and addresses are set")
            return False
        if managed and self._memory is None:
            self._fail("no device memory is set")
            return False
        if not self.api.runs:
            self._fail("Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
            return False
        if self.api.recording is None:
            self.api.events.append("execute")
            self._compute()
        else:
            self.api.recording.append(self._replay(self._changes))
        return True

    def _replay(self, changes: int) -> Any:
        def replay() -> None:
            assert self._changes == changes, "undefined: the context was changed after its graph was captured"
            self._compute()

        return replay

    def _compute(self) -> None:
        network = self._engine._network
        session = network._session()
        (given,) = network._inputs
        outputs = session.run(None, {given.name: _at(self._addresses[given.name], self._shape, np.float32)})
        for value, output in zip(outputs, session.get_outputs(), strict=True):
            _at(self._addresses[output.name], value.shape, value.dtype)[...] = value


def _at(address: int, shape: Any, dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


RECORDED = (
    *(ILogger, IProgressMonitor, Builder, IOptimizationProfile, ITimingCache, IBuilderConfig, INetworkDefinition),
    *(ITensor, ILayer, ParserError, OnnxParser, Runtime, ICudaEngine, EngineInspector, IRuntimeConfig),
    IExecutionContext,
)


def make(name: str, version: str) -> Any:
    """A package: ``tensorrt`` of a version 10 or 11, or ``tensorrt_rtx``.

    Beside the API it has what tests look at: ``events``, ``contexts`` and ``built`` in order, ``recording`` while a
    CUDA graph is captured, and ``starts``, ``opens``, ``prepares`` and ``runs`` to let it fail.
    """
    api = ModuleType(name)
    rtx, major = name == "tensorrt_rtx", int(version.partition(".")[0])
    for each, members in ENUMERATIONS.items():
        if rtx or each not in RTX_ONLY:
            known = ONLY_10.get(each, members) if not rtx and major == 10 else members
            setattr(api, each, _Member(each, known, start=0))
    for recorded in RECORDED:
        setattr(api, recorded.__name__, type(recorded.__name__, (recorded,), {"api": api}))
    api.__dict__.update(
        __version__=version, float32=api.DataType.FLOAT, int32=api.DataType.INT32, plugins=set(), recording=None,
        events=[], contexts=[], built=[], starts=True, opens=True, prepares=True, runs=True,
    )  # fmt: skip
    if not rtx:
        api.__dict__.update(IPluginV3QuickAOTBuild=object, plugin=_plugin_package(api))
    return api


def _plugin_package(api: Any) -> ModuleType:
    package, operators = ModuleType(f"{api.__name__}.plugin"), SimpleNamespace()

    def register(plugin_id: str) -> Any:
        namespace, name = plugin_id.split("::")
        setattr(operators.__dict__.setdefault(namespace, SimpleNamespace()), name, plugin_id)
        api.plugins.add(plugin_id)
        return lambda function: function

    package.__dict__.update(
        op=operators, register=register, autotune=lambda _: lambda function: function,
        aot_impl=lambda _: lambda function: function, TensorDesc=SimpleNamespace, KernelLaunchParams=SimpleNamespace,
        SymIntExprs=list, SymInt32=int, AutoTuneCombination=tuple,
    )  # fmt: skip
    return package
