"""Launches through both bindings, each imitated as far as the launcher touches it, and for real where there is a GPU.

The imitations are as strict as what they imitate: PyCUDA takes no stream but its own and nothing without a context on
its stack, cuda.core takes a plain int for a pointer and refuses types it does not know.
"""

from __future__ import annotations

import ctypes
import enum
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.kernels import compile as images
from msformer_deploy.kernels import launch
from msformer_deploy.kernels.compile import Image
from msformer_deploy.kernels.errors import KernelError, KernelsUnavailable

PTX = Image(b"//\n.version 9.0\n.target sm_80\n", "ptx", 80, "shipped", "9.0")
CUBIN = Image(b"\x7fELF", "cubin", 90, "compiled by NVRTC 12.8", "")
SHIPPED = CUBIN._replace(origin="shipped")


class Code(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701


TEXTS = {
    Code.CUDA_ERROR_INVALID_VALUE: "invalid argument",
    Code.CUDA_ERROR_NO_BINARY_FOR_GPU: "no kernel image is available for execution on the device",
    Code.CUDA_ERROR_UNSUPPORTED_PTX_VERSION: "the provided PTX was compiled with an unsupported toolchain.",
    Code.CUDA_ERROR_NOT_FOUND: "named symbol not found",
    Code.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: "too many resources requested for launch",
}


class Launched(NamedTuple):
    device: int
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    stream: int
    arguments: bytes | list[bytes]


class Driver:
    """The behaviour of both imitations, named as in the driver."""

    def __init__(self) -> None:
        self.current = [0]  # the thread's context stack, as device ordinals; torch has used the first device
        self.loaded: list[tuple[int, bytes]] = []
        self.attributes: list[tuple[str, int, int]] = []
        self.launched: list[Launched] = []
        self.order: list[str] = []  # launches among the waits of streams
        self.failures: dict[str, list[Code]] = {}

    def call(self, name: str) -> Code:
        assert self.current, f"{name} without a current context"
        return self.failures[name].pop(0) if self.failures.get(name) else Code.CUDA_SUCCESS

    def launch(self, *launched: Any) -> None:
        self.launched.append(Launched(*launched))
        self.order.append("launch")


def pycuda_on(driver: Driver) -> dict[str, ModuleType]:
    module = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    def guarded(name: str) -> None:
        if code := driver.call(name):
            raise Error(f"{name} failed: {TEXTS[code]}")

    class Context:
        def __init__(self, ordinal: int) -> None:
            self.ordinal, self.detached = ordinal, False

        def push(self) -> None:
            driver.current.append(self.ordinal)

        @staticmethod
        def pop() -> None:
            driver.current.pop()

        def detach(self) -> None:
            self.detached = True

    class Device:
        def __init__(self, ordinal: int) -> None:
            assert module.initialised
            self.ordinal = ordinal

        def retain_primary_context(self) -> Context:
            module.contexts.append(Context(self.ordinal))
            return module.contexts[-1]

    class Stream:
        def __init__(self, flags: int) -> None:
            guarded("cuStreamCreate")
            module.streams.append(self)
            self.flags, self.handle = flags, 0x5000 + len(module.streams)

    class Function:
        def __init__(self, name: str) -> None:
            self.name = name

        def prepare(self, arg_types: str) -> Function:
            self.arg_format = arg_types
            return self

        def prepared_async_call(self, grid: Any, block: Any, stream: Any, *args: Any, shared_size: int = 0) -> None:
            if not (stream is None or isinstance(stream, Stream)):
                raise TypeError("No registered converter was able to extract a C++ reference to type pycuda::stream")
            packed = struct.pack(self.arg_format, *args)
            guarded("cuLaunchKernel")
            handle = stream.handle if stream else 0
            driver.launch(driver.current[-1], self.name, grid, block, shared_size, handle, packed)

        def set_attribute(self, attribute: str, value: int) -> None:
            guarded("cuFuncSetAttribute")
            driver.attributes.append((self.name, value, driver.current[-1]))

    class Module:
        def get_function(self, name: str) -> Function:
            guarded("cuModuleGetFunction")
            return Function(name)

    def module_from_buffer(buffer: bytes) -> Module:
        driver.loaded.append((driver.current[-1], buffer))
        guarded("cuModuleLoadDataEx")
        return Module()

    def init() -> None:
        module.initialised = True

    module.__dict__.update(
        initialised=False,
        contexts=[],
        streams=[],
        init=init,
        get_driver_version=lambda: 12080,
        function_attribute=SimpleNamespace(MAX_DYNAMIC_SHARED_SIZE_BYTES="max dynamic shared"),
        **{each.__name__: each for each in (Error, Device, Stream, module_from_buffer)},
    )
    package = ModuleType("pycuda")
    package.VERSION_TEXT = "2026.1"
    return {"pycuda": package, "pycuda.driver": module}


def cuda_core_on(driver: Driver) -> dict[str, ModuleType]:
    core, bindings = ModuleType("cuda.core"), ModuleType("cuda.bindings.driver")

    class CUDAError(Exception):
        pass

    def guarded(name: str) -> None:
        if code := driver.call(name):
            raise CUDAError(f"{code.name}: {TEXTS[code]}")

    class Device:
        def __init__(self, ordinal: int) -> None:
            self.ordinal = ordinal

        def set_current(self) -> None:
            driver.current[-1:] = [self.ordinal]

    class ObjectCode:
        def __init__(self, data: bytes, kind: str) -> None:
            self.data, self.kind = data, kind

        @classmethod
        def from_ptx(cls, data: bytes) -> ObjectCode:
            return cls(data, "ptx")

        @classmethod
        def from_cubin(cls, data: bytes) -> ObjectCode:
            return cls(data, "cubin")

        def get_kernel(self, name: str) -> Any:
            if self.kind:  # loading is put off until here
                assert self.kind == ("cubin" if self.data == CUBIN.data else "ptx")
                driver.loaded.append((driver.current[-1], self.data))
                guarded("cuModuleLoadDataEx")
                self.kind = ""
            guarded("cuModuleGetFunction")
            return SimpleNamespace(handle=name)

    def to_bytes(argument: Any) -> bytes:
        if isinstance(argument, int):
            return struct.pack("q", argument)
        if isinstance(argument, ctypes.c_int32 | ctypes.c_int64 | ctypes.c_float):
            return bytes(argument)
        raise TypeError(f"the argument is of unsupported type: {type(argument)}")

    def launch(stream: Any, config: Any, kernel: Any, *kernel_args: Any) -> None:
        version, handle = stream.__cuda_stream__()
        assert version == 0
        arguments = [to_bytes(each) for each in kernel_args]
        guarded("cuLaunchKernel")
        block = (config.block, 1, 1)
        driver.launch(driver.current[-1], kernel.handle, config.grid, block, config.shmem_size, handle, arguments)

    def get_function(kernel: str) -> tuple[Code, str]:
        return driver.call("cuKernelGetFunction"), kernel

    def set_attribute(attribute: str, value: int, kernel: str, ordinal: int) -> tuple[Code]:
        code = driver.call("cuFuncSetAttribute")
        if not code:
            driver.attributes.append((kernel, value, ordinal))
        return (code,)

    core.__dict__.update(
        __version__="1.2.2", Device=Device, ObjectCode=ObjectCode, LaunchConfig=SimpleNamespace, launch=launch
    )
    bindings.__dict__.update(
        CUresult=Code,
        CUfunction_attribute=SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="max dynamic shared"),
        cuDriverGetVersion=lambda: (Code.CUDA_SUCCESS, 12080),
        cuKernelGetFunction=get_function,
        cuKernelSetAttribute=set_attribute,
        cuGetErrorString=lambda code: (Code.CUDA_SUCCESS, TEXTS[code].encode()),
    )
    return {"cuda.core": core, "cuda.bindings.driver": bindings}


