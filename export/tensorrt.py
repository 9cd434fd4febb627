"""ONNX to TensorRT: an engine and the sidecar that says what it is, for either flavour and for TensorRT 10 and 11.

Every network is strongly typed, so a precision is the graph's and not a wish: TensorRT 11 and TensorRT-RTX know nothing
else, TensorRT 10 needs a flag for it. What differs between them is in :class:`_Builder` and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx
import onnx.parser

from msformer_deploy.backends.rewrites.grid_samples import without_deform_conv
from msformer_deploy.bundle.engines import rtx_supports
from msformer_deploy.bundle.folder import Graph, graph_name, sha256
from msformer_deploy.bundle.sidecar import (
    ENGINE,
    PORTABLE,
    EngineOptions,
    Record,
    TensorInfo,
    this_platform,
    write_record,
)
from msformer_deploy.errors import BackendUnavailable, DeployError, UsageError, ValidationMismatch
from msformer_deploy.files import atomic_path
from msformer_deploy.kernels import plugin
from msformer_deploy.machine.driver import Gpu
from msformer_deploy.machine.homes import user_cache
from msformer_deploy.machine.trt_flavour import MODULES, Flavour, deserialize, message_log, one_line, start
from msformer_deploy.registry import Precision

from .graphs import FIGURE

Progress = Callable[[str, int, int], None]  # phase, steps done, steps there are

MIB = 2**20
# TensorRT's name of the type in which a precision computes its products.
PRODUCT_TYPES: dict[Precision, str] = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
LOW_TYPES = {*PRODUCT_TYPES.values()} - {"FLOAT"}
PRODUCTS = {"Conv": "CONVOLUTION", "MatMul": "MATRIX_MULTIPLY"}  # ONNX's name and TensorRT's

# ClusterArgmax for a TensorRT without our plugin. It counts by one-hot vectors, because TensorRT's ScatterElements
# does not add; ONNX Runtime needs 0.7 ms for the scatter and 65 ms for this, so its body is another.
CLUSTER_ARGMAX = """
    <domain: "msformer", opset_import: ["": 20, "msformer": 1]>
    ClusterArgmax <label_type> (features, head) => (labels, counts) {
        flat_shape = Constant <value_ints = [0, 0, -1]> ()
        flat = Reshape (features, flat_shape)
        pixels = Transpose <perm = [0, 2, 1]> (flat)
        columns = Transpose <perm = [0, 2, 1]> (head)
        scores = MatMul (pixels, columns)
        ids = ArgMax <axis = 2, keepdims = 0> (scores)
        batch = Shape <start = 0, end = 1> (features)
        size = Shape <start = 2, end = 4> (features)
        image = Concat <axis = 0> (batch, size)
        image_ids = Reshape (ids, image)
        labels = Cast <to: int = @label_type> (image_ids)
        clusters = Shape <start = 1, end = 2> (head)
        off_on = Constant <value_floats = [0.0, 1.0]> ()
        one_hot = OneHot <axis = 2> (ids, clusters, off_on)
        pixel_axis = Constant <value_ints = [1]> ()
        sums = ReduceSum <keepdims = 0> (one_hot, pixel_axis)
        counts = Cast <to = 7> (sums)
    }
    """


def build_engine(
    bundle: Path,
    graph: Graph,
    precision: Precision,
    flavour: Flavour,
    options: EngineOptions,
    *,
    gpu: Gpu | None = None,
    driver: str | None = None,
    progress: Progress = lambda *_: None,
) -> Record:
    """Build one engine into a bundle that is being made.

    Args:
        bundle: folder that holds the ONNX graph; the engine and its sidecar go into a folder of it.
        graph, precision: which ONNX graph.
        flavour: the TensorRT that builds.
        options: how.
        gpu: the device here, if there is one. The full TensorRT builds on and for it.
        driver: CUDA version of its driver.
        progress: called with TensorRT's phases.

    Returns:
        what the sidecar says.

    Raises:
        UsageError: an option this flavour does not have.
        BackendUnavailable: the full TensorRT without a GPU, or plugins that it cannot take.
        DeployError: TensorRT cannot parse or build the graph, with its reason.
        ValidationMismatch: what it made has other inputs, outputs or types than the graph.
        KeyboardInterrupt: Ctrl-C while it was building.
    """
    check_options(flavour, options, gpu)
    source = bundle / graph_name(graph, precision)
    began = time.perf_counter()
    model = onnx.load(source)
    without_deform_conv(model.graph)

    def build(variant: onnx.ModelProto) -> tuple[Any, memoryview]:
        builder = _Builder(flavour, options)
        network = builder.parse(variant, source.name)
        _check_signature(network, variant, flavour)
        _check_precision(_network_precisions(network), variant, precision, source.name)
        config = builder.configure(network, precision, gpu)
        return network, builder.build(network, config, source.name, progress)

    refusal = _no_plugins(flavour, options, gpu, driver)
    if refusal is None:
        try:
            network, engine = build(plugin.substitute(model))
        except DeployError as error:
            if options.plugins == "always":
                raise
            refusal = f"with plugins, {error}"
    if refusal is not None:
        network, engine = build(plugin.with_functions(model, [onnx.parser.parse_function(CLUSTER_ARGMAX)]))
    seconds = time.perf_counter() - began
    inputs = _tensors(network.get_input, network.num_inputs)
    outputs = _tensors(network.get_output, network.num_outputs)
    report = {} if gpu is None else _inspect(flavour, engine, options, gpu)
    types = inner_types(report, {each["name"] for each in (*inputs, *outputs)})
    _check_engine(types, precision, f"{flavour} built the {precision} {graph}")
    targets = options.compute_capabilities or (PORTABLE,)
    record = Record(
        graph=graph,
        precision=precision,
        flavour=flavour.name,
        flavour_version=flavour.version,
        platform=this_platform(),
        gpu=None if gpu is None else gpu.name,
        compute_capabilities=targets if flavour.name == "rtx" or gpu is None else (gpu.capability,),
        cuda=_cuda_version(flavour),
        driver=driver,
        onnx_sha256=sha256(source),
        options=options,
        kernels="plugins" if refusal is None else f"inlined: {refusal}",
        inputs=inputs,
        outputs=outputs,
        layers=network.num_layers,
        precisions=layer_types(report) if types else _network_precisions(network),
        precisions_of="engine" if types else "network",
        sha256=hashlib.sha256(engine).hexdigest(),
        bytes=engine.nbytes,
        build_seconds=round(seconds, 3),
    )
    folder = bundle / record.folder
    shutil.rmtree(folder, ignore_errors=True)  # one of the same target
    folder.mkdir(parents=True)
    (folder / ENGINE).write_bytes(engine)
    write_record(folder, record)
    return record


def check_options(flavour: Flavour, options: EngineOptions, gpu: Gpu | None) -> None:
    """Refuse what a flavour cannot build, before the work begins.

    Raises:
        UsageError: an option this flavour does not have.
        BackendUnavailable: something for which it needs a GPU, and there is none; or plugins that it cannot take.
    """
    if options.plugins == "always" and not hasattr(flavour.api, "IPluginV3QuickAOTBuild"):
        raise BackendUnavailable(
            f"{flavour} takes none of our kernels, tensorrt 10.9 or newer does; drop --trt-plugins always"
        )
    if options.version_compatible and (options.refit or options.plugins == "always"):
        raise UsageError(
            "an engine for later versions of TensorRT cannot have changeable weights or our kernels;"
            " drop --trt-refit and --trt-plugins always, or --trt-version-compatible"
        )
    if flavour.name == "rtx":
        if options.compatibility != "none" or options.version_compatible:
            raise UsageError(
                f"{flavour} has no compatibility levels: its engines run on every GPU named by"
                " --trt-compute-capability, and on one version; drop --trt-compatibility and --trt-version-compatible"
            )
        if options.refit and gpu is None:
            raise BackendUnavailable(
                f"{flavour} makes no engine of this network whose weights can be changed without a GPU;"
                " drop --trt-refit, or build where there is a GPU"
            )
        known = _rtx_capabilities(flavour)
        for capability in options.compute_capabilities:
            if capability not in known:
                raise UsageError(f"{flavour} cannot build for compute capability {capability}, only {', '.join(known)}")
    elif options.compute_capabilities:
        raise UsageError(f"{flavour} builds for the GPU it runs on; --trt-compute-capability is for --trt-flavour rtx")
    elif gpu is None:
        raise BackendUnavailable(
            f"{flavour} builds engines only on the GPU they are for, and this machine has none that it can use;"
            " build there, or pass --trt-flavour rtx, which builds without a GPU"
        )


def _rtx_capabilities(flavour: Flavour) -> dict[str, Any]:
    """TensorRT-RTX's enumeration by compute capability: SM86 is 8.6, SM120 is 12.0.

    Without 7.5, for which it compiles no products of float32; the network has some in every precision.
    """
    members = flavour.api.ComputeCapability.__members__
    return {
        f"{name[2:-1]}.{name[-1]}": member
        for name, member in members.items()
        if re.fullmatch(r"SM\d+", name) and name != "SM75"
    }


def _no_plugins(flavour: Flavour, options: EngineOptions, gpu: Gpu | None, driver: str | None) -> str | None:
    """Why our kernels do not go into the engine; None where they can be tried.

    Raises:
        BackendUnavailable: they must, and cannot.
    """
    if options.plugins == "never":
        return "not wanted"
    if options.version_compatible:
        return "later versions of TensorRT run the engine"
    capability = 0 if gpu is None else int(gpu.capability.replace(".", ""))  # without a GPU it is TensorRT-RTX
    try:
        plugin.register(flavour.api, capability, driver)
    except BackendUnavailable as error:
        if options.plugins == "always":
            raise BackendUnavailable(f"our kernels cannot go into the engine: {error}") from error
        return str(error)
    return None


class _Builder:
    """TensorRT's builder, with what differs between its flavours and versions."""

    def __init__(self, flavour: Flavour, options: EngineOptions) -> None:
        self._flavour, self._options = flavour, options
        self._api: Any = flavour.api
        self._log = message_log(flavour)
        self._builder = start(flavour, "Builder", self._log)

    def parse(self, model: onnx.ModelProto, name: str) -> Any:
        """A strongly typed network; TensorRT 11 knows no other and ignores the flag."""
        flags = 1 << int(self._api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._builder.create_network(flags)
        parser = self._api.OnnxParser(network, self._log)
        if not parser.parse(model.SerializeToString()):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            reason = "; ".join(f"{error.node_name() or error.node_operator()}: {error.desc()}" for error in errors)
            raise DeployError(f"{self._flavour} cannot parse {name}: {one_line(reason) or self._log.reason()}")
        return network

    def configure(self, network: Any, precision: Precision, gpu: Gpu | None) -> Any:
        """Profile, limits and compatibility."""
        api, options = self._api, self._options
        config = self._builder.create_builder_config()
        config.profiling_verbosity = api.ProfilingVerbosity.DETAILED  # else the types cannot be read back
        if options.workspace_mb is not None:
            config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mb * MIB)
        # On by default: float32 products with the 11 significant bits of a half.
        if precision == "fp32":
            config.clear_flag(api.BuilderFlag.TF32)
        if options.refit:
            config.set_flag(api.BuilderFlag.REFIT)
        profile = self._builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            profile.set_shape(tensor.name, *((batch, *tuple(tensor.shape)[1:]) for batch in options.batch))
        config.add_optimization_profile(profile)
        if self._flavour.name == "rtx":
            self._target_rtx(config)
        else:
            self._target_full(config, gpu)
        return config

    def _target_rtx(self, config: Any) -> None:
        capabilities = _rtx_capabilities(self._flavour)
        wanted = [capabilities[each] for each in self._options.compute_capabilities]
        if wanted:
            config.num_compute_capabilities = len(wanted)
            for index, capability in enumerate(wanted):
                config.set_compute_capability(capability, index)

    def _target_full(self, config: Any, gpu: Gpu | None) -> None:
        api = self._api
        levels = api.HardwareCompatibilityLevel
        if self._options.compatibility == "ampere-plus":
            config.hardware_compatibility_level = levels.AMPERE_PLUS
        elif self._options.compatibility == "same-compute-capability":
            if not hasattr(levels, "SAME_COMPUTE_CAPABILITY"):
                raise BackendUnavailable(
                    f"{self._flavour} has no --trt-compatibility same-compute-capability; 10.9 has"
                )
            config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY
        if self._options.version_compatible:
            config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
        assert gpu is not None  # check_options saw to it
        self._timing_cache = _timing_cache_path(self._flavour, gpu)
        cache = config.create_timing_cache(_known_timings(self._timing_cache))
        # What another version or device timed is refused, not ignored: then start anew.
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def build(self, network: Any, config: Any, name: str, progress: Progress) -> memoryview:
        """The serialized engine."""
        with _monitored(self._api, config, progress) as interrupted:
            engine = self._builder.build_serialized_network(network, config)
        if interrupted.is_set():
            raise KeyboardInterrupt
        if engine is None:
            raise DeployError(f"{self._flavour} cannot build an engine of {name}: {self._log.reason()}")
        if self._flavour.name == "tensorrt":
            _keep_timing_cache(self._timing_cache, config)
        return memoryview(engine)


