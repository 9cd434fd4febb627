"""The order in which the backend does things, and what it refuses: torch on the CPU poses as the device.

TensorRT is :mod:`trt_surface`, which computes with ONNX Runtime. No engine was opened on a GPU for these tests.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trt_surface
from bundles import relisted

from msformer_deploy.backends import open_backend
from msformer_deploy.backends import tensorrt as backend
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.tensorrt import TensorRTBackend
from msformer_deploy.bundle import engines, sidecar
from msformer_deploy.bundle.engines import rtx_supports
from msformer_deploy.bundle.folder import Bundle, load_bundle
from msformer_deploy.bundle.sidecar import EngineOptions
from msformer_deploy.errors import BackendUnavailable, BundleError, DeployError, UsageError
from msformer_deploy.export.tensorrt import build_engine
from msformer_deploy.kernels import compile
from msformer_deploy.machine.driver import Driver, Gpu
from msformer_deploy.machine.trt_flavour import Flavour

GPU = Gpu("NVIDIA A10", "8.6")
CUDA = Device("cuda", 1)
OPTIONS = EngineOptions((1, 1, 3), plugins="never")
FLAVOURS = {"tensorrt": ("tensorrt", "10.13.3.9"), "rtx": ("tensorrt_rtx", "1.7.1.116")}


class PosedCuda(backend.Cuda):
    """Host memory as a device's: given again once it is free, as torch's allocator does; what is done is noted."""

    def __init__(self, api: Any, device: Device) -> None:
        self.api, self.gpu, self.device = api, GPU, torch.device("cuda", device.ordinal)
        self._blocks: list[tuple[np.ndarray, Callable[[], Any]]] = []

    stream = 7

    @contextmanager
    def selected(self) -> Iterator[None]:
        self.api.events.append("selected")
        yield

    @contextmanager
    def in_order(self) -> Iterator[None]:
        self.api.events.append("wait for the caller")
        yield
        self.api.events.append("the caller waits")

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        free = (index for index, (block, user) in enumerate(self._blocks) if len(block) == size and user() is None)
        index = next(free, len(self._blocks))
        if index == len(self._blocks):
            self._blocks.append((np.empty(size, np.uint8), lambda: None))
        given = self._blocks[index][0][:]
        given[:] = 255
        self._blocks[index] = self._blocks[index][0], weakref.ref(given)
        return torch.from_numpy(given).view(dtype).view(shape)

    @property
    def used(self) -> int:
        """Blocks that someone holds."""
        gc.collect()
        return sum(user() is not None for _, user in self._blocks)

    def upload(self, images: np.ndarray, target: torch.Tensor) -> None:
        self.api.events.append("upload")
        target.copy_(torch.from_numpy(images))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.api.events.append("capture")
        self.api.recording = recorded = []
        work()
        self.api.recording = None

        def replay() -> None:
            self.api.events.append("replay")
            for each in recorded:
                each()

        return replay

    def finish(self) -> None:
        self.api.events.append("finish")


class Setting:
    """A bundle with an engine, and the API that built and opens it."""

    def __init__(self, api: Any, flavour: Flavour, bundle: Path) -> None:
        self.api, self.flavour, self.path = api, flavour, bundle

    def build(self, graph: Any = "encoder", options: EngineOptions = OPTIONS) -> sidecar.Record:
        gpu = GPU if self.flavour.name == "tensorrt" else None
        record = build_engine(self.path, graph, "fp32", self.flavour, options, gpu=gpu)
        relisted(self.path)
        self.api.events.clear()
        self.api.contexts.clear()
        return record

    @property
    def bundle(self) -> Bundle:
        return load_bundle(self.path)

    def open(self, graph: Any = "encoder", device: Device = CUDA) -> TensorRTBackend:
        return TensorRTBackend(self.bundle, device, None, graph, "fp32")


@pytest.fixture
def setting(request, bundle_copy, tmp_path, monkeypatch) -> Setting:
    name = getattr(request, "param", "tensorrt")
    package, version = FLAVOURS[name]
    api = trt_surface.make(package, version)
    flavour = Flavour(name, api)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compile, "load_for_driver", lambda *_: None)  # takes seconds
    monkeypatch.setattr(backend, "find_all", lambda: (flavour,))
    monkeypatch.setattr(backend, "Cuda", lambda device: PosedCuda(api, device))
    return Setting(api, flavour, bundle_copy)


both = pytest.mark.parametrize("setting", FLAVOURS, indirect=True)


def images(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, 3, 33, 33), dtype=np.float32)


@both
def test_the_encoder_gives_what_onnx_runtime_gives(setting):
    setting.build()
    with setting.open() as opened, open_backend("onnxruntime", setting.bundle, Device("cpu")) as reference:
        for batch in (1, 3, 1, 2, 1, 1, 3, 3):
            given = images(batch, seed=batch)
            for got, expected in zip(opened.encode(given), reference.encode(given), strict=True):
                assert isinstance(got, torch.Tensor)
                np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


@both
def test_the_whole_method_gives_what_onnx_runtime_gives(setting):
    setting.build("segmenter")
    given = images(2)
    with (
        setting.open("segmenter") as opened,
        open_backend("onnxruntime", setting.bundle, Device("cpu"), graph="segmenter") as reference,
    ):
        expected = reference.segment(given)
        for _ in range(4):
            got = opened.segment(given)
            for ours, theirs in zip(got, expected, strict=True):
                assert isinstance(ours, np.ndarray)
                assert ours.dtype == theirs.dtype
                if ours.dtype == np.float32:  # the probability; what stands in for TensorRT sums in another order
                    np.testing.assert_allclose(ours, theirs, atol=1e-5)
                else:
                    assert np.array_equal(ours, theirs)


def test_labels_over_256_clusters_are_uint16(setting, monkeypatch):
    setting.build("segmenter")
    bundle = setting.bundle
    object.__setattr__(bundle.sizes, "clusters", 257)
    with TensorRTBackend(bundle, CUDA, None, "segmenter", "fp32") as opened:
        assert opened.segment(images(1)).label_map.dtype == np.uint16


@pytest.mark.parametrize(
    ("setting", "provider"),
    [
        ("tensorrt", "TensorRT 10.13.3.9 on NVIDIA A10 (cuda:1)"),
        ("rtx", "TensorRT-RTX 1.7.1.116 on NVIDIA A10 (cuda:1)"),
    ],
    indirect=["setting"],
)
def test_the_provider(setting, provider):
    setting.build()
    with open_backend("tensorrt", setting.bundle, CUDA) as opened:
        assert (opened.name, opened.graph, opened.precision, opened.provider) == (
            "tensorrt",
            "encoder",
            "fp32",
            provider,
        )


def test_full_tensorrt_runs_captures_and_replays(setting):
    setting.build()
    with setting.open() as opened:
        assert setting.api.events == ["selected", "deserialize"]
        for work in (["execute"], ["execute", "capture"], ["replay"], ["replay"]):
            setting.api.events.clear()
            opened.encode(images(1))
            assert setting.api.events == ["wait for the caller", "upload", *work, "the caller waits"]


@pytest.mark.parametrize("setting", ["rtx"], indirect=True)
def test_tensorrt_rtx_captures_itself(setting):
    setting.build()
    with setting.open() as opened:
        for _ in range(3):
            setting.api.events.clear()
            opened.encode(images(1))
            assert setting.api.events == ["wait for the caller", "upload", "execute", "the caller waits"]
        (context,) = setting.api.contexts
        assert context._how.cuda_graph_strategy is setting.api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        eager = setting.api.DynamicShapesKernelSpecializationStrategy.EAGER
        assert context._how.dynamic_shapes_kernel_specialization_strategy is eager


def test_graphs_have_contexts_of_their_own_that_share_memory(setting):
    setting.build()
    with setting.open() as opened:
        for batch in (1, 2, 1, 2, 1, 2, 1):
            opened.encode(images(batch))
        assert setting.api.events.count("capture") == 2
        assert setting.api.events.count("replay") == 3
        assert len(setting.api.contexts) == 3
        assert len({each._memory for each in setting.api.contexts}) == 1
        assert {each._how.name for each in setting.api.contexts} == {"USER_MANAGED"}


@both
def test_earlier_results_stay_as_they_are(setting):
    setting.build()
    with setting.open() as opened:
        kept = [opened.encode(images(1, seed=seed)) for seed in range(4)]
        views = [each.features[0, :2] for each in kept]
        copies = [each.clone() for each in views]
        pointers = {each.features.data_ptr() for each in kept}
        assert len(pointers) == 4
        del kept
        for seed in range(9):
            opened.encode(images(1, seed=seed))
        for view, copy in zip(views, copies, strict=True):
            assert torch.equal(view, copy)


@both
def test_threads_may_share_a_backend(setting, monkeypatch):
    """They share the image's memory: what one uploaded is computed before the next uploads."""
    setting.build()
    given = [images(1, seed=seed) for seed in range(6)]
    upload = PosedCuda.upload

    def slow(*arguments: Any) -> None:
        upload(*arguments)
        time.sleep(0.01)

    with setting.open() as opened:
        alone = [opened.encode(each).features.clone() for each in given]
        monkeypatch.setattr(PosedCuda, "upload", slow)
        with ThreadPoolExecutor(3) as pool:
            beside = list(pool.map(lambda image: opened.encode(image).features, given))
        assert all(map(torch.equal, alone, beside))


