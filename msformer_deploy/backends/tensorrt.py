"""A bundle's TensorRT engines. Nothing of an engine is opened before it was checked; torch holds memory and stream."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..bundle import engines
from ..bundle.engines import Engine
from ..bundle.folder import Graph
from ..bundle.sidecar import TensorInfo
from ..errors import BackendUnavailable, BundleError, DeployError, UsageError
from ..kernels.capture import captured
from ..machine.driver import Gpu, find_driver
from ..machine.trt_flavour import Flavour, deserialize, find_all, message_log
from ..registry import Precision, find_system
from .base import Backend, Device, Encoded, Segmented

if TYPE_CHECKING:
    from ..bundle.folder import Bundle

IMAGE = "image"
DTYPES = {"FLOAT": torch.float32, "INT32": torch.int32, "INT64": torch.int64, "BOOL": torch.bool}


class Cuda:
    """A GPU as torch drives it, and a stream on it: all that the backend needs of CUDA.

    Args:
        device: ``auto`` is the first GPU.

    Raises:
        BackendUnavailable: no driver, no GPU, no torch that can use them, or no GPU of that ordinal.
    """

    def __init__(self, device: Device) -> None:
        driver = find_driver()
        if torch.version.cuda is None:
            raise BackendUnavailable(
                f"backend tensorrt keeps its data in torch's CUDA memory, and torch {torch.__version__} is a CPU"
                f" build; install a torch built for CUDA {driver.cuda[0]}"
            )
        if not torch.cuda.is_available():
            raise BackendUnavailable(
                f"torch {torch.__version__} for CUDA {torch.version.cuda} cannot use this {driver}; update the driver"
            )
        count = torch.cuda.device_count()
        if device.ordinal >= count:
            raise BackendUnavailable(
                f"device cuda:{device.ordinal} was asked for, but torch sees {count} GPUs, cuda:0 to cuda:{count - 1}"
            )
        self.device = torch.device("cuda", device.ordinal)
        major, minor = torch.cuda.get_device_capability(self.device)
        self.gpu = Gpu(torch.cuda.get_device_name(self.device), f"{major}.{minor}")
        self._stream = torch.cuda.Stream(self.device)

    @property
    def stream(self) -> int:
        """The stream, as TensorRT takes it."""
        return int(self._stream.cuda_stream)

    def selected(self) -> AbstractContextManager[None]:
        """Within it GPU and stream are the current ones: what is allocated belongs to the stream."""
        return torch.cuda.stream(self._stream)

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """:meth:`selected`, after all that the caller's stream was given, and before all that it will be given."""
        callers = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(callers)
        with self.selected():
            yield
        callers.wait_stream(self._stream)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory on the GPU.

        Raises:
            DeployError: it is full.
        """
        try:
            return torch.empty(shape, dtype=dtype, device=self.device)
        except torch.OutOfMemoryError as error:
            raise DeployError(
                f"the memory of {self.gpu.name} (cuda:{self.device.index}) is full; pass a smaller --batch"
            ) from error

    def upload(self, images: np.ndarray, target: Tensor) -> None:
        """Copy to the GPU without waiting; torch keeps the pinned memory until the copy is done."""
        target.copy_(torch.from_numpy(images).pin_memory(), non_blocking=True)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` gives the stream as a CUDA graph, without running it; returns what runs it.

        Raises:
            DeployError: it cannot be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            with captured(graph, self._stream):
                work()
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise DeployError(
                f"the engine cannot be captured in a CUDA graph ({reason}); choose another --backend"
            ) from error
        return graph.replay

    def finish(self) -> None:
        """Wait for all work."""
        self._stream.synchronize()


class _Runs(ABC):
    """Runs of an engine, enqueued on the stream, each over memory that the caller owns."""

    def __init__(self, flavour: Flavour, engine: Any, cuda: Cuda, log: Any) -> None:
        self._flavour, self._engine, self._cuda, self._log = flavour, engine, cuda, log

    @abstractmethod
    def run(self, tensors: dict[str, Tensor]) -> None:
        """Compute the outputs among ``tensors``, by name, from the image among them."""

    def _context(self, how: Any) -> Any:
        context = self._engine.create_execution_context(how)
        if context is None:
            raise DeployError(f"{self._flavour} cannot prepare the engine to run: {self._log.reason()}")
        return context

    def _bind(self, context: Any, tensors: dict[str, Tensor]) -> None:
        taken = context.set_input_shape(IMAGE, tuple(tensors[IMAGE].shape))
        if not all([taken, *(context.set_tensor_address(name, each.data_ptr()) for name, each in tensors.items())]):
            raise DeployError(f"{self._flavour} does not take the engine's inputs and outputs: {self._log.reason()}")

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._cuda.stream):
            raise DeployError(f"{self._flavour} fails to run the engine: {self._log.reason()}")


class _RtxRuns(_Runs):
    """TensorRT-RTX captures CUDA graphs itself, again where addresses or shapes change.

    It compiles kernels when an engine first runs. They stay in its memory: a runtime cache on disk would be code that
    no bundle vouches for.
    """

    def __init__(self, flavour: Flavour, engine: Any, cuda: Cuda, log: Any) -> None:
        super().__init__(flavour, engine, cuda, log)
        api: Any = flavour.api
        config = engine.create_runtime_config()
        # By default calls run generic kernels until better ones are compiled: other sums for the same image.
        config.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
        config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._only = self._context(config)

    def run(self, tensors: dict[str, Tensor]) -> None:
        self._bind(self._only, tensors)
        self._enqueue(self._only)


class _FullRuns(_Runs):
    """The full TensorRT, whose CUDA graphs we capture.

    A graph holds the addresses it was captured with, so there is one for each set of addresses that comes back. Outputs
    are allocated anew at every call: nobody's results are written over, nothing is copied, and as torch gives memory
    that became free again, a caller that drops its results meets the same graph at the next call.

    A context must stay as it was while a graph captured from it is used. So each graph has its own; they share their
    scratch memory, because one stream runs them one after the other.
    """

    def __init__(self, flavour: Flavour, engine: Any, cuda: Cuda, log: Any) -> None:
        super().__init__(flavour, engine, cuda, log)
        self._scratch = cuda.empty((max(engine.device_memory_size_v2, 1),), torch.uint8)
        self._plain = self._new_context()
        self._met: set[tuple[int, ...]] = set()
        self._graphs: dict[tuple[int, ...], tuple[Callable[[], None], Any]] = {}

    def _new_context(self) -> Any:
        context = self._context(self._flavour.api.ExecutionContextAllocationStrategy.USER_MANAGED)
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        return context

    def run(self, tensors: dict[str, Tensor]) -> None:
        addresses = tuple(each.data_ptr() for each in tensors.values())
        if addresses in self._graphs:
            self._graphs[addresses][0]()
            return
        context = self._new_context() if addresses in self._met else self._plain
        self._bind(context, tensors)
        # Also before a capture, which only records: this run gives the results, and does what TensorRT does once
        # after a change of shape and must not be captured.
        self._enqueue(context)
        if addresses in self._met:
            self._graphs[addresses] = self._cuda.capture(lambda: self._enqueue(context)), context
        self._met.add(addresses)


class TensorRTBackend(Backend):
    """Runs the engine of ``encoder.onnx`` or ``segmenter.onnx`` that fits this machine.

    What :meth:`encode` returns is on the GPU, ready for the stream that was torch's current one, and stays unchanged.
    Drop it, or call again, with the same stream current: only that stream is waited for before memory is used again.

    Args:
        bundle: a verified bundle.
        device: ``auto`` for the first GPU, or a GPU.
        threads: of a CPU; an engine uses none.
        graph, precision: of the engine.
        folder: of the only engine to consider; by default the one that suits the machine best.

    Raises:
        BackendUnavailable: no TensorRT, no GPU, no torch with CUDA, or no engine that fits and opens; or ``cpu``.
        BundleError: the engine or its sidecar is not the one that was built.
        DeployError: the GPU's memory is full.
    """

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        threads: int | None,
        graph: Graph,
        precision: Precision,
        folder: str | None = None,
    ) -> None:
        if device.kind == "cpu":
            raise BackendUnavailable(
                "backend tensorrt runs on GPUs only, not on cpu; choose another --device or --backend"
            )
        self.graph, self.precision = graph, precision
        flavours = {each.name: each for each in find_all()}
        cuda = Cuda(device)
        versions = {name: each.version for name, each in flavours.items()}
        chosen = engines.select(bundle, graph, precision, versions, cuda.gpu, folder)
        flavour = flavours[chosen.record.flavour]
        log = message_log(flavour)
        with cuda.selected():
            engine = _open(flavour, chosen, bundle, log)
            self._runs: _Runs | None = (_RtxRuns if flavour.name == "rtx" else _FullRuns)(flavour, engine, cuda, log)
        self.provider, self.device = f"{flavour} on {cuda.gpu.name} ({cuda.device})", str(cuda.device)
        self._cuda = cuda
        self._outputs = {each["name"]: each for each in _tensors(engine)["OUTPUT"]}
        minimum, _, maximum = engine.get_tensor_profile_shape(IMAGE, 0)
        self._batches = range(minimum[0], maximum[0] + 1)
        self.max_batch = self._batches[-1]
        self._images: dict[int, Tensor] = {}
        self._queueing = threading.Lock()  # the image's memory and the context are the same for all calls
        self._label_type = np.uint8 if bundle.sizes.clusters <= 256 else np.uint16

    def encode(self, images: np.ndarray) -> Encoded:
        return Encoded(**self._run(images))

    def segment(self, images: np.ndarray) -> Segmented:
        found = {name: each.cpu().numpy() for name, each in self._run(images).items()}
        return Segmented(**{**found, "label_map": found["label_map"].astype(self._label_type)})

    def _run(self, images: np.ndarray) -> dict[str, Tensor]:
        self.require_origin()
        assert self._runs is not None, "closed"
        wanted, minimum, maximum = len(images), self._batches[0], self._batches[-1]
        if not 1 <= wanted <= maximum:
            raise UsageError(
                f"a batch of {wanted} images does not fit the engine, which takes {minimum} to {maximum}; change"
                " --batch, or export the engine with another --trt-batch"
            )
        batch = max(wanted, minimum)  # the last images of a folder may be fewer
        images = np.concatenate([images, np.repeat(images[-1:], batch - wanted, axis=0)])
        with self._queueing, self._cuda.in_order():
            if batch not in self._images:
                self._images[batch] = self._cuda.empty(images.shape, torch.float32)
            outputs = {
                name: self._cuda.empty((batch, *each["shape"][1:]), DTYPES[each["dtype"]])
                for name, each in self._outputs.items()
            }
            self._cuda.upload(images, self._images[batch])
            self._runs.run({IMAGE: self._images[batch], **outputs})
        return {name: each[:wanted] for name, each in outputs.items()}

    def close(self) -> None:
        self._cuda.finish()  # what still runs needs its context and memory
        self._runs = None
        self._images.clear()


def _open(flavour: Flavour, chosen: Engine, bundle: Bundle, log: Any) -> Any:
    """The engine, read back to be what its sidecar says."""
    record = chosen.record
    engine = deserialize(flavour, chosen.data, log, host_code=record.options.version_compatible)
    command = engines.rebuild_command(bundle.path, record.precision, record.flavour, record.options)
    if engine is None:
        raise BackendUnavailable(
            f"{chosen.path}: {flavour} does not open it: {log.reason()}; build it again here: {command}"
        )
    found = _tensors(engine)
    told = {"INPUT": record.inputs, "OUTPUT": record.outputs}
    names = {each["name"] for each in found["OUTPUT"]}
    wanted = find_system(bundle.system).encoder_outputs if record.graph == "encoder" else Segmented._fields
    if names != set(wanted) or any(_of_one(found[mode]) != _of_one(told[mode]) for mode in found):
        raise BundleError(f"{chosen.path}: has {found}, its sidecar says {told}; build it again: {command}")
    return engine


def _tensors(engine: Any) -> dict[str, list[TensorInfo]]:
    """Inputs and outputs, as the sidecar has them."""
    tensors: dict[str, list[TensorInfo]] = {"INPUT": [], "OUTPUT": []}
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        dtype, shape = engine.get_tensor_dtype(name), engine.get_tensor_shape(name)
        entry = TensorInfo(name=name, dtype=dtype.name, shape=list(shape))
        tensors[engine.get_tensor_mode(name).name].append(entry)
    return tensors


def _of_one(tensors: list[TensorInfo]) -> list[tuple[str, str, list[int]]]:
    """In a certain order, and of one image: how many there may be is in the engine's profile."""
    return sorted((each["name"], each["dtype"], each["shape"][1:]) for each in tensors)
