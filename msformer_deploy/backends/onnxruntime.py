"""ONNX Runtime. The provider is requested by name, never left to a default, and read back from the session."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import BackendUnavailable
from ..machine.cores import threads_for_runtime
from ..machine.driver import find_driver
from ..machine.homes import user_cache
from ..machine.memory import require_memory
from ..machine.versions import overwrite_each_other
from ..registry import Precision, find_system
from .base import Backend, Device, Encoded, Part, Prompted, Segmented, VolumeFeatures, image_by_image
from .compiled import Kept
from .graph_content import PROMPTS, GraphContent, graph_content, rewriting, strips_pay
from .onnxruntime_failures import BOTH_WHEELS, WHEELS, Failure, explain
from .saturation import refuse_saturation

if TYPE_CHECKING:
    import numpy as np

    from ..bundle.folder import Bundle

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# On CPU, ONNX Runtime's fused Add + LayerNormalization is several times slower here than the two apart.
DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]

# On a GPU, ONNX Runtime puts these on the CPU where they compute shapes, because the CPU needs their results. For
# tensors of images it has kernels of all of them.
ON_SHAPES = {
    *("Shape", "Size", "Constant", "ConstantOfShape", "Identity", "Range", "Cast", "Reshape", "Squeeze", "Unsqueeze"),
    *("Concat", "Split", "Slice", "Gather", "Expand", "Where", "Equal", "Greater", "Less", "Not", "And", "Or"),
    *("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Floor", "Ceil", "ReduceProd"),
}

_FATAL, _WARNING = 4, 2  # of its log severities


def open_session(
    model: Path | bytes | GraphContent,
    device: Device,
    threads: int | None = None,
    *,
    tensorrt: bool = False,
    nodes_on_cpu: bool = False,
    tf32: bool = False,
    strips: bool = False,
    one_image: bool = False,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on the device asked for, and on no other; ``auto`` takes a GPU that works.

    Args:
        model: an ONNX file, or its bytes, or a graph of a bundle. What the CPU's optimiser makes of the latter is kept,
            see :mod:`.compiled`.
        device: where to run.
        threads: threads for one operator; None leaves it to the runtime.
        tensorrt: on a GPU, give TensorRT what it takes, and CUDA the rest.
        nodes_on_cpu: on a GPU, leave nodes that it has no kernel for to the CPU, which :func:`placement` then tells;
            otherwise such a graph is refused, unless those nodes are arithmetic on shapes alone.
        tf32: on a GPU, let CUDA round the factors of float32 products to 11 significant bits. TensorRT has no such
            option here and may always do it.
        strips: on the CPU, work on strips of one image at a time, see :mod:`.strips`; outputs have their channels last.
        one_image: on the CPU, plan for one image at a time.

    Raises:
        BackendUnavailable: ONNX Runtime is missing, or the device's provider is not there or did not take the session.
    """
    onnxruntime = _import()
    if device.kind == "auto":
        try:
            return open_session(model, Device("cuda"), threads, tensorrt=tensorrt, nodes_on_cpu=nodes_on_cpu, tf32=tf32)
        except BackendUnavailable:
            device = Device("cpu")
    if device.kind == "cpu":
        return _open_on_cpu(onnxruntime, model, threads, strips=strips, one_image=one_image)
    options = _options(onnxruntime, threads)
    provider = TENSORRT if tensorrt else CUDA
    require_gpu(device, provider)
    shows_nodes = hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
    if not nodes_on_cpu and not shows_nodes:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    _load_libraries(onnxruntime, tensorrt)
    providers: list[Any] = [(CUDA, {"device_id": str(device.ordinal), "use_tf32": str(int(tf32))})]
    if tensorrt:
        providers.insert(0, (TENSORRT, _tensorrt_options(device)))
    source = model.read() if isinstance(model, GraphContent) else model
    session = _create(onnxruntime, source, options, providers, str(device))
    if session.get_providers()[0] != provider:
        why = _loader_failure(onnxruntime, provider) or Failure(
            f"onnxruntime opened {session.get_providers()[0]} in place of {provider}", "run 'msformer-deploy doctor'"
        )
        raise BackendUnavailable(f"device {device} was asked for, but {why}")
    if not nodes_on_cpu and shows_nodes:
        _refuse_work_on_cpu(session, device)
    if tensorrt and (nodes := _nodes(session)) and not nodes[TENSORRT]:
        raise BackendUnavailable(
            f"device {device} was asked for, but TensorRT took none of the graph's {nodes.total()} nodes;"
            " use --backend onnxruntime"
        )
    return session