def test_results_that_are_dropped_cost_no_memory(setting):
    setting.build()
    with setting.open() as opened:
        opened.encode(images(1))
        held = opened._cuda.used
        assert held == 2  # scratch and one image
        for _ in range(5):
            opened.encode(images(1))
        assert opened._cuda.used == held
        assert len(opened._cuda._blocks) == held + 3


@both
def test_closing_frees_everything(setting):
    setting.build()
    opened = setting.open()
    for _ in range(3):
        opened.encode(images(1))
    contexts = [weakref.ref(each) for each in setting.api.contexts]
    engine = weakref.ref(setting.api.contexts[0]._engine)
    setting.api.contexts.clear()
    setting.api.events.clear()
    opened.close()
    assert setting.api.events == ["finish"]
    assert opened._cuda.used == 0
    assert [each() for each in (*contexts, engine)] == [None] * (len(contexts) + 1)
    opened.close()


@both
def test_fewer_images_than_the_least_batch_are_filled_up(setting):
    """The last images of a folder may be fewer than the others."""
    setting.build(options=EngineOptions((2, 2, 3), plugins="never"))
    image = images(1)
    with setting.open() as opened:
        both_of_them, alone = opened.encode(np.repeat(image, 2, axis=0)), opened.encode(image)
        for filled, one in zip(both_of_them, alone, strict=True):
            assert len(one) == 1
            np.testing.assert_array_equal(one[0], filled[0])