class Stream:
    """Of torch."""

    def __init__(self, driver: Driver, handle: int, device: torch.device) -> None:
        self.driver, self.cuda_stream, self.device = driver, handle, device

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.cuda_stream

    def wait_stream(self, other: Stream) -> None:
        self.driver.order.append(f"{self.cuda_stream:#x} waits for {other.cuda_stream:#x}")


class Tensor:
    def __init__(self, pointer: int, device: str = "cuda:0") -> None:
        self.pointer, self.device = pointer, torch.device(device)

    def data_ptr(self) -> int:
        return self.pointer


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """An imitated driver below torch, and no binding to it."""
    driver = Driver()
    driver.stream = 0

    @contextmanager
    def device(ordinal: int) -> Iterator[None]:
        previous = driver.current[-1] if driver.current else 0
        if ordinal != previous:
            driver.current[-1:] = [ordinal]
        try:
            yield
        finally:
            if ordinal != previous:
                driver.current[-1:] = [previous]

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(driver, driver.stream, device))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: Stream(driver, handle, device))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda ordinal: (9, ordinal))
    monkeypatch.setattr(torch.cuda, "device", device)
    driver.at_exit = []
    monkeypatch.setattr(launch.atexit, "register", driver.at_exit.append)
    driver.compiled = []
    monkeypatch.setattr(images, "load", lambda *asked: driver.compiled.append(asked) or PTX)
    monkeypatch.setattr(images, "shipped_cubin", lambda *asked: None)
    monkeypatch.setattr(images, "recompile_with_nvrtc", lambda *asked: driver.compiled.append(asked) or CUBIN)
    for name in ("pycuda", "pycuda.driver", "cuda.core", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(launch, "_find", launch.cache(launch._find.__wrapped__))
    return driver


@pytest.fixture
def pycuda(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name, module in pycuda_on(driver).items():
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["pycuda.driver"]


@pytest.fixture
def cuda_core(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name, module in cuda_core_on(driver).items():
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["cuda.core"]


@pytest.fixture(params=["pycuda", "cuda_core"])
def either(request: pytest.FixtureRequest) -> str:
    """Run a test with both bindings."""
    request.getfixturevalue(request.param)
    return request.param


def run(kernel: str = "argmax_f32", *, shared_bytes: int = 0, arguments: Any = None, source: str = "argmax") -> None:
    arguments = [Tensor(0x10)] if arguments is None else arguments
    launch.launcher().launch(source, kernel, (517, 2, 1), 128, shared_bytes, arguments)


def test_a_launch_reaches_the_driver_as_asked(driver, either):
    arguments = [Tensor(0x1122334455667788), ctypes.c_int32(-7), None, ctypes.c_float(1.5), ctypes.c_int64(1 << 40)]
    run(arguments=[*arguments, Tensor(0x99), ctypes.c_int32(5)], shared_bytes=33000)
    (launched,) = driver.launched
    assert launched[:6] == (0, "argmax_f32", (517, 2, 1), (128, 1, 1), 33000, 0)
    parts = ["8877665544332211", "f9ffffff", "0000000000000000", "0000c03f", "0000000000010000", "9900000000000000"]
    parts.append("05000000")
    if either == "pycuda":  # one buffer, each argument at a multiple of its size
        padding = "00000000"
        assert launched.arguments.hex() == "".join([*parts[:2], padding, *parts[2:4], padding, *parts[4:]])
    else:
        assert [each.hex() for each in launched.arguments] == parts
    assert driver.current == [0]


def test_the_device_is_that_of_the_tensors(driver, either):
    run(arguments=[None, Tensor(1, "cuda:1"), Tensor(2, "cuda:1")])
    assert driver.launched[0].device == 1
    assert driver.compiled == [("argmax", 91)]
    assert driver.current == [0]


def test_a_thread_needs_no_context_of_its_own(driver, either):
    driver.current.clear()
    run()
    assert driver.launched[0].device == 0


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ([Tensor(1), Tensor(2, "cuda:1")], "cuda:0, cuda:1"),
        ([Tensor(1), Tensor(2, "cpu")], "cpu, cuda:0"),
        ([Tensor(1, "cpu")], "cpu"),
        ([None, ctypes.c_int32(1)], "none"),
    ],
)
def test_tensors_elsewhere_are_refused(driver, either, arguments, got):
    with pytest.raises(KernelError, match=rf"^kernel argmax_f32, .*: tensors must .* got {got}$"):
        run(arguments=arguments)
    assert driver.launched == []


def test_cuda_core_launches_on_any_stream(driver, cuda_core):
    for driver.stream in (0, 0x77):
        run()
    assert [each.stream for each in driver.launched] == [0, 0x77]
    assert driver.order == ["launch", "launch"]


def test_pycuda_launches_on_the_default_stream_itself(driver, pycuda):
    run()
    assert driver.launched[0].stream == 0
    assert driver.order == ["launch"]
    assert pycuda.streams == []


def test_pycuda_launches_beside_another_stream_in_its_order(driver, pycuda):
    for driver.stream in (0x77, 0x88, 0x77):
        run()
    assert [each.stream for each in driver.launched] == [0x5001, 0x5002, 0x5001]
    assert driver.order[:3] == ["0x5001 waits for 0x77", "launch", "0x77 waits for 0x5001"]
    assert [each.flags for each in pycuda.streams] == [1, 1]


def test_a_stream_is_joined_after_a_failure_too(driver, pycuda):
    driver.stream, driver.failures = 0x77, {"cuLaunchKernel": [Code.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES]}
    with pytest.raises(KernelError):
        run()
    assert driver.order == ["0x5001 waits for 0x77", "0x77 waits for 0x5001"]


def test_pycuda_contexts_are_given_back_at_exit(driver, pycuda):
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        run(arguments=[Tensor(1, device)])
    assert [each.ordinal for each in pycuda.contexts] == [0, 1]
    for each in driver.at_exit:
        each()
    assert all(each.detached for each in pycuda.contexts)


def test_the_driver_compiles_the_kernel_that_is_launched_and_no_other(driver, either, monkeypatch):
    """A source has up to twenty kernels, and a process launches two or three of them."""
    entries = b"".join(b".visible .entry %s()\n{\n}\n" % name for name in (b"argmax_f32", b"argmax_f16"))
    monkeypatch.setattr(images, "load", lambda *_: PTX._replace(data=PTX.data + entries))
    run("argmax_f16")
    assert driver.loaded == [(0, PTX.data + b".visible .entry argmax_f16()\n{\n}\n")]


def test_a_kernel_is_loaded_once_per_device(driver, either):
    for device in ("cuda:0", "cuda:1"):
        for kernel in ("argmax_f32", "argmax_f16", "argmax_f32"):
            run(kernel, arguments=[Tensor(1, device)])
    assert driver.compiled == [("argmax", 90), ("argmax", 91)]
    assert driver.loaded == [(0, PTX.data), (0, PTX.data), (1, PTX.data), (1, PTX.data)]
    assert [each.kernel for each in driver.launched] == ["argmax_f32", "argmax_f16", "argmax_f32"] * 2


def test_threads_share_one_launcher_and_one_load(driver, either, monkeypatch):
    def slow(function: Callable[..., Any]) -> Callable[..., Any]:
        def slowly(*arguments: Any) -> Any:
            time.sleep(0.05)
            return function(*arguments)

        return slowly

    monkeypatch.setattr(images, "load", slow(images.load))
    monkeypatch.setattr(launch.importlib, "import_module", slow(launch.importlib.import_module))
    start, launchers = threading.Barrier(4), []

    def work() -> None:
        start.wait()
        launchers.append(launch.launcher())
        run()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set(map(id, launchers))) == 1
    assert len(driver.compiled) == len(driver.loaded) == 1
    assert len(driver.launched) == 4


