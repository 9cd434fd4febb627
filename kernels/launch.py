"""Kernel launches through NVIDIA's ``cuda.core``, else through PyCUDA; either is imported at first use.

Both use the device's primary context, torch's current stream and torch's pointers. No launch synchronises or allocates
device memory, so a launch can be captured into a CUDA graph after the kernel has run once.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor

from msformer_deploy.errors import BackendUnavailable, DeployError
from msformer_deploy.machine.forks import lock_across_forks

from .errors import KernelError, KernelsUnavailable

if TYPE_CHECKING:
    from .compile import Image

Scalar: TypeAlias = ctypes.c_int32 | ctypes.c_int64 | ctypes.c_float
Grid: TypeAlias = tuple[int, int, int]


class Launcher(Protocol):
    """The interface that host code needs; tests replace it by an emulator."""

    def launch(
        self,
        source: str,
        kernel: str,
        grid: Grid,
        block: int,
        shared_bytes: int,
        arguments: Sequence[Tensor | Scalar | None],
    ) -> None:
        """Queue ``kernel`` of ``source`` with ``block`` threads per block on the current stream of the tensors' device.

        Tensors are passed as their ``data_ptr``, so the caller must check strides; None is the null pointer.
        """


def launcher() -> Launcher:
    """The only launcher of the process."""
    found, detail = _find_once()
    if found is None:
        raise KernelsUnavailable(
            f'CUDA kernels need cuda.core or PyCUDA ({detail}): pip install "msformer-deploy[cuda]"'
        )
    return found


def describe() -> tuple[bool, str]:
    """Return whether kernels can be launched, and the library that launches them or the reason. Needs no GPU."""
    found, detail = _find_once()
    return found is not None, detail


_finding = lock_across_forks()


def _find_once() -> tuple[Launcher | None, str]:
    with _finding:  # a cache alone would let two threads build two launchers
        return _find()


@cache
def _find() -> tuple[Launcher | None, str]:
    reasons = []
    for binding in (_CudaCore, _PyCuda):
        try:
            found = binding()
        except Exception as error:  # a missing library, a wrong version and the driver raise different errors
            reasons.append(f"{binding.name}: {_one_line(error)}")
        else:
            return found, f"{found.name} {found.version} on a driver for CUDA {found.driver_version}"
    return None, "; ".join(reasons)


class _RefusedError(Exception):
    """A launch that is not passed to the driver, or that the driver refuses; reported like the driver's own errors."""


@dataclass
class _Function:
    handle: Any
    shared_bytes: int = 0  # the limit of dynamic shared memory that was set so far


# CUDA_ERROR_UNSUPPORTED_PTX_VERSION by its name and its description, and the message of the driver's compiler.
_PTX_TOO_NEW = r"UNSUPPORTED_PTX_VERSION|unsupported toolchain|Unsupported \.version"

_FORMATS: dict[type, str] = {ctypes.c_int32: "i", ctypes.c_int64: "q", ctypes.c_float: "f"}
_SCALARS = (ctypes.c_int32, ctypes.c_int64, ctypes.c_float)


