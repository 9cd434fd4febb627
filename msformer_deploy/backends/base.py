"""The interface every backend implements, and the choice among them."""

from __future__ import annotations

import importlib.util
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from ..bundle import Graph
from ..errors import BackendUnavailable, UsageError
from ..registry import BACKENDS, Precision

if TYPE_CHECKING:
    import numpy as np

    from ..bundle import Bundle


class Device(NamedTuple):
    """Where to run: ``auto`` takes a GPU when one works, the other two never fall back."""

    kind: Literal["auto", "cpu", "cuda"]
    ordinal: int = 0

    def __str__(self) -> str:
        return f"cuda:{self.ordinal}" if self.kind == "cuda" else self.kind


def parse_device(text: str) -> Device:
    """Read ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: for anything else.
    """
    match = re.fullmatch(r"(auto|cpu|cuda)(?::(\d+))?", text)
    if match is None or (match[2] is not None and match[1] != "cuda"):
        raise UsageError(f"device {text!r} is unknown; choose auto, cpu, cuda or cuda:N")
    return Device(match[1], int(match[2] or 0))  # type: ignore[arg-type]


class Encoded(NamedTuple):
    """Encoder outputs as arrays that torch can take without a copy (numpy arrays or tensors)."""

    features: Any  # (B, 2D, S, S) float32
    context_small: Any  # (B, D, D) float32
    context_large: Any  # (B, D, D) float32


class Segmented(NamedTuple):
    """Outputs of the whole method in one graph."""

    label_map: np.ndarray  # (B, S, S) uint8, uint16 over 256 clusters
    counts: np.ndarray  # (B, K) int64
    collapsed: np.ndarray  # (B,) bool


class Backend(ABC):
    """A loaded graph, ready to run. Use as a context manager, or call :meth:`close`.

    Attributes:
        name: the backend's name.
        provider: what really executes, read back after loading.
        device: where :meth:`encode` leaves its outputs, in torch's words: ``cpu`` or ``cuda:N``.
        graph: which of the bundle's graphs is loaded.
        precision: of that graph.
        most: images that one call takes at most; None for any number.
    """

    name: ClassVar[str]
    provider: str
    device: str
    graph: Graph
    precision: Precision
    most: int | None = None

    @abstractmethod
    def encode(self, images: np.ndarray) -> Encoded:
        """Run the encoder on images (B, 3, S, S), float32, in the bundle's channel order, 0..1."""

    def segment(self, images: np.ndarray) -> Segmented:
        """Run the whole method on images (B, 3, S, S), learning included.

        Raises:
            BackendUnavailable: if this backend has no such graph.
        """
        raise BackendUnavailable(f"backend {self.name} has no whole-method graph; use --backend onnxruntime")

    @abstractmethod
    def close(self) -> None:
        """Free what the backend holds."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_backend(
    name: str,
    bundle: Bundle,
    device: Device,
    threads: int | None = None,
    graph: Graph = "encoder",
    precision: Precision | None = None,
) -> Backend:
    """Load a graph of the bundle.

    Args:
        name: one of :data:`.registry.BACKENDS`, or ``auto`` for ONNX Runtime where it is installed, else torch.
        bundle: a verified bundle.
        device: where to run.
        threads: threads for one operator; None leaves it to the runtime.
        graph: ``encoder``, or ``segmenter`` for the whole method.
        precision: of the graph; the bundle's own by default.

    Raises:
        UsageError: the name is unknown, or the bundle has no graph of that precision.
        BackendUnavailable: the backend or the device cannot run here.
    """
    precision = precision or bundle.precision
    if name == "auto":
        name = "onnxruntime" if importlib.util.find_spec("onnxruntime") is not None else "torch"
    if name == "onnxruntime":
        from .onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(bundle, device, threads, graph, precision)
    if name == "onnxruntime-tensorrt":
        from .onnxruntime import OnnxRuntimeTensorRTBackend

        return OnnxRuntimeTensorRTBackend(bundle, device, threads, graph, precision)
    if name == "tensorrt":
        from .tensorrt import TensorRTBackend

        return TensorRTBackend(bundle, device, graph, precision)
    if name == "torch":
        from .torch import TorchBackend

        return TorchBackend(bundle, device, threads, graph, precision)
    raise UsageError(f"backend {name!r} is unknown; choose one of auto, {', '.join(BACKENDS)}")