def test_shared_memory_is_allowed_once_for_each_larger_need(driver, either):
    for shared_bytes in (0, 66000, 66000, 33000, 99000):
        run(shared_bytes=shared_bytes)
    assert driver.attributes == [("argmax_f32", 66000, 0), ("argmax_f32", 99000, 0)]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("cuModuleLoadDataEx", Code.CUDA_ERROR_NO_BINARY_FOR_GPU),
        ("cuModuleGetFunction", Code.CUDA_ERROR_NOT_FOUND),
        ("cuFuncSetAttribute", Code.CUDA_ERROR_INVALID_VALUE),
        ("cuLaunchKernel", Code.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
    ],
)
def test_every_driver_error_names_the_kernel_and_its_launch(driver, either, call, code):
    driver.failures = {call: [code]}
    with pytest.raises(KernelError) as caught:
        run(shared_bytes=230000)
    start, _, told = str(caught.value).partition(": ")
    assert start == "kernel argmax_f32, grid (517, 2, 1), block 128, 230000 bytes shared"
    assert TEXTS[code] in told
    assert driver.current == [0]
    run(shared_bytes=230000)  # nothing half done was kept
    assert len(driver.launched) == 1


def test_an_error_of_torchs_streams_names_the_kernel_too(driver, pycuda, monkeypatch):
    def fail(stream: Stream, other: Stream) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    driver.stream = 0x77
    monkeypatch.setattr(Stream, "wait_stream", fail)
    with pytest.raises(KernelError, match=r"^kernel argmax_f32, .*: CUDA error: an illegal .* encountered CUDA"):
        run()