def _open_on_cpu(
    onnxruntime: ModuleType, model: Path | bytes | GraphContent, threads: int | None, *, strips: bool, one_image: bool
) -> Any:
    """A session on the CPU; a bundle's graph as an earlier process optimised it, where that is kept."""
    kept = None
    if isinstance(model, GraphContent):
        settings = f"without {DISABLED_OPTIMIZERS}, one image {one_image}, strips {strips}, {rewriting()}"
        kept = Kept(f"onnxruntime {onnxruntime.__version__}", settings, model)

        def open_kept(optimised: bytes) -> Any:
            options = _options(onnxruntime, threads)
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            return _create(onnxruntime, optimised, options, [CPU], "cpu")

        session = kept.open(open_kept)
        if session is not None:
            return session
    source = model.read() if isinstance(model, GraphContent) else model
    if strips:
        from .rewrites.strips import in_strips

        source = in_strips(source, channels_last=True)
    if not _has_deform_conv(onnxruntime):
        source = _without_deform_conv(source)

    def open_source(optimised: Path | None) -> Any:
        options = _options(onnxruntime, threads)
        if one_image:
            options.add_free_dimension_override_by_name("batch", 1)
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        return _create(onnxruntime, source, options, [CPU], "cpu")

    if kept is None:
        return open_source(None)
    with kept.writing(source if isinstance(source, bytes) else source.read_bytes()) as optimised:
        if optimised is not None:
            with contextlib.suppress(BackendUnavailable):  # perhaps because the disk is full
                return open_source(optimised)
            optimised.unlink(missing_ok=True)
        return open_source(None)