class _Binding(ABC):
    """The common part of both bindings: the device, the modules loaded on it, and the reports of failures."""

    name: ClassVar[str]
    version: str
    driver_version: str
    errors: tuple[type[Exception], ...]

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images: dict[tuple[str, int], Image] = {}
        self._modules: dict[tuple[str, str, int], Any] = {}  # one for each kernel, see Image.only
        self._unavailable: dict[tuple[str, int], BackendUnavailable] = {}  # the check needs a compilation
        self._functions: dict[tuple[str, str, str, int], _Function] = {}

    def launch(
        self,
        source: str,
        kernel: str,
        grid: Grid,
        block: int,
        shared_bytes: int,
        arguments: Sequence[Tensor | Scalar | None],
    ) -> None:
        try:
            device = _device_of(arguments)
            with self._current(device.index):
                function = self._function(source, kernel, _format(arguments), device.index)
                self._allow_shared(function, shared_bytes, device.index)
                self._start(function.handle, device, grid, block, shared_bytes, [_value(each) for each in arguments])
        except DeployError:
            raise
        except self.errors as error:
            shape = f"grid {grid}, block {block}, {shared_bytes} bytes shared"
            raise KernelError(f"kernel {kernel}, {shape}: {_one_line(error)}") from error

    def _function(self, source: str, kernel: str, arguments: str, ordinal: int) -> _Function:
        key = source, kernel, arguments, ordinal
        if key not in self._functions:
            with self._lock:
                if (source, ordinal) in self._unavailable:
                    raise self._unavailable[source, ordinal]
                if (source, kernel, ordinal) not in self._modules:
                    try:
                        self._modules[source, kernel, ordinal] = self._load_any(source, kernel, ordinal)
                    except BackendUnavailable as error:
                        self._unavailable[source, ordinal] = error
                        raise
                if key not in self._functions:
                    self._functions[key] = _Function(
                        self._look_up(self._modules[source, kernel, ordinal], kernel, arguments)
                    )
        return self._functions[key]

    def _allow_shared(self, function: _Function, shared_bytes: int, ordinal: int) -> None:
        """Raise the limit of shared memory for this launch if needed: the default is 48 KB, static memory included."""
        if shared_bytes > function.shared_bytes:
            with self._lock:
                if shared_bytes > function.shared_bytes:
                    self._set_shared(function.handle, shared_bytes, ordinal)
                    function.shared_bytes = shared_bytes

    def _load_any(self, source: str, kernel: str, ordinal: int) -> Any:
        """The module of ``source``, compiled again by an older compiler if its PTX is too new for the driver.

        Machine code that the driver refuses is no reason to fail: the driver compiles the same code from the PTX.
        """
        from .compile import load, recompile_with_nvrtc, shipped_cubin

        major, minor = torch.cuda.get_device_capability(ordinal)
        image = self._images.get((source, ordinal))
        if image is None:
            image = shipped_cubin(source, 10 * major + minor, self.driver_version)
        if image is not None and (image.kind, image.origin) == ("cubin", "shipped"):
            try:
                module = self._load(image, kernel)
            except self.errors as error:
                why = _one_line(error)
                warnings.warn(f"kernel {kernel}: the driver compiles it, for it refused our code ({why})", stacklevel=2)
                image = None
            else:
                self._images[source, ordinal] = image
                return module
        image = self._images[source, ordinal] = image or load(source, 10 * major + minor)
        try:
            return self._load(image.only(kernel), kernel)
        except self.errors as error:
            if not re.search(_PTX_TOO_NEW, str(error)):
                raise
        failures: tuple[type[Exception], ...] = (DeployError, *self.errors)
        try:
            recompiled = recompile_with_nvrtc(source, 10 * major + minor)
            module = self._load(recompiled.only(kernel), kernel)
        except failures as error:
            raise KernelsUnavailable(
                f"kernel {kernel}: the driver (for CUDA {self.driver_version}) is older than the kernel's PTX"
                f" (ISA {image.isa}, {image.origin}), and NVRTC did not help"
                f" ({_one_line(error)}); update the driver, or install the NVRTC of torch's CUDA, {torch.version.cuda}"
            ) from error
        self._images[source, ordinal] = recompiled
        return module

    @abstractmethod
    def _current(self, ordinal: int) -> AbstractContextManager[None]:
        """Make the device's primary context current. Torch uses that context, but does not always make it current."""

    @abstractmethod
    def _load(self, image: Image, kernel: str) -> Any:
        """Load ``image``, which contains ``kernel``, into the current context."""

    @abstractmethod
    def _look_up(self, module: Any, kernel: str, arguments: str) -> Any: ...

    @abstractmethod
    def _set_shared(self, function: Any, shared_bytes: int, ordinal: int) -> None: ...

    @abstractmethod
    def _start(
        self, function: Any, device: torch.device, grid: Grid, block: int, shared_bytes: int, values: list[int | Scalar]
    ) -> None: ...


