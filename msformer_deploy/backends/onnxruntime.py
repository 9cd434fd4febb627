"""ONNX Runtime. The provider is requested by name, never left to a default, and read back from the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..bundle import ENCODER, SEGMENTER
from ..errors import BackendUnavailable
from .base import Backend, Device, Encoded, Graph, Segmented

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from ..bundle import Bundle

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FILES: dict[Graph, str] = {"encoder": ENCODER, "segmenter": SEGMENTER}

# On CPU, ONNX Runtime's fused Add + LayerNormalization is several times slower here than the two apart.
DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]


def open_session(model: Path | bytes, device: Device, threads: int | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` on the device asked for, and on no other.

    Raises:
        BackendUnavailable: ONNX Runtime is missing, or the device's provider is not there or did not take the session.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(
            f"onnxruntime cannot be imported ({error}); install msformer-deploy[cpu] or msformer-deploy[gpu]"
        ) from error
    available = onnxruntime.get_available_providers()
    if device.kind == "cuda" and CUDA not in available:
        raise BackendUnavailable(
            f"device {device} was asked for, but this onnxruntime {onnxruntime.__version__} has only"
            f" {', '.join(available)}; install msformer-deploy[gpu] in place of [cpu]"
        )
    options = onnxruntime.SessionOptions()
    # A planned memory pattern holds 1.6 GB for one image where allocating as needed peaks at 0.9 GB, at equal speed.
    options.enable_mem_pattern = False
    # Threads that spin between calls take the cores from torch's refinement.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: its warnings are about graph optimisation, not about results
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    on_gpu = device.kind == "cuda" or (device.kind == "auto" and CUDA in available)
    providers: list[Any] = [(CUDA, {"device_id": device.ordinal})] if on_gpu else []
    if device.kind != "cuda":
        providers.append(CPU)
    else:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(
            source, options, providers=providers, disabled_optimizers=DISABLED_OPTIMIZERS
        )
    except Exception as error:  # the binding raises many classes, none of them public
        reason = " ".join(str(error).split())
        raise BackendUnavailable(f"onnxruntime cannot open a session on {device}: {reason}") from error
    if device.kind == "cuda" and session.get_providers()[0] != CUDA:
        raise BackendUnavailable(
            f"device {device} was asked for, but onnxruntime opened {session.get_providers()[0]};"
            " run 'msformer-deploy doctor' to see what is missing"
        )
    return session


class OnnxRuntimeBackend(Backend):
    """Runs ``encoder.onnx`` or ``segmenter.onnx``."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, device: Device, threads: int | None, graph: Graph) -> None:
        self.graph = graph
        self._session = open_session(bundle.file(FILES[graph]), device, threads)
        self.provider = self._session.get_providers()[0]

    def encode(self, images: np.ndarray) -> Encoded:
        return Encoded(*self._session.run(["features", "context_small", "context_large"], {"image": images}))

    def segment(self, images: np.ndarray) -> Segmented:
        return Segmented(*self._session.run(["label_map", "counts", "collapsed"], {"image": images}))

    def close(self) -> None:
        self._session = None