def _options(onnxruntime: ModuleType, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    # A planned memory pattern holds 1.6 GB for one image where allocating as needed peaks at 0.9 GB, at equal speed.
    options.enable_mem_pattern = False
    # Threads that spin between calls take the cores from torch's refinement.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _FATAL  # errors are raised as well, and are told once
    threads = threads_for_runtime(threads)
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def require_gpu(device: Device, provider: str) -> None:
    """See that a session with the provider can be tried on a CUDA device.

    Raises:
        BackendUnavailable: both wheels are installed, the one that is has no such provider, there is no driver, it is
            too old for the wheel, or it has no such device.
    """
    onnxruntime = _import()
    asked = f"device {device} was asked for, but"
    if overwrite_each_other(WHEELS):
        raise BackendUnavailable(f"{asked} {BOTH_WHEELS}")
    available = onnxruntime.get_available_providers()
    if provider not in available:
        remedy = "an onnxruntime-gpu with it" if CUDA in available else "msformer-deploy[gpu] in place of [cpu]"
        raise BackendUnavailable(
            f"{asked} onnxruntime {onnxruntime.__version__} has no {provider}, only {', '.join(available)};"
            f" install {remedy}"
        )
    try:
        driver = find_driver()
    except BackendUnavailable as error:
        raise BackendUnavailable(
            f"{asked} there is {error}" if str(error).startswith("no ") else f"{asked} {error}"
        ) from None
    if device.ordinal >= len(driver.devices):
        raise BackendUnavailable(f"{asked} the NVIDIA driver shows {len(driver.devices)}: {driver.names}")
    if (built := cuda_of(onnxruntime)) and not driver.serves(built):
        raise BackendUnavailable(
            f"{asked} onnxruntime {onnxruntime.__version__} is built for CUDA {built} and the driver serves"
            f" {driver.cuda[0]}.{driver.cuda[1]} at most; update the driver, or install an onnxruntime-gpu for its CUDA"
        )


def placement(session: Any) -> str:
    """The session's provider, read back, and how many nodes are elsewhere."""
    provider = session.get_providers()[0]
    if provider == CPU:
        return CPU
    nodes = _nodes(session)
    elsewhere = [f"{count} on {name}" for name, count in sorted(nodes.items()) if name != provider]
    return f"{provider} ({', '.join(elsewhere)} of {nodes.total()} nodes)" if elsewhere else provider


def cuda_of(onnxruntime: ModuleType) -> str:
    """CUDA version that this ONNX Runtime is built for, such as ``13.0``; empty for a CPU build."""
    return str(getattr(onnxruntime, "cuda_version", "") or "")


def refuse_saturation_on_cpu(model: Path, threads: int | None = None) -> None:
    """:func:`.saturation.refuse_saturation` of an int8 graph in a bundle.

    Its session option ``session.x64quantprecision``, which makes such weights unsigned where the CPU would saturate, is
    no way out: ONNX Runtime 1.31.1 opens no graph in strips with it, whose strips share their weights.
    """

    def run(trial: bytes, x: np.ndarray) -> np.ndarray:
        (y,) = open_session(trial, Device("cpu"), threads).run(None, {"x": x})
        return y

    refuse_saturation("onnxruntime", model, run)


class OnnxRuntimeBackend(Backend):
    """Runs the bundle's graphs. The features stay where they were computed."""

    name = "onnxruntime"
    tensorrt: ClassVar[bool] = False

    def __init__(self, bundle: Bundle, device: Device, threads: int | None, graph: Part, precision: Precision) -> None:
        self.graph, self.precision = graph, precision
        self._encoded = find_system(bundle.system).encoder_outputs
        model = graph_content(bundle, graph, precision, channels_last=True)
        if graph == "encoder":
            device = self._where_torch_can_follow(device)
        # Half types are cast around each operator on a CPU, and gain nothing from strips.
        strips = precision in ("fp32", "int8") and strips_pay(bundle, graph)
        self._session = open_session(
            # What is left to the CPU in the whole method is arithmetic on shapes, which ONNX Runtime always puts there.
            model,
            device,
            threads,
            tensorrt=self.tensorrt,
            nodes_on_cpu=graph != "encoder",
            tf32=precision != "fp32",
            strips=strips,
            one_image=True,
        )
        self.provider = placement(self._session)
        on_gpu = self._session.get_providers()[0] != CPU
        if not on_gpu and overwrite_each_other(WHEELS):
            warnings.warn(str(BOTH_WHEELS), stacklevel=2)
        self._strips = strips and not on_gpu
        self._place = ("cuda", device.ordinal) if on_gpu else ("cpu", 0)
        self.device = f"cuda:{device.ordinal}" if on_gpu else "cpu"
        if precision == "int8" and not on_gpu:
            refuse_saturation_on_cpu(model.path, threads)

    def _where_torch_can_follow(self, device: Device) -> Device:
        """The device, if torch can take features from it; for ``auto`` the CPU otherwise."""
        if device.kind == "cpu" or (device.kind == "auto" and CUDA not in _import().get_available_providers()):
            return device
        if device.kind == "cuda":
            require_gpu(device, TENSORRT if self.tensorrt else CUDA)
        import torch

        onnxruntime = _import()
        if device.ordinal >= torch.cuda.device_count():
            why = f"torch {torch.__version__} " + (
                "does not find it" if torch.backends.cuda.is_built() else "is a CPU build"
            )
            remedy = "install torch for CUDA"
        elif not hasattr(onnxruntime.OrtValue, "__dlpack__"):  # new in 1.26
            why = f"onnxruntime {onnxruntime.__version__} cannot hand its GPU memory to torch"
            remedy = "install onnxruntime-gpu 1.26 or newer"
        else:
            return device
        if device.kind == "auto":
            return Device("cpu")
        raise BackendUnavailable(
            f"device {device} was asked for, but {why}, and torch learns on the encoder's features;"
            f" {remedy}, or pass --whole-graph, which needs no torch"
        )

    def encode(self, images: np.ndarray) -> Encoded:
        if self.device == "cpu":
            return Encoded(*self._on_cpu(images, self._encoded))
        import torch
        from torch.utils.dlpack import from_dlpack

        # Memory of features that were dropped is used again, and torch may still have work queued that reads them.
        torch.cuda.synchronize(self.device)
        outputs = self._run({"image": images}, self._encoded, self._place)
        return Encoded(*(from_dlpack(value) for value in outputs))

    def volume_features(self, images: np.ndarray) -> VolumeFeatures:
        return VolumeFeatures(*self._on_host(images, VolumeFeatures._fields))

    def segment(self, images: np.ndarray) -> Segmented:
        return Segmented(*self._on_host(images, Segmented._fields))

    def prompted(self, images: np.ndarray) -> Prompted:
        return Prompted(*self._on_host(images, Prompted._fields))

    def figure(self, image: np.ndarray, features: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        inputs = {"image": image, "features": features.transpose(0, 2, 3, 1), PROMPTS: prompts}
        (probability,) = self._run(inputs, ["probability"], ("cpu", 0))
        return probability.numpy()[0]

    def _on_host(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        if self.device == "cpu":
            return self._on_cpu(images, outputs)
        return [value.numpy() for value in self._run({"image": images}, outputs, ("cpu", 0))]

    def _on_cpu(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        def run(image: np.ndarray) -> list[np.ndarray]:
            return [value.numpy() for value in self._run({"image": image}, outputs, self._place)]

        return image_by_image(run, images, channels_last=self._strips)

    def _run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], place: tuple[str, int]) -> list[Any]:
        """Run the graph once; the outputs, as ``OrtValue``, are newly allocated at ``place`` and share no memory."""
        import numpy as np

        self.require_origin()
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in outputs:
            binding.bind_output(name, *place)
        try:
            self._session.run_with_iobinding(binding)
            # ONNX Runtime computes on a stream of its own, which torch does not wait for.
            binding.synchronize_outputs()
        except Exception as error:  # the binding raises many classes, none of them public
            require_memory(error, f"onnxruntime fails on {self.provider}")
            why = explain(str(error), cuda_of(_import()))
            raise BackendUnavailable(f"onnxruntime fails on {self.provider}: {why}") from error
        return list(binding.get_outputs())

    def close(self) -> None:
        self._session = None


class OnnxRuntimeTensorRTBackend(OnnxRuntimeBackend):
    """The same graphs through ONNX Runtime's TensorRT provider, on a GPU only.

    The engine is built in memory at the first call for each new shape, which can take minutes.
    """

    name = "onnxruntime-tensorrt"
    tensorrt = True

    @property
    def arithmetic(self) -> Precision:
        # fp32 may be TF32 here, whose products have the 11 significant bits of a half.
        return "fp16" if self.precision == "fp32" else self.precision

    def __init__(self, bundle: Bundle, device: Device, threads: int | None, graph: Part, precision: Precision) -> None:
        if device.kind == "cpu":
            raise BackendUnavailable("backend onnxruntime-tensorrt runs on a GPU only; pass --device cuda")
        super().__init__(bundle, Device("cuda", device.ordinal), threads, graph, precision)


def _import() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        require_memory(error, "onnxruntime cannot be imported")
        raise BackendUnavailable(
            f"onnxruntime cannot be imported ({error}); install msformer-deploy[cpu] or msformer-deploy[gpu]"
        ) from error
    return onnxruntime


def _has_deform_conv(onnxruntime: ModuleType) -> bool:
    """Whether this ONNX Runtime has DeformConv on the CPU, which is new in 1.25."""
    major, minor = onnxruntime.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (1, 25)


def _without_deform_conv(model: Path | bytes) -> Path | bytes:
    """The graph with GridSample in place of DeformConv; a graph without that as it is."""
    content = model if isinstance(model, bytes) else model.read_bytes()
    if b"DeformConv" not in content:
        return model
    import onnx

    from .rewrites.grid_samples import without_deform_conv

    changed = onnx.load_from_string(content)
    without_deform_conv(changed.graph)
    return bytes(changed.SerializeToString())


def _create(onnxruntime: ModuleType, model: Path | bytes, options: Any, providers: list[Any], device: str) -> Any:
    source = model if isinstance(model, bytes) else str(model)
    try:
        with _silent(onnxruntime):
            # Its own fallback prints to stdout and then takes another provider.
            return onnxruntime.InferenceSession(
                source, options, providers=providers, disabled_optimizers=DISABLED_OPTIMIZERS, enable_fallback=0
            )
    except Exception as error:  # the binding raises many classes, none of them public
        provider = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if device == "cpu":
            require_memory(error, "onnxruntime cannot open a session")
        # What the loader did not find is only logged; the exception is about its consequences.
        why = _loader_failure(onnxruntime, provider) or explain(str(error), cuda_of(onnxruntime))
        raise BackendUnavailable(f"onnxruntime cannot open a session on {device}: {why}") from error


@contextlib.contextmanager
def _silent(onnxruntime: ModuleType) -> Iterator[None]:
    """Keep providers that do not load from writing to stderr; what they would say is raised as an error instead."""
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)


def _load_libraries(onnxruntime: ModuleType, tensorrt: bool) -> None:
    """Load CUDA, cuDNN and TensorRT from their wheels, whose folders the dynamic loader does not search."""
    with contextlib.redirect_stdout(io.StringIO()):  # what it does not find is found missing, and told, later
        onnxruntime.preload_dlls()
    if tensorrt and importlib.util.find_spec("tensorrt") is not None:
        with contextlib.suppress(Exception):  # likewise
            importlib.import_module("tensorrt")


def _loader_failure(onnxruntime: ModuleType, provider: str) -> Failure | None:
    """Why the dynamic loader does not load a provider's library; None if it does, or the provider has none.

    Only for a provider that ONNX Runtime has tried to load: loaded here first, it would miss its connection to it.
    """
    name = provider.removesuffix("ExecutionProvider").lower()
    pattern = f"onnxruntime_providers_{name}.dll" if sys.platform == "win32" else f"libonnxruntime_providers_{name}.so"
    library = Path(onnxruntime.__file__ or "").parent / "capi" / pattern
    if not library.is_file():
        return None
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return explain(str(error), cuda_of(onnxruntime))
    return None


def _tensorrt_options(device: Device) -> dict[str, str]:
    options = {
        "device_id": str(device.ordinal),
        # Engines are code, so they are not cached but only ever loaded from a bundle.
        "trt_engine_cache_enable": "0",
        # The graph's own types decide.
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
    }
    cache = user_cache()
    if cache is None:
        warnings.warn("this user has no home to keep TensorRT's timings in; builds stay slow", stacklevel=2)
        return options
    timings = cache / "timing"
    try:
        timings.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warnings.warn(f"cannot keep TensorRT's timings in {timings}: {error.strerror}; builds stay slow", stacklevel=2)
        return options
    # Measured times of kernels are data.
    return {**options, "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(timings)}


def _refuse_work_on_cpu(session: Any, device: Device) -> None:
    """See that a session on a GPU leaves nothing but arithmetic on shapes to the CPU.

    Raises:
        BackendUnavailable: it leaves more.
    """
    types = [node.op_type for part in _parts(session) if part.ep_name == CPU for node in part.get_nodes()]
    work = sorted(set(types) - ON_SHAPES)
    if work:
        raise BackendUnavailable(
            f"device {device} was asked for, but onnxruntime leaves operators of this graph to the CPU"
            f" ({', '.join(work)}); choose another --backend, or --device cpu"
        )


def _parts(session: Any) -> Sequence[Any]:
    return session.get_provider_graph_assignment_info()


def _nodes(session: Any) -> Counter[str]:
    """Nodes per provider; none where this ONNX Runtime does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return Counter()
    count: Counter[str] = Counter()
    for part in _parts(session):
        count[part.ep_name] += len(part.get_nodes())
    return count
