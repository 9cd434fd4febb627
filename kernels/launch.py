"""Kernel launches through PyCUDA, or NVIDIA's ``cuda.core`` where PyCUDA is absent; either is imported at first use.

Both run in torch's world: the device's primary context, torch's current stream, torch's pointers. Nothing here
synchronises or allocates device memory, so a launch can be captured into a CUDA graph once the kernel has run before.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import re
import threading
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
    """What host code needs; tests put an emulator in its place."""

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

        Tensors are passed as their ``data_ptr``, so strides are the caller's business; None is the null pointer.
        """


def launcher() -> Launcher:
    """The process's one launcher."""
    found, detail = _find_once()
    if found is None:
        raise KernelsUnavailable(
            f'CUDA kernels need PyCUDA or cuda.core ({detail}): pip install "msformer-deploy[cuda]"'
        )
    return found


def describe() -> tuple[bool, str]:
    """Whether kernels can be launched, and through what, or why not. Needs no GPU."""
    found, detail = _find_once()
    return found is not None, detail


_finding = lock_across_forks()


def _find_once() -> tuple[Launcher | None, str]:
    with _finding:  # a cache alone would let two threads build two launchers
        return _find()


@cache
def _find() -> tuple[Launcher | None, str]:
    reasons = []
    for binding in (_PyCuda, _CudaCore):
        try:
            found = binding()
        except Exception as error:  # a library, its version and the driver can each fail in ways of their own
            reasons.append(f"{binding.name}: {_one_line(error)}")
        else:
            return found, f"{found.name} {found.version} on a driver for CUDA {found.driver_version}"
    return None, "; ".join(reasons)


class _RefusedError(Exception):
    """A launch that is not handed to the driver, or that it cannot take; reported like the driver's own errors."""


@dataclass
class _Function:
    handle: Any
    shared_bytes: int = 0  # what its dynamic shared memory has been allowed so far


# CUDA_ERROR_UNSUPPORTED_PTX_VERSION by name and by its description, and the driver's compiler in its own words.
_PTX_TOO_NEW = r"UNSUPPORTED_PTX_VERSION|unsupported toolchain|Unsupported \.version"

_FORMATS: dict[type, str] = {ctypes.c_int32: "i", ctypes.c_int64: "q", ctypes.c_float: "f"}
_SCALARS = (ctypes.c_int32, ctypes.c_int64, ctypes.c_float)