def _timing_cache_path(flavour: Flavour, gpu: Gpu) -> Path | None:
    """Where timings are kept; None where this user has no home."""
    device = re.sub(r"\W+", "-", gpu.name).lower()
    cache = user_cache()
    return None if cache is None else cache / "timing" / f"{flavour.name}-{flavour.version}-{device}.cache"


def _known_timings(path: Path | None) -> bytes:
    """What was timed before; nothing where that cannot be read."""
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _keep_timing_cache(path: Path | None, config: Any) -> None:
    """Save what was timed, for the next build; it is a convenience, so no build fails for want of it."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(config.get_timing_cache().serialize())
    except OSError:
        return


@contextmanager
def _monitored(api: Any, config: Any, progress: Progress) -> Iterator[threading.Event]:
    """Report a build's phases, and let Ctrl-C end it: TensorRT asks after every step whether to go on.

    A KeyboardInterrupt must not rise inside TensorRT, whose threads call back. So while it builds the signal is only
    noted, and passed on afterwards.
    """
    interrupted = threading.Event()

    class Monitor(api.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self._steps[phase_name])
            return not interrupted.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    monitor = Monitor()  # the configuration does not keep it alive
    config.progress_monitor = monitor
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {each: signal.signal(each, lambda *_: interrupted.set()) for each in signals}
    try:
        yield interrupted
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        config.progress_monitor = None


def _tensors(get: Callable[[int], Any], count: int) -> list[TensorInfo]:
    tensors = [get(index) for index in range(count)]
    return [TensorInfo(name=each.name, dtype=_type(each.dtype), shape=list(each.shape)) for each in tensors]


def _type(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


def _check_signature(network: Any, model: onnx.ModelProto, flavour: Flavour) -> None:
    """The network's inputs and outputs are the graph's: names, order, types and fixed sizes."""
    pairs = (
        ("input", _tensors(network.get_input, network.num_inputs), model.graph.input),
        ("output", _tensors(network.get_output, network.num_outputs), model.graph.output),
    )
    for kind, got, wanted in pairs:
        expected = [
            {
                "name": value.name,
                "dtype": onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
                "shape": [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim],
            }
            for value in wanted
        ]
        if got != expected:
            raise ValidationMismatch(f"{flavour} made the {kind}s {got} of the graph's {expected}")


def _network_precisions(network: Any) -> dict[str, dict[str, int]]:
    """Layers by class and type of their first output; in a strongly typed network that is what they compute in."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return _tally((_type(layer.type), _type(layer.get_output(0).dtype)) for layer in layers if layer.num_outputs)


