"""OpenVINO, on the CPU. Every setting that can change numbers is asked for by name and read back."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import BackendUnavailable
from ..machine.cores import threads_for_runtime
from ..machine.forks import Origin, lock_across_forks
from ..machine.memory import require_memory
from ..registry import Precision, find_system
from .base import Backend, Device, Encoded, Part, Prompted, Segmented, VolumeFeatures, image_by_image
from .compiled import Kept
from .graph_content import PROMPTS, GraphContent, graph_content, rewriting, strips_pay
from .saturation import refuse_saturation

if TYPE_CHECKING:
    import numpy as np

    from ..bundle.folder import Bundle

CPU = "CPU"
HINT = "INFERENCE_PRECISION_HINT"
# What runs in strips. OpenVINO 2026.4 crashes on the products of int8 in them.
IN_STRIPS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
PIXELS = 6144  # of a strip, about: with 4,096 an image takes 2 % less time and compiling half as long again

_STARTING = lock_across_forks()


def import_openvino() -> ModuleType:
    """The package ``openvino``. It reports nothing to its maker: see :mod:`..silence`.

    Raises:
        BackendUnavailable: it is missing or broken.
    """
    try:
        return importlib.import_module("openvino")
    except (ImportError, MemoryError, OSError) as error:
        require_memory(error, "openvino cannot be imported")
        raise BackendUnavailable(f"openvino cannot be imported ({error}); install msformer-deploy[openvino]") from error


def open_core() -> Any:
    """The ``openvino.Core`` of this process.

    There is one, and it is never freed: its CPU plugin gives the thread that loads it another stack for signals, and
    unmaps that wherever it is freed (seen in 2026.4.1). Freed in another thread, it would leave the first one without,
    and the next Ctrl-C would be a segmentation fault.

    Raises:
        BackendUnavailable: OpenVINO is missing or does not start, or this process was forked from one that uses it,
            whose threads it would wait for.
    """
    import_openvino()
    try:
        with _STARTING:
            core, origin = _core()
    except Exception as error:  # its C++ raises RuntimeError for nearly everything
        require_memory(error, "openvino does not start")
        raise BackendUnavailable(f"openvino does not start: {reason(error)}; install it again") from error
    if not origin.is_here():
        raise BackendUnavailable(
            "openvino does not run in a process that was forked from one that uses it; use --backend onnxruntime, or"
            " start processes with multiprocessing's method 'spawn'"
        )
    return core


@cache
def _core() -> tuple[Any, Origin]:
    return import_openvino().Core(), Origin()


def compile_on_cpu(core: Any, model: Any, threads: int | None, precision: Precision = "fp32") -> Any:
    """An ``openvino.CompiledModel`` that computes in bfloat16 if that is the precision, and else in float32.

    Graphs of fp16 and int8 keep their rounded weights and quantised products; all else in them is computed in float32.
    In bfloat16 OpenVINO itself chooses which operations are left in float32, whatever the graph's types say.

    Args:
        core: of :func:`open_core`.
        model: an ``openvino.Model``.
        threads: for one operator; None leaves it to OpenVINO, which counts the physical cores this process may use.
        precision: of the graph.

    Raises:
        BackendUnavailable: this CPU has no bfloat16 arithmetic, or OpenVINO cannot compile the graph.
    """
    settings = _settings(core, threads, precision)
    return _checked(lambda: core.compile_model(model, CPU, settings), settings)


def _open_on_cpu(
    core: Any, graph: GraphContent, side: int, threads: int | None, precision: Precision, *, strips: bool
) -> Any:
    """The compiled graph of a bundle, for one image; what an earlier process compiled is opened where that is kept."""
    settings = _settings(core, threads, precision)
    decisive = f"{_settings(core, 1, precision)}, side {side}, {rewriting()}, strips {strips}"
    kept = Kept(f"openvino {import_openvino().get_version()}", decisive, graph)
    found = kept.open(lambda data: core.import_model(data, CPU, settings))
    if found is not None:
        return _checked(lambda: found, settings)
    content = graph.read()
    try:
        # A graph of standard operators that runs whole needs no change, and so no package onnx.
        if isinstance(content, Path) or strips or graph.outputs:
            content = prepared(content, strips=strips)
        model = core.read_model(content)
        for value in model.inputs:  # only the batch is open
            shape = value.get_partial_shape()
            shape[0] = 1
            model.reshape({value.get_any_name(): shape})
    except Exception as error:
        require_memory(error, f"openvino cannot read {graph.path}")
        raise BackendUnavailable(f"openvino cannot read {graph.path}: {reason(error)}") from error
    compiled = _checked(lambda: core.compile_model(model, CPU, settings), settings)
    # Whatever OpenVINO raises here (RuntimeError, mostly): the graph is compiled, and only is not kept.
    with suppress(Exception), kept.writing(content) as place:
        if place is not None:
            exported = io.BytesIO()
            compiled.export_model(exported)
            place.write_bytes(exported.getvalue())
    return compiled


def _settings(core: Any, threads: int | None, precision: Precision) -> dict[str, Any]:
    # Without the hint OpenVINO computes float32 graphs in bfloat16 wherever the CPU can.
    hint = "bf16" if precision == "bf16" else "f32"
    if hint == "bf16" and "BF16" not in core.get_property(CPU, "OPTIMIZATION_CAPABILITIES"):
        raise BackendUnavailable(
            "backend openvino computes in bf16 only on a CPU with bf16 instructions, and this CPU has none;"
            " pass --precision fp32"
        )
    settings: dict[str, Any] = {
        HINT: hint,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # activations are quantised where the graph says so and nowhere else
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned, the threads of two processes take turns on the same core while another one idles.
        "ENABLE_CPU_PINNING": False,
    }
    threads = threads_for_runtime(threads)
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def _checked(compile_: Callable[[], Any], settings: dict[str, Any]) -> Any:
    """What is compiled, if it computes in the precision that was asked for."""
    try:
        compiled = compile_()
        computes = compiled.get_property(HINT).to_string()
    except Exception as error:
        require_memory(error, "openvino cannot compile the graph")
        raise BackendUnavailable(f"openvino cannot compile the graph: {reason(error)}") from error
    if computes != settings[HINT]:
        raise BackendUnavailable(
            f"openvino was asked for {settings[HINT]} and computes in {computes}; use another --backend"
        )
    return compiled


class OpenVinoBackend(Backend):
    """Runs the bundle's graphs on the CPU. Calls from several threads take turns, each with all of its threads.

    Intel's GPUs and NPUs, which OpenVINO serves as well, are not offered: nothing here was tried on one.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, device: Device, threads: int | None, graph: Part, precision: Precision) -> None:
        if device.kind == "cuda":
            raise BackendUnavailable(
                f"device {device} was asked for, but backend openvino runs on the CPU only; choose another --backend"
            )
        self.graph, self.precision = graph, precision
        self._encoded = find_system(bundle.system).encoder_outputs
        content = graph_content(bundle, graph, precision, channels_last=True)
        core = open_core()
        strips = precision in IN_STRIPS and strips_pay(bundle, graph)
        self._compiled = _open_on_cpu(core, content, bundle.sizes.side, threads, precision, strips=strips)
        self.provider = ", ".join(self._compiled.get_property("EXECUTION_DEVICES"))
        self.device = "cpu"
        if precision == "int8":

            def run(trial: bytes, x: np.ndarray) -> np.ndarray:
                compiled = compile_on_cpu(core, core.read_model(trial), threads, precision)
                return compiled([x])["y"]

            refuse_saturation(self.name, content.path, run)

    def encode(self, images: np.ndarray) -> Encoded:
        return Encoded(*self._run(images, self._encoded))

    def volume_features(self, images: np.ndarray) -> VolumeFeatures:
        return VolumeFeatures(*self._run(images, VolumeFeatures._fields))

    def segment(self, images: np.ndarray) -> Segmented:
        return Segmented(*self._run(images, Segmented._fields))

    def prompted(self, images: np.ndarray) -> Prompted:
        return Prompted(*self._run(images, Prompted._fields))

    def figure(self, image: np.ndarray, features: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        self.require_origin()
        found = self._infer(
            {"image": image, "features": features.transpose(0, 2, 3, 1), PROMPTS: prompts}, ("probability",)
        )
        return found[0][0]

    def close(self) -> None:
        del self._compiled

    def _run(self, images: np.ndarray, outputs: tuple[str, ...]) -> list[np.ndarray]:
        """Run the graph, in requests of their own: outputs are new memory that no other call writes to."""
        self.require_origin()

        return image_by_image(lambda image: self._infer({"image": image}, outputs), images, channels_last=True)

    def _infer(self, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]) -> list[np.ndarray]:
        import numpy as np

        try:
            given = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
            # Inputs are read where they are: nothing writes to them before the call ends.
            results = self._compiled.create_infer_request().infer(given, share_inputs=True, share_outputs=True)
        except Exception as error:
            require_memory(error, f"openvino fails on {self.provider}")
            raise BackendUnavailable(f"openvino fails on {self.provider}: {reason(error)}") from error
        return [results[name] for name in outputs]


def prepared(source: Path | bytes, *, strips: bool) -> bytes:
    """The ONNX graph, in strips if asked for, functions replaced by their bodies: OpenVINO reads standard operators.

    Either way features have their channels last.
    """
    import onnx
    import onnx.inliner

    from .rewrites.grid_samples import without_deform_conv
    from .rewrites.strips import in_strips, leave_channels_last
    from .rewrites.transposes import cancel_transposes

    if strips:
        model = onnx.load_from_string(in_strips(source, PIXELS, channels_last=True, pointwise=False))
    else:
        model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
        leave_channels_last(model.graph)
    without_deform_conv(model.graph)
    model = onnx.inliner.inline_local_functions(model)
    cancel_transposes(model.graph)
    return bytes(model.SerializeToString())


def reason(error: Exception) -> str:
    """What OpenVINO says, in one line, without the places in its sources where it says it."""
    lines = (line.strip() for line in str(error).splitlines())
    said = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return " ".join(" ".join(said or [type(error).__name__]).split())
