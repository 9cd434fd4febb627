"""The choice among the backends, and the proof that the chosen one computes what the bundle's fingerprint says."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..bundle.fingerprint import noise, sampled
from ..errors import BackendUnavailable, UsageError
from ..machine.driver import find_driver
from ..machine.extras import is_installed, require_extra
from .base import Backend, Device

if TYPE_CHECKING:
    from ..bundle.fingerprint import Fingerprint
    from ..bundle.folder import Bundle
    from ..registry import Precision
    from .base import Part

# What runs on a CPU, the fastest first, as measured here (docs/explanation/performance.md).
CPU_BACKENDS = ("openvino", "onnxruntime", "torch")
GPU_BACKENDS = ("onnxruntime", "torch")  # not measured
# Module and class of each backend in this package; a module is imported only when its backend is opened.
CLASSES = {
    "onnxruntime": ("onnxruntime", "OnnxRuntimeBackend"),
    "onnxruntime-tensorrt": ("onnxruntime", "OnnxRuntimeTensorRTBackend"),
    "openvino": ("openvino", "OpenVinoBackend"),
    "tensorrt": ("tensorrt", "TensorRTBackend"),
    "torch": ("torch", "TorchBackend"),
}
RUNTIMES = ("onnxruntime", "openvino")  # that run on a CPU without torch
IN_PARTS = ("onnxruntime", "onnxruntime-tensorrt", "openvino")  # that can open a part of a graph
PARTS = {"volume": "cannot segment volumes", "prompted": "takes no prompts", "figure": "takes no prompts"}
IN_TORCH = ("tensorrt", "torch")  # whose modules import it: an engine's inputs and outputs are tensors
ON_GPU_ONLY = ("onnxruntime-tensorrt", "tensorrt")
NO_RUNTIME = 'no runtime is installed; pip install "msformer-deploy[cpu]", or [openvino], or on a CUDA GPU [gpu]'
REMEDY = "choose another --backend or --precision, or export the bundle again"


def open_backend(
    name: str,
    bundle: Bundle,
    device: Device,
    threads: int | None = None,
    graph: Part = "encoder",
    precision: Precision | None = None,
) -> Backend:
    """Load a graph of the bundle and see that it computes what the bundle's fingerprint says; older bundles have none.

    ``auto`` takes the first of :data:`GPU_BACKENDS` on a GPU that works, and else the first of :data:`CPU_BACKENDS`:
    the first that is installed, opens, and computes that. A warning reports what was passed over.

    Args:
        name: one of :data:`.registry.BACKENDS`, or ``auto``.
        bundle: a verified bundle.
        device: where to run.
        threads: threads for one operator; None leaves it to the runtime.
        graph: ``encoder``, ``segmenter`` for the whole method, or a part of that, see :data:`.base.Part`.
        precision: of the graph; the bundle's own by default.

    Raises:
        UsageError: the name is unknown, or the bundle has no graph of that precision.
        BackendUnavailable: the backend or the device cannot run here, or computes something else; for ``auto``, why the
            fastest cannot.
    """
    precision = precision or bundle.precision
    if name != "auto":
        backend = _open(name, bundle, device, threads, graph, precision)
        _require_fingerprint(backend, bundle)
        return backend
    bundle.graph_file("encoder" if graph == "encoder" else "segmenter", precision)
    failures: list[BackendUnavailable] = []
    for candidate, where in _candidates(device):
        if graph in PARTS and candidate not in IN_PARTS:
            continue
        try:
            backend = _open(candidate, bundle, where, threads, graph, precision)
        except BackendUnavailable as error:
            # A GPU that does not work is nothing to tell where the CPU will do.
            if where.kind == device.kind or where.kind == "cpu":
                failures.append(error)
            continue
        try:
            _require_fingerprint(backend, bundle)
        except BackendUnavailable as error:
            failures.append(error)
            continue
        for failure in failures:
            warnings.warn(f"{backend.name} is used, because a faster backend failed: {failure}", stacklevel=2)
        return backend
    if not failures:
        raise BackendUnavailable(NO_RUNTIME)
    raise failures[0]


def _require_fingerprint(backend: Backend, bundle: Bundle) -> None:
    """Compare with the fingerprint; a backend that does not pass is closed.

    Raises:
        BackendUnavailable: it does not pass.
    """
    fingerprint = bundle.fingerprint_of(backend.precision)
    if fingerprint is None:
        return
    try:
        check(fingerprint, backend, bundle.sizes.side)
    except BaseException:
        backend.close()
        raise


def check(fingerprint: Fingerprint, backend: Backend, side: int) -> None:
    """Run a backend once on the fingerprint's image and compare.

    Args:
        fingerprint: what it must compute.
        backend: loaded.
        side: of the image.

    Raises:
        BackendUnavailable: it gives something else.
    """
    if backend.graph == "figure":  # it computes nothing of what the fingerprint has
        return
    import numpy as np

    image = noise(side)
    if backend.graph in ("segmenter", "prompted"):
        labels = (backend.segment if backend.graph == "segmenter" else backend.prompted)(image).label_map[0]
        got = sampled(np.broadcast_to(labels, (len(fingerprint.labels), *labels.shape)))
        share, minimum = float((got == fingerprint.labels).mean()), fingerprint.agreement[backend.arithmetic]
        if share < minimum:
            raise BackendUnavailable(
                f"{backend.name} gives the labels known from the export on {share:.0%} of the pixels of the test"
                f" image, needed {minimum:.0%} in {backend.precision}; {REMEDY}"
            )
        return
    features = (backend.volume_features if backend.graph == "volume" else backend.encode)(image).features
    on_host = np.asarray(features.cpu() if hasattr(features, "cpu") else features)
    error = float(np.abs(sampled(on_host[0]) - fingerprint.features).max()) / fingerprint.largest
    allowed = fingerprint.tolerance[backend.arithmetic]
    if not error <= allowed:  # written so that NaN fails
        raise BackendUnavailable(
            f"{backend.name} gives features of the test image that differ from those known from the export by"
            f" {error:.2g} of the largest, allowed {allowed:g} in {backend.precision}; {REMEDY}"
        )


def _candidates(device: Device) -> Iterator[tuple[str, Device]]:
    """What ``auto`` tries, and where."""
    if may_use_gpu(device):
        for name in GPU_BACKENDS:
            if is_installed(name):
                yield name, Device("cuda", device.ordinal)
    if device.kind != "cuda":
        for name in CPU_BACKENDS:
            if is_installed(name):
                yield name, Device("cpu")


def may_use_gpu(device: Device) -> bool:
    """Whether a request for a device can end on a GPU: it asks for one, or leaves the choice and there is a driver."""
    if device.kind != "auto":
        return device.kind == "cuda"
    try:
        find_driver()
    except BackendUnavailable:
        return False
    return True


def _open(name: str, bundle: Bundle, device: Device, threads: int | None, graph: Part, precision: Precision) -> Backend:
    if name not in CLASSES:
        raise UsageError(f"backend {name!r} is unknown; choose one of auto, {', '.join(CLASSES)}")
    if graph in PARTS and name not in IN_PARTS:
        raise UsageError(f"backend {name} {PARTS[graph]}; choose one of auto, {', '.join(IN_PARTS)}")
    if name in IN_TORCH:
        require_extra("torch", f"backend {name}")
    module, kind = CLASSES[name]
    opened: type[Backend] = getattr(importlib.import_module(f".{module}", __package__), kind)
    return opened(bundle, device, threads, graph, precision)
