"""The interface every backend implements, and the choice among them."""

from __future__ import annotations

import importlib.util
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from ..bundle.folder import Graph
from ..errors import BackendUnavailable, UsageError
from ..machine.driver import find_driver
from ..machine.forks import Origin
from ..registry import BACKENDS, Precision

if TYPE_CHECKING:
    import numpy as np

    from ..bundle.folder import Bundle


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
    """Encoder outputs as arrays that torch can take without a copy (numpy arrays or tensors).

    A system has those that the registry names.
    """

    features: Any  # (B, C, S, S) float32; in memory channels come first or last
    context_small: Any = None  # (B, D, D) float32
    context_large: Any = None  # (B, D, D) float32


class Segmented(NamedTuple):
    """Outputs of the whole method in one graph."""

    label_map: np.ndarray  # (B, S, S) uint8, uint16 over 256 clusters
    counts: np.ndarray  # (B, K) int64
    collapsed: np.ndarray  # (B,) bool


_Backend = TypeVar("_Backend", bound="Backend")


class Backend(ABC):
    """A loaded graph, ready to run. Use as a context manager, or call :meth:`close`.

    Attributes:
        name: the backend's name.
        provider: what really executes, read back after loading.
        device: where :meth:`encode` leaves its outputs, in torch's words: ``cpu`` or ``cuda:N``.
        graph: which of the bundle's graphs is loaded.
        precision: of that graph.
        max_batch: maximum number of images in one call; None for any number.
    """

    name: ClassVar[str]
    _origin: Origin
    provider: str
    device: str
    graph: Graph
    precision: Precision
    max_batch: int | None = None

    def __new__(cls: type[_Backend], *_: Any, **__: Any) -> _Backend:
        backend = super().__new__(cls)
        backend._origin = Origin()
        return backend

    def require_origin(self) -> None:
        """See that this process is the one that loaded the graph.

        Raises:
            DeployError: it was forked from that one.
        """
        self._origin.require(f"the graph that {self.name} runs")

    @property
    def arithmetic(self) -> Precision:
        """The precision whose roundings results may have: that of the graph, where the runtime does not round more."""
        return self.precision

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


def image_by_image(
    run: Callable[[np.ndarray], Sequence[np.ndarray]], images: np.ndarray, *, channels_last: bool
) -> list[np.ndarray]:
    """Outputs for images (B, 3, S, S) of a graph that is given one at a time: a CPU gains nothing from more.

    Args:
        run: from one image (1, 3, S, S) to the graph's outputs, which are not copied where there is one image only.
        channels_last: an output (1, H, W, C) is given as (B, C, H, W), its channels last in memory.
    """
    import numpy as np

    joined: list[np.ndarray] = []
    for index in range(len(images)):
        outputs = list(run(images[index : index + 1]))
        if len(images) == 1:
            joined = outputs
            break
        joined = joined or [np.empty((len(images), *output.shape[1:]), output.dtype) for output in outputs]
        for whole, output in zip(joined, outputs, strict=True):
            whole[index] = output[0]
    return [each.transpose(0, 3, 1, 2) if channels_last and each.ndim == 4 else each for each in joined]


# What runs on a CPU, the fastest first, as measured here (docs/performance.md).
CPU_BACKENDS = ("openvino", "onnxruntime", "torch")


def open_backend(
    name: str,
    bundle: Bundle,
    device: Device,
    threads: int | None = None,
    graph: Graph = "encoder",
    precision: Precision | None = None,
) -> Backend:
    """Load a graph of the bundle and see that it computes what the bundle's fingerprint says; older bundles have none.

    ``auto`` takes ONNX Runtime (torch where that is not installed) on a GPU that works, and else the first of
    :data:`CPU_BACKENDS` that is installed, opens, and computes that. A warning reports what was passed over.

    Args:
        name: one of :data:`.registry.BACKENDS`, or ``auto``.
        bundle: a verified bundle.
        device: where to run.
        threads: threads for one operator; None leaves it to the runtime.
        graph: ``encoder``, or ``segmenter`` for the whole method.
        precision: of the graph; the bundle's own by default.

    Raises:
        UsageError: the name is unknown, or the bundle has no graph of that precision.
        BackendUnavailable: the backend or the device cannot run here, or computes something else; for ``auto``, why the
            fastest cannot.
    """
    precision = precision or bundle.precision
    if name != "auto":
        backend = _open(name, bundle, device, threads, graph, precision)
        _check(backend, bundle)
        return backend
    bundle.graph_file(graph, precision)
    failures: list[BackendUnavailable] = []
    for candidate, where in _candidates(device):
        try:
            backend = _open(candidate, bundle, where, threads, graph, precision)
        except BackendUnavailable as error:
            # A GPU that does not work is nothing to tell where the CPU will do.
            if where.kind == device.kind or where.kind == "cpu":
                failures.append(error)
            continue
        try:
            _check(backend, bundle)
        except BackendUnavailable as error:
            failures.append(error)
            continue
        for failure in failures:
            warnings.warn(f"{backend.name} runs in place of a faster backend: {failure}", stacklevel=2)
        return backend
    raise failures[0]


def _check(backend: Backend, bundle: Bundle) -> None:
    """Compare with the fingerprint; a backend that does not pass is closed.

    Raises:
        BackendUnavailable: it does not pass.
    """
    fingerprint = bundle.fingerprint_of(backend.precision)
    if fingerprint is None:
        return
    try:
        fingerprint.check(backend, bundle.sizes.side)
    except BaseException:
        backend.close()
        raise


def _candidates(device: Device) -> Iterator[tuple[str, Device]]:
    """What ``auto`` tries, and where."""
    on_gpu = "onnxruntime" if _is_installed("onnxruntime") else "torch"
    if device.kind == "cuda":
        yield on_gpu, device
        return
    if device.kind == "auto" and _has_gpu():
        yield on_gpu, Device("cuda")
    for name in CPU_BACKENDS:
        if _is_installed(name):
            yield name, Device("cpu")


def _is_installed(module: str) -> bool:
    return module == "torch" or importlib.util.find_spec(module) is not None


def _has_gpu() -> bool:
    try:
        find_driver()
    except BackendUnavailable:
        return False
    return True


def _open(
    name: str, bundle: Bundle, device: Device, threads: int | None, graph: Graph, precision: Precision
) -> Backend:
    if name == "onnxruntime":
        from .onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(bundle, device, threads, graph, precision)
    if name == "openvino":
        from .openvino import OpenVinoBackend

        return OpenVinoBackend(bundle, device, threads, graph, precision)
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