@both
@pytest.mark.parametrize(("options", "batch", "allowed"), [(OPTIONS, 4, "1 to 3"), (OPTIONS, 0, "1 to 3")])
def test_batches_that_the_engine_does_not_take(setting, options, batch, allowed):
    setting.build(options=EngineOptions(options.batch, plugins="never"))
    with setting.open() as opened:
        setting.api.events.clear()
        with pytest.raises(
            UsageError, match=rf"a batch of {batch} images .* takes {allowed}; .*--batch.*--trt-batch"
        ) as error:
            opened.encode(images(batch))
        assert "\n" not in str(error.value)
        assert setting.api.events == []


@both
def test_a_damaged_engine_is_never_deserialised(setting):
    record = setting.build()
    file = setting.path / record.folder / "model.engine"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="damaged"):
        setting.open()
    assert setting.api.events == []


def test_an_engine_for_another_gpu_is_never_deserialised(setting, monkeypatch):
    setting.build()
    monkeypatch.setattr(setting.api, "__version__", "10.13.4.1")
    with pytest.raises(BackendUnavailable, match=r"was built by tensorrt 10.13.3.9, this machine has 10.13.4.1"):
        setting.open()
    assert setting.api.events == []


def test_what_is_deserialised_are_the_bytes_that_were_checked(setting, monkeypatch):
    record = setting.build()
    file = setting.path / record.folder / "model.engine"
    data, select = file.read_bytes(), engines.select

    def swap(*arguments: Any) -> Any:
        chosen = select(*arguments)
        file.write_bytes(b"swapped after the check")
        return chosen

    monkeypatch.setattr(engines, "select", swap)
    with setting.open() as opened:
        opened.encode(images(1))
    assert data != file.read_bytes()