class _Binding(ABC):
    """What both bindings share: the device, what is loaded on it, and how failures are told."""

    name: ClassVar[str]
    version: str
    driver_version: str
    errors: tuple[type[Exception], ...]

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._modules: dict[tuple[str, int], Any] = {}
        self._unavailable: dict[tuple[str, int], BackendUnavailable] = {}  # finding out takes a compilation
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
                if (source, ordinal) not in self._modules:
                    try:
                        self._modules[source, ordinal] = self._load_any(source, kernel, ordinal)
                    except BackendUnavailable as error:
                        self._unavailable[source, ordinal] = error
                        raise
                if key not in self._functions:
                    self._functions[key] = _Function(self._look_up(self._modules[source, ordinal], kernel, arguments))
        return self._functions[key]

    def _allow_shared(self, function: _Function, shared_bytes: int, ordinal: int) -> None:
        """Allow what this launch needs: the default covers 48 KB, of which static shared memory takes its part."""
        if shared_bytes > function.shared_bytes:
            with self._lock:
                if shared_bytes > function.shared_bytes:
                    self._set_shared(function.handle, shared_bytes, ordinal)
                    function.shared_bytes = shared_bytes

    def _load_any(self, source: str, kernel: str, ordinal: int) -> Any:
        """The module of ``source``, compiled anew by an older compiler if its PTX is too new for the driver."""
        from .compile import load, recompile_with_nvrtc

        major, minor = torch.cuda.get_device_capability(ordinal)
        image = load(source, 10 * major + minor)
        try:
            return self._load(image, kernel)
        except self.errors as error:
            if not re.search(_PTX_TOO_NEW, str(error)):
                raise
        failures: tuple[type[Exception], ...] = (DeployError, *self.errors)
        try:
            return self._load(recompile_with_nvrtc(source, 10 * major + minor), kernel)
        except failures as error:
            raise KernelsUnavailable(
                f"kernel {kernel}: the driver (for CUDA {self.driver_version}) is older than the kernel's PTX"
                f" (ISA {image.isa}, {image.origin}), and NVRTC did not help"
                f" ({_one_line(error)}); update the driver, or install the NVRTC of torch's CUDA, {torch.version.cuda}"
            ) from error

    @abstractmethod
    def _current(self, ordinal: int) -> AbstractContextManager[None]:
        """The device's primary context, which torch uses, made current. Torch itself does so only when it must."""

    @abstractmethod
    def _load(self, image: Image, kernel: str) -> Any:
        """The module of ``image``, which has ``kernel``, compiled for the current context."""

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
        # RuntimeError is torch's, whose streams are made to wait.
        self.errors = (_RefusedError, self._driver.Error, RuntimeError)
        self._contexts: dict[int, Any] = {}
        self._sides: dict[tuple[int, int], tuple[Any, torch.cuda.Stream]] = {}

    @contextmanager
    def _current(self, ordinal: int) -> Iterator[None]:
        # Pushed rather than assumed: PyCUDA ties modules and streams to the top of its own stack, and the thread's
        # context may be another device's, or none yet.
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
                    # Left to its destructor, PyCUDA destroys a retained context as if it were its own.
                    atexit.register(context.detach)
                    self._contexts[ordinal] = context
        return self._contexts[ordinal]

    def _load(self, image: Image, kernel: str) -> Any:
        return self._driver.module_from_buffer(image.data)

    def _look_up(self, module: Any, kernel: str, arguments: str) -> Any:
        # Prepared once: a prepared call takes a quarter of the time of one that inspects its arguments.
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
        """What PyCUDA must launch on for the kernel to take its place in torch's current stream.

        PyCUDA launches on the default stream or on streams it created, and cannot adopt another's; nor does it give out
        a function's handle to launch by other means. Torch can adopt PyCUDA's. So the default stream, torch's as well
        unless the user chose another, is used as it is. Beside any other one stands a stream of PyCUDA's, which waits
        for it before the kernel and is waited for after: the same order, without the host waiting, at the cost of two
        events. A captured graph keeps no trace of it but the order.
        """
        current = torch.cuda.current_stream(device)
        if current.cuda_stream == 0:
            yield None
            return
        own, side = self._side(current)
        side.wait_stream(current)
        try:
            yield own
        finally:  # also if the launch failed: a capture may not end with a stream that never came back
            current.wait_stream(side)

    def _side(self, current: torch.cuda.Stream) -> tuple[Any, torch.cuda.Stream]:
        # One for each stream of torch's: a shared one would drag other streams into a capture.
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
        with torch.cuda.device(ordinal):  # puts another device back, but makes no context current on a new thread
            self._core.Device(ordinal).set_current()
            yield

    def _load(self, image: Image, kernel: str) -> Any:
        code = self._core.ObjectCode
        module = (code.from_cubin if image.kind == "cubin" else code.from_ptx)(image.data)
        # The driver may put off compiling PTX until a function is needed, but a capture has no place for that.
        self._checked(self._driver.cuKernelGetFunction(module.get_kernel(kernel).handle))
        return module

    def _look_up(self, module: Any, kernel: str, arguments: str) -> Any:
        return module.get_kernel(kernel)

    def _set_shared(self, function: Any, shared_bytes: int, ordinal: int) -> None:
        # cuda.core reads attributes but sets none.
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._checked(self._driver.cuKernelSetAttribute(attribute, shared_bytes, function.handle, ordinal))

    def _start(
        self, function: Any, device: torch.device, grid: Grid, block: int, shared_bytes: int, values: list[int | Scalar]
    ) -> None:
        config = self._core.LaunchConfig(grid=grid, block=block, shmem_size=shared_bytes)
        self._core.launch(torch.cuda.current_stream(device), config, function, *values)

    def _checked(self, result: tuple[Any, ...]) -> Any:
        """The value of a call to the driver's own interface, which returns errors instead of raising them."""
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