def test_a_failure_to_compile_is_left_as_it_is(driver, either, monkeypatch):
    def fail(*asked: Any) -> Image:
        raise BackendUnavailable("no compiler")

    monkeypatch.setattr(images, "load", fail)
    with pytest.raises(BackendUnavailable, match=r"^no compiler$"):
        run()
    assert driver.current == [0]


def test_machine_code_of_the_wheel_is_loaded_and_no_ptx_is_asked_for(driver, either, monkeypatch):
    asked = []
    monkeypatch.setattr(images, "shipped_cubin", lambda *what: asked.append(what) or SHIPPED)
    run()
    run("argmax_f16")
    assert asked == [("argmax", 90, "12.8")]
    assert driver.loaded == [(0, CUBIN.data), (0, CUBIN.data)]
    assert driver.compiled == []


def test_machine_code_that_the_driver_refuses_gives_way_to_ptx(driver, either, monkeypatch):
    monkeypatch.setattr(images, "shipped_cubin", lambda *_: SHIPPED)
    driver.failures = {"cuModuleLoadDataEx": [Code.CUDA_ERROR_NO_BINARY_FOR_GPU]}
    with pytest.warns(UserWarning, match="argmax_f32: the driver compiles it, .*no kernel image"):
        run()
    run("argmax_f16")
    assert driver.loaded == [(0, CUBIN.data), (0, PTX.data), (0, PTX.data)]
    assert driver.compiled == [("argmax", 90)]
    assert len(driver.launched) == 2