def test_an_engine_that_tensorrt_does_not_open(setting, monkeypatch):
    setting.build()
    monkeypatch.setattr(setting.api, "opens", False)
    with pytest.raises(BackendUnavailable) as error:
        setting.open()
    (line,) = str(error.value).splitlines()
    assert (
        "model.engine: TensorRT 10.13.3.9 does not open it: IRuntime::deserializeCudaEngine: Error Code 2: out of"
        in line
    )
    assert "; build it again here: msformer-deploy export" in line


def test_host_code_in_an_engine_is_not_allowed(setting, monkeypatch):
    """An engine with a lean runtime in it of which its sidecar knows nothing."""
    api = setting.api
    monkeypatch.setattr(
        api.IBuilderConfig, "set_flag", lambda self, flag: self._flags.add(api.BuilderFlag.VERSION_COMPATIBLE)
    )
    setting.build(options=EngineOptions(refit=True, plugins="never"))
    with pytest.raises(BackendUnavailable, match="holds host code, which is not allowed"):
        setting.open()


def test_host_code_of_a_version_compatible_engine_is_allowed(setting):
    """It is the lean runtime, and the sidecar says that it is there."""
    record = setting.build(options=EngineOptions(version_compatible=True))
    assert record.kernels == "inlined: later versions of TensorRT run the engine"
    assert record.precisions_of == "engine"
    with setting.open() as opened:
        assert len(opened.encode(images(1)).features) == 1


def test_a_named_engine_is_opened_or_none(setting):
    made = setting.build()
    other = replace(made, compute_capabilities=("8.6", "8.9"))
    (setting.path / made.folder).rename(setting.path / other.folder)
    sidecar.write_record(setting.path / other.folder, other)
    setting.build(options=replace(OPTIONS, batch=(1, 1, 2)))
    for record in (made, other):
        with TensorRTBackend(setting.bundle, CUDA, None, "encoder", "fp32", record.folder) as opened:
            assert opened.max_batch == (2 if record is made else 3)
    setting.api.events.clear()
    with pytest.raises(BackendUnavailable, match=r"engines/another: has no TensorRT engine"):
        TensorRTBackend(setting.bundle, CUDA, None, "encoder", "fp32", "engines/another")
    assert setting.api.events == []


def test_backends_that_take_any_number_of_images_say_so(tiny_bundle):
    with open_backend("onnxruntime", tiny_bundle, Device("cpu")) as opened:
        assert opened.max_batch is None


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [{"name": "image", "dtype": "FLOAT", "shape": [-1, 3, 65, 65]}]},
        {"inputs": [{"name": "picture", "dtype": "FLOAT", "shape": [-1, 3, 33, 33]}]},
        {"outputs": []},
    ],
)
def test_an_engine_of_other_tensors_than_its_sidecar_says(setting, changes):
    record = setting.build()
    sidecar.write_record(setting.path / record.folder, replace(record, **changes))
    relisted(setting.path)
    with pytest.raises(BundleError, match=r"model.engine: has .* its sidecar says .*; build it again: msformer-deploy"):
        setting.open()