def _tally(pairs: Iterator[tuple[str, str]]) -> dict[str, dict[str, int]]:
    classes: dict[str, Counter[str]] = {}
    for layer, dtype in pairs:
        classes.setdefault(layer, Counter())[dtype] += 1
    return {layer: dict(counts.most_common()) for layer, counts in sorted(classes.items())}


def _check_precision(
    precisions: dict[str, dict[str, int]], model: onnx.ModelProto, precision: Precision, name: str
) -> None:
    """The products that the graph types low are typed so in the network, and nothing else is lower than float32."""
    wanted = PRODUCT_TYPES[precision]
    if precision == "int8":
        quantised = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
        found = precisions.get("QUANTIZE", {}).get(wanted, 0)
        if found < max(quantised, 1):
            raise ValidationMismatch(f"{name}: {quantised} tensors are quantised in the graph, {found} in the network")
        return
    low = [node for node in model.graph.node if precision == "fp32" or not node.name.startswith(FIGURE)]
    for op, layer in PRODUCTS.items():
        products = sum(node.op_type == op for node in low)
        found = precisions.get(layer, {}).get(wanted, 0)
        if found < products:
            raise ValidationMismatch(f"{name}: {products} {op} are {precision} in the graph, {found} in the network")
    found_types = {dtype for counts in precisions.values() for dtype in counts}
    for other in found_types & LOW_TYPES - {wanted}:
        raise ValidationMismatch(f"{name}: the network has {other} layers, the graph has none")