def test_machine_code_of_a_later_kernel_may_be_refused_too(driver, either, monkeypatch):
    monkeypatch.setattr(images, "shipped_cubin", lambda *_: SHIPPED)
    run()
    driver.failures = {"cuModuleLoadDataEx": [Code.CUDA_ERROR_NO_BINARY_FOR_GPU]}
    with pytest.warns(UserWarning, match="argmax_f16: the driver compiles it, .*no kernel image"):
        run("argmax_f16")
    run("argmax_bf16")
    assert driver.loaded == [(0, CUBIN.data), (0, CUBIN.data), (0, PTX.data), (0, PTX.data)]
    assert len(driver.launched) == 3


def test_ptx_newer_than_the_driver_is_compiled_again(driver, either):
    driver.failures = {"cuModuleLoadDataEx": [Code.CUDA_ERROR_UNSUPPORTED_PTX_VERSION]}
    run()
    run("argmax_f16")
    assert driver.compiled == [("argmax", 90), ("argmax", 90)], "once: the second kernel is in the same machine code"
    assert driver.loaded == [(0, PTX.data), (0, CUBIN.data), (0, CUBIN.data)]
    assert len(driver.launched) == 2


def test_cuda_core_finds_out_about_new_ptx_before_the_launch(driver, cuda_core):
    driver.failures = {"cuKernelGetFunction": [Code.CUDA_ERROR_UNSUPPORTED_PTX_VERSION]}
    run()
    assert driver.loaded == [(0, PTX.data), (0, CUBIN.data)]