def test_the_whole_methods_engine_is_no_encoder(setting):
    record = setting.build("segmenter")
    folder = setting.path / record.folder
    source = setting.bundle.manifest["files"]["encoder.onnx"]["sha256"]
    encoder = replace(record, graph="encoder", onnx_sha256=source)
    sidecar.write_record(folder, encoder)
    relisted(setting.path)
    with pytest.raises(BundleError, match="its sidecar says"):
        setting.open("encoder")


@both
@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("prepares", r"cannot prepare the engine to run: Error Code 2: OutOfMemory"),
        ("runs", r"fails to run the engine: Error Code 1: Cuda Runtime \(an illegal"),
    ],
)
def test_failures_of_tensorrt_are_one_line(setting, monkeypatch, failing, message):
    setting.build()
    monkeypatch.setattr(setting.api, failing, False)
    with pytest.raises(DeployError, match=rf"^TensorRT.* {message}") as error, setting.open() as opened:
        opened.encode(images(1))
    assert "\n" not in str(error.value)


def test_addresses_that_tensorrt_does_not_take(setting, monkeypatch):
    setting.build()
    monkeypatch.setattr(setting.api.IExecutionContext, "set_tensor_address", lambda *_: False)
    with setting.open() as opened, pytest.raises(DeployError, match="does not take the engine's inputs and outputs"):
        opened.encode(images(1))


# What can be missing, in the order in which a user can do something about it.


def test_the_cpu_is_refused(tiny_bundle):
    with pytest.raises(BackendUnavailable, match="runs on GPUs only, not on cpu; choose another --device"):
        open_backend("tensorrt", tiny_bundle, Device("cpu"))


@pytest.mark.parametrize("device", [Device("auto"), Device("cuda"), Device("cuda", 3)])
def test_no_tensorrt(tiny_bundle, monkeypatch, device):
    monkeypatch.setattr("msformer_deploy.machine.trt_flavour.installed", lambda: ())
    monkeypatch.setattr(backend, "find_driver", no_driver)
    with pytest.raises(BackendUnavailable, match="TensorRT is not installed; install"):
        open_backend("tensorrt", tiny_bundle, device)


def no_driver() -> Driver:
    raise BackendUnavailable("no NVIDIA driver")


@pytest.fixture
def machine(monkeypatch) -> Callable[..., None]:
    """A machine as driver and torch show it."""
    monkeypatch.setattr(backend, "find_all", lambda: (Flavour("tensorrt", trt_surface.make("tensorrt", "10.13.3.9")),))

    def show(driver: Any, cuda: str | None, available: bool, count: int) -> None:
        monkeypatch.setattr(backend, "find_driver", driver)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return show


def driver() -> Driver:
    return Driver((12, 8), (Gpu("NVIDIA A10", "8.6"), Gpu("NVIDIA A10", "8.6")))


@pytest.mark.parametrize("device", [Device("auto"), Device("cuda", 2)])
@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ((no_driver, None, False, 0), "no NVIDIA driver"),
        ((driver, None, False, 0), r"is a CPU build; install a torch built for CUDA 12$"),
        (
            (driver, "13.0", False, 0),
            r"torch .* for CUDA 13.0 cannot use this driver for CUDA 12.8, .*; update the driver",
        ),
    ],
)
def test_no_gpu_for_torch(machine, tiny_bundle, device, shown, message):
    machine(*shown)
    with pytest.raises(BackendUnavailable, match=message) as error:
        open_backend("tensorrt", tiny_bundle, device)
    assert "\n" not in str(error.value)


def test_no_such_gpu(machine, tiny_bundle):
    machine(driver, "12.8", True, 2)
    with pytest.raises(BackendUnavailable, match="cuda:2 was asked for, but torch sees 2 GPUs, cuda:0 to cuda:1"):
        open_backend("tensorrt", tiny_bundle, Device("cuda", 2))


@pytest.fixture
def streams(monkeypatch) -> list[tuple[str, ...]]:
    """What is done with streams, in order; torch's own, as far as :class:`.Cuda` orders them, is replaced."""
    done: list[tuple[str, ...]] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            done.append((self.name, "waits for", other.name))

        def synchronize(self) -> None:
            done.append((self.name, "is waited for"))

    @contextmanager
    def current(stream: Stream) -> Iterator[None]:
        done.append((stream.name, "is current"))
        yield
        done.append((stream.name, "was current"))

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream("ours"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream("the caller's"))
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A10")
    return done