# What engines call the types: "Row major linear FP32" up to TensorRT 10, "Half" from 11 on.
_ENGINE_TYPES = (
    ("BF16", r"BF16|BFLOAT16"),
    ("HALF", r"FP16|HALF"),
    ("FLOAT", r"FP32|FLOAT"),
    ("INT8", r"\bINT8"),
    ("UINT8", r"UINT8"),
    ("FP8", r"FP8"),
    ("INT32", r"INT32"),
    ("INT64", r"INT64"),
    ("BOOL", r"BOOL"),
)


def _inspect(flavour: Flavour, engine: memoryview, options: EngineOptions, gpu: Gpu) -> dict[str, Any]:
    """The inspector's report of the finished engine; empty where it cannot be opened here."""
    api: Any = flavour.api
    if flavour.name == "rtx" and not rtx_supports(gpu):
        return {}
    opened = deserialize(flavour, engine, message_log(flavour), host_code=options.version_compatible)
    if opened is None:
        return {}
    inspector = opened.create_engine_inspector()
    # Without the shapes of a run, the inspector says of an engine with a dynamic batch: "N/A due to dynamic shapes".
    context = opened.create_execution_context(api.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is not None:
        names = [opened.get_tensor_name(index) for index in range(opened.num_io_tensors)]
        for name in names:
            if opened.get_tensor_mode(name) == api.TensorIOMode.INPUT:
                context.set_input_shape(name, tuple(opened.get_tensor_profile_shape(name, 0)[1]))
        inspector.execution_context = context
    report: dict[str, Any] = json.loads(inspector.get_engine_information(api.LayerInformationFormat.JSON))
    return report


def layer_types(report: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Layers by class and type of their first output, from an engine inspector's report.

    Args:
        report: as JSON of detailed verbosity gives it. TensorRT 10 writes a tensor's type into ``Format/Datatype``,
            TensorRT 11 into ``DataType``.
    """
    return _tally(
        (layer.get("LayerType", "unknown"), _engine_type(layer["Outputs"][0]))
        for layer in _layers(report)
        if layer.get("Outputs")
    )


def inner_types(report: dict[str, Any], outer: set[str]) -> set[str]:
    """Types of all tensors that layers read or write, from an engine inspector's report.

    Args:
        report: as for :func:`layer_types`.
        outer: names of the engine's own inputs and outputs, which have the same types in every precision.

    Returns:
        none where the report tells no types, or all layers were fused into one.
    """
    tensors = (each for layer in _layers(report) for kind in ("Inputs", "Outputs") for each in layer.get(kind, []))
    return {_engine_type(each) for each in tensors if each.get("Name") not in outer} - {"unknown"}


def _layers(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that are more than a name."""
    return [layer for layer in report.get("Layers", []) if isinstance(layer, dict)]


def _check_engine(types: set[str], precision: Precision, what: str) -> None:
    """By the types inside an engine; where they cannot be told, those of its network were checked."""
    if not types:
        return
    if precision == "fp32":
        if low := types & LOW_TYPES:
            raise ValidationMismatch(f"{what} with {', '.join(sorted(low))} tensors in it")
    elif PRODUCT_TYPES[precision] not in types:
        raise ValidationMismatch(f"{what} without a single {precision} tensor in it")


def _engine_type(tensor: dict[str, Any]) -> str:
    text = str(tensor.get("DataType") or tensor.get("Format/Datatype", "")).upper()
    return next((name for name, pattern in _ENGINE_TYPES if re.search(pattern, text)), "unknown")


def _cuda_version(flavour: Flavour) -> str | None:
    """CUDA's major version, from the name of the wheel that brought the libraries; packages of a system do not say."""
    for major in ("13", "12"):
        try:
            version(f"{MODULES[flavour.name].replace('_', '-')}-cu{major}")
        except PackageNotFoundError:
            continue
        return major
    return None