def test_ptx_newer_than_the_driver_without_nvrtc_says_what_to_do(driver, either, monkeypatch):
    def fail(*asked: Any) -> Image:
        raise BackendUnavailable("NVRTC is not installed")

    monkeypatch.setattr(images, "recompile_with_nvrtc", fail)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    driver.failures = {"cuModuleLoadDataEx": [Code.CUDA_ERROR_UNSUPPORTED_PTX_VERSION]}
    for _ in range(2):
        with pytest.raises(KernelsUnavailable) as caught:
            run()
        assert str(caught.value) == (
            "kernel argmax_f32: the driver (for CUDA 12.8) is older than the kernel's PTX (ISA 9.0, shipped), and NVRTC"
            " did not help (NVRTC is not installed); update the driver, or install the NVRTC of torch's CUDA, 12.8"
        )
    assert len(driver.loaded) == 1, "the second launch found out again"


def test_an_image_refused_twice_says_why_the_second_was(driver, either):
    driver.failures = {
        "cuModuleLoadDataEx": [Code.CUDA_ERROR_UNSUPPORTED_PTX_VERSION, Code.CUDA_ERROR_NO_BINARY_FOR_GPU]
    }
    with pytest.raises(KernelsUnavailable, match=r"older than .*\(.*no kernel image is available.*\); update"):
        run()
    assert len(driver.loaded) == 2


def test_cuda_core_is_preferred(driver, pycuda, cuda_core):
    assert launch.describe() == (True, "cuda.core 1.2.2 on a driver for CUDA 12.8")
    run()
    assert (len(driver.launched), pycuda.contexts) == (1, [])


def test_pycuda_is_used_without_cuda_core(driver, pycuda):
    assert launch.describe() == (True, "PyCUDA 2026.1 on a driver for CUDA 12.8")
    run()
    assert pycuda.contexts


@pytest.mark.slow
def test_importing_the_module_imports_neither():
    script = "import sys, msformer_deploy.kernels.launch; sys.exit('pycuda' in sys.modules or 'cuda' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_describing_touches_no_device(driver, pycuda):
    launch.describe()
    assert not pycuda.initialised


def test_without_either_the_reasons_are_told_and_remembered(driver, pycuda, monkeypatch):
    tries = []

    def without_driver() -> None:
        tries.append(1)
        raise OSError("libcuda.so.1: cannot open shared object file:\nNo such file or directory")

    monkeypatch.setattr(pycuda, "get_driver_version", without_driver)
    works, detail = launch.describe()
    assert not works
    assert detail == (
        "cuda.core: import of cuda.core halted; None in sys.modules;"
        " PyCUDA: libcuda.so.1: cannot open shared object file: No such file or directory"
    )
    for _ in range(2):
        with pytest.raises(KernelsUnavailable) as caught:
            launch.launcher()
        assert str(caught.value) == (
            f'CUDA kernels need cuda.core or PyCUDA ({detail}): pip install "msformer-deploy[cuda]"'
        )
        assert caught.value.exit_code == 4
    assert len(tries) == 1