def test_streams_wait_for_each_other(machine, streams):
    machine(driver, "12.8", True, 2)
    cuda = backend.Cuda(Device("cuda", 1))
    assert (cuda.gpu, cuda.device) == (GPU, torch.device("cuda", 1))
    with cuda.in_order():
        streams.append(("work",))
    cuda.finish()
    assert streams == [
        ("ours", "waits for", "the caller's"),
        ("ours", "is current"),
        ("work",),
        ("ours", "was current"),
        ("the caller's", "waits for", "ours"),
        ("ours", "is waited for"),
    ]


def test_auto_is_the_first_gpu(machine, streams):
    machine(driver, "12.8", True, 2)
    assert str(backend.Cuda(Device("auto")).device) == "cuda:0"


def test_a_capture_that_fails_is_one_line(machine, streams, monkeypatch):
    machine(driver, "12.8", True, 1)

    @contextmanager
    def captured(_: Any, stream: Any) -> Iterator[None]:
        assert stream.name == "ours"
        yield
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(backend, "captured", captured)
    message = r"captured in a CUDA graph \(operation not permitted when stream is capturing\)"
    with pytest.raises(DeployError, match=message):
        backend.Cuda(Device("auto")).capture(lambda: None)


def test_the_memory_of_the_gpu_is_full(monkeypatch):
    cuda = object.__new__(backend.Cuda)
    cuda.gpu, cuda.device = GPU, torch.device("cuda", 1)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(DeployError, match=r"^the memory of NVIDIA A10 \(cuda:1\) is full; pass a smaller --batch$"):
        cuda.empty((1,), torch.float32)


@pytest.mark.gpu
@pytest.mark.trt
def test_an_engine_on_a_gpu_gives_what_onnx_runtime_gives(bundle_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    device, cpu = Device("cuda"), Device("cpu")
    gpu, flavour = backend.Cuda(device).gpu, backend.find_all()[0]
    if flavour.name == "rtx" and not rtx_supports(gpu):
        pytest.skip(f"TensorRT-RTX does not run on {gpu.name}, and the full TensorRT is not here")
    for graph in ("encoder", "segmenter"):
        build_engine(bundle_copy, graph, "fp32", flavour, EngineOptions((1, 1, 3)), gpu=gpu)
    relisted(bundle_copy)
    bundle = load_bundle(bundle_copy)

    def check(got: Any, expected: Any) -> None:
        error = np.abs(got.features.cpu().numpy() - expected.features).max()
        assert error <= 1e-3 * np.abs(expected.features).max()

    with (
        TensorRTBackend(bundle, device, None, "encoder", "fp32") as opened,
        open_backend("onnxruntime", bundle, cpu) as reference,
    ):
        assert opened.provider == f"{flavour} on {gpu.name} (cuda:0)"
        given = [images(batch, seed) for seed, batch in enumerate((1, 2, 1, 1, 3))]
        kept = [opened.encode(each) for each in given]
        for got, each in zip(kept, given, strict=True):
            check(got, reference.encode(each))
        del kept, got
        for seed in range(5):  # in the same memory each time, so in the end by a CUDA graph
            check(opened.encode(images(1, seed)), reference.encode(images(1, seed)))
    with (
        TensorRTBackend(bundle, device, None, "segmenter", "fp32") as opened,
        open_backend("onnxruntime", bundle, cpu, graph="segmenter") as reference,
    ):
        expected = reference.segment(images(2))
        for _ in range(4):
            got = opened.segment(images(2))
            assert got.label_map.dtype == expected.label_map.dtype
            assert (got.label_map == expected.label_map).mean() > 0.99
            np.testing.assert_allclose(got.probability, expected.probability, atol=1e-2)