class _PyCuda(_Binding):
    name = "PyCUDA"

    def __init__(self) -> None:
        super().__init__()
        self._driver = importlib.import_module("pycuda.driver")
        self.version = importlib.import_module("pycuda").VERSION_TEXT
        self.driver_version = _dotted(self._driver.get_driver_version())
        # RuntimeError comes from torch, when its streams wait.
        self.errors = (_RefusedError, self._driver.Error, RuntimeError)
        self._contexts: dict[int, Any] = {}
        self._sides: dict[tuple[int, int], tuple[Any, torch.cuda.Stream]] = {}

    @contextmanager
    def _current(self, ordinal: int) -> Iterator[None]:
        # The context must be pushed: PyCUDA binds modules and streams to the top of its own stack, and the thread's
        # context may belong to another device or not exist yet.
        context = self._context(ordinal)
        context.push()
        try:
            yield
        finally:
            context.pop()

    def _context(self, ordinal: int) -> Any:
        if ordinal not in self._contexts:
            with self._lock:
                if ordinal not in self._contexts:
                    self._driver.init()
                    context = self._driver.Device(ordinal).retain_primary_context()
                    # Otherwise PyCUDA's destructor destroys a retained context as if PyCUDA had created it.
                    atexit.register(context.detach)
                    self._contexts[ordinal] = context
        return self._contexts[ordinal]

    def _load(self, image: Image, kernel: str) -> Any:
        return self._driver.module_from_buffer(image.data)

    def _look_up(self, module: Any, kernel: str, arguments: str) -> Any:
        # Prepared once: a prepared call takes a quarter of the time of a call that inspects its arguments.
        return module.get_function(kernel).prepare(arguments)

    def _set_shared(self, function: Any, shared_bytes: int, ordinal: int) -> None:
        function.set_attribute(self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)

    def _start(
        self, function: Any, device: torch.device, grid: Grid, block: int, shared_bytes: int, values: list[int | Scalar]
    ) -> None:
        plain = [each if isinstance(each, int) else each.value for each in values]
        with self._on_current_stream(device) as stream:
            function.prepared_async_call(grid, (block, 1, 1), stream, *plain, shared_size=shared_bytes)

    @contextmanager
    def _on_current_stream(self, device: torch.device) -> Iterator[Any]:
        """The stream for PyCUDA that runs a kernel in the order of torch's current stream.

        PyCUDA launches only on the default stream or on streams that it created, and does not give access to the handle
        of a function. Torch can adopt streams of PyCUDA. So the default stream, which is also torch's unless the user
        chose another, is used directly. Every other stream of torch gets a side stream of PyCUDA. The side stream waits
        for torch's stream before the kernel, and torch's stream waits for the side stream after it. This keeps the
        order without making the host wait, and costs two events. A captured graph keeps only the order.
        """
        current = torch.cuda.current_stream(device)
        if current.cuda_stream == 0:
            yield None
            return
        own, side = self._side(current)
        side.wait_stream(current)
        try:
            yield own
        finally:  # also after a failed launch: a capture must not end while a stream has not joined again
            current.wait_stream(side)

    def _side(self, current: torch.cuda.Stream) -> tuple[Any, torch.cuda.Stream]:
        # One for each stream of torch: a shared one would bring other streams into a capture.
        key = current.device.index, current.cuda_stream
        with self._lock:
            if key not in self._sides:
                non_blocking = 1  # CU_STREAM_NON_BLOCKING: like torch's, it does not wait for the default stream
                own = self._driver.Stream(non_blocking)
                self._sides[key] = own, torch.cuda.ExternalStream(own.handle, device=current.device)
            return self._sides[key]


class _CudaCore(_Binding):
    name = "cuda.core"

    def __init__(self) -> None:
        super().__init__()
        self._core = importlib.import_module("cuda.core")
        self._driver = importlib.import_module("cuda.bindings.driver")
        self.version = self._core.__version__
        self.driver_version = _dotted(self._checked(self._driver.cuDriverGetVersion()))
        self.errors = (Exception,)  # its CUDAError has no public name

    @contextmanager
    def _current(self, ordinal: int) -> Iterator[None]:
        with torch.cuda.device(ordinal):  # restores the device, but makes no context current on a new thread
            self._core.Device(ordinal).set_current()
            yield

    def _load(self, image: Image, kernel: str) -> Any:
        code = self._core.ObjectCode
        module = (code.from_cubin if image.kind == "cubin" else code.from_ptx)(image.data)
        # The driver may delay compiling PTX until a function is needed, but that must not happen during a capture.
        self._checked(self._driver.cuKernelGetFunction(module.get_kernel(kernel).handle))
        return module

    def _look_up(self, module: Any, kernel: str, arguments: str) -> Any:
        return module.get_kernel(kernel)

    def _set_shared(self, function: Any, shared_bytes: int, ordinal: int) -> None:
        # cuda.core can read attributes, but not set them.
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._checked(self._driver.cuKernelSetAttribute(attribute, shared_bytes, function.handle, ordinal))

    def _start(
        self, function: Any, device: torch.device, grid: Grid, block: int, shared_bytes: int, values: list[int | Scalar]
    ) -> None:
        config = self._core.LaunchConfig(grid=grid, block=block, shmem_size=shared_bytes)
        self._core.launch(torch.cuda.current_stream(device), config, function, *values)

    def _checked(self, result: tuple[Any, ...]) -> Any:
        """The value of a call to the driver's interface, which returns errors and does not raise them."""
        code, *value = result
        if code != self._driver.CUresult.CUDA_SUCCESS:
            raise _RefusedError(f"{code.name} ({self._driver.cuGetErrorString(code)[1].decode()})")
        return value[0] if value else None


def _device_of(arguments: Sequence[Tensor | Scalar | None]) -> torch.device:
    devices = {each.device for each in arguments if each is not None and not isinstance(each, _SCALARS)}
    if len(devices) != 1 or next(iter(devices)).type != "cuda":
        raise _RefusedError(f"tensors must be on one CUDA device, got {', '.join(sorted(map(str, devices))) or 'none'}")
    return devices.pop()


def _format(arguments: Sequence[Tensor | Scalar | None]) -> str:
    """The arguments' C types as characters of ``struct``."""
    return "".join([_FORMATS.get(type(each), "P") for each in arguments])


def _value(argument: Tensor | Scalar | None) -> int | Scalar:
    if argument is None:
        return 0
    return argument if isinstance(argument, _SCALARS) else argument.data_ptr()


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