# For real: data[i] = data[i] * factor + i + bias, by way of shared memory at byte ``place``. ``unused`` is null.
AFFINE = Image(
    b"""
.version 6.3
.target sm_75
.address_size 64
.extern .shared .align 4 .b8 scratch[];
.visible .entry affine(.param .u64 data, .param .f32 factor, .param .s32 count, .param .u64 unused, .param .s64 bias,
                       .param .s32 place)
{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    ld.param.s32 %r5, [count];
    ld.param.u64 %rd3, [unused];
    setp.ge.s32 %p0, %r4, %r5;
    setp.ne.or.u64 %p0, %rd3, 0, %p0;
    @%p0 bra done;
    ld.param.u64 %rd1, [data];
    mul.wide.s32 %rd2, %r4, 4;
    add.s64 %rd1, %rd1, %rd2;
    ld.global.f32 %f1, [%rd1];
    ld.param.s32 %r6, [place];
    mad.lo.s32 %r6, %r3, 4, %r6;
    mov.u32 %r7, scratch;
    add.s32 %r6, %r6, %r7;
    st.shared.f32 [%r6], %f1;
    ld.shared.f32 %f1, [%r6];
    ld.param.f32 %f2, [factor];
    ld.param.s64 %rd2, [bias];
    cvt.s64.s32 %rd3, %r4;
    add.s64 %rd2, %rd2, %rd3;
    cvt.rn.f32.s64 %f3, %rd2;
    fma.rn.f32 %f1, %f1, %f2, %f3;
    st.global.f32 [%rd1], %f1;
done:
    ret;
}
""",
    "ptx",
    75,
    "test",
    "6.3",
)


@pytest.fixture(params=[launch._PyCuda, launch._CudaCore])
def real(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    try:
        binding = request.param()
    except ImportError as error:  # one of the two is enough, and test_gpu.py fails without either
        pytest.skip(f"{request.param.name}: {error}")
    monkeypatch.setattr(images, "load", lambda *asked: AFFINE)

    def affine(data: torch.Tensor) -> None:
        """Launch on ``data`` in place, with more shared memory than the default limit."""
        shared_bytes = 60000
        place = ctypes.c_int32(shared_bytes - 4 * 128)
        count = ctypes.c_int32(data.numel())
        arguments = [data, ctypes.c_float(0.5), count, None, ctypes.c_int64(1 << 20), place]
        binding.launch("affine", "affine", (-(-data.numel() // 128), 1, 1), 128, shared_bytes, arguments)

    return affine


def expected(data: torch.Tensor) -> torch.Tensor:
    return data * 0.5 + (torch.arange(data.numel(), device=data.device) + (1 << 20))


@pytest.mark.gpu
def test_a_real_kernel_computes_on_the_default_stream(real):
    data = torch.randn(1000, device="cuda")
    before = data.clone()
    real(data)
    torch.testing.assert_close(data, expected(before))


@pytest.mark.gpu
def test_a_real_kernel_keeps_its_place_in_another_stream(real):
    data = torch.zeros(1000, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        torch.cuda._sleep(100_000_000)
        data.fill_(3)
        real(data)
        doubled = data * 2
    torch.cuda.synchronize()
    torch.testing.assert_close(doubled, 2 * expected(torch.full_like(data, 3)))


@pytest.mark.gpu
def test_a_real_kernel_is_captured_into_a_graph(real):
    data = torch.zeros(1000, device="cuda")
    real(data)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        data.mul_(2)
        real(data)
        data.add_(1)
    data.fill_(3)
    for _ in range(2):
        graph.replay()
    torch.testing.assert_close(data, expected(2 * (expected(torch.full_like(data, 6)) + 1)) + 1)


@pytest.mark.gpu
def test_a_real_error_is_told(real):
    with pytest.raises(KernelError, match=r"^kernel affine, grid "):
        real(torch.zeros(0, device="cuda"))  # an empty grid
