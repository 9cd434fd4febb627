"""ONNX Runtime: really on the CPU; for GPUs a recorded surface of onnxruntime-gpu 1.31 stands in."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from msformer_deploy.backends import Segmented, open_backend
from msformer_deploy.backends import onnxruntime as module
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.graph_content import strips_pay
from msformer_deploy.backends.rewrites.strips import in_strips as rewritten
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.machine.driver import Driver, Gpu

CPU, GPU = Device("cpu"), Device("cuda", 1)
WHEEL = [module.TENSORRT, module.CUDA, module.CPU]


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((2, 3, 33, 33), dtype=np.float32)


def test_the_provider_is_read_back_from_the_session(tiny_bundle):
    with open_backend("onnxruntime", tiny_bundle, CPU) as backend:
        assert (backend.provider, backend.device) == (module.CPU, "cpu")


def test_outputs_are_taken_without_a_copy(tiny_bundle):
    import torch

    with open_backend("onnxruntime", tiny_bundle, CPU) as backend:
        for output in backend.encode(images(0)[:1]):
            assert not output.flags.owndata
            assert torch.as_tensor(output).data_ptr() == output.ctypes.data


def test_a_later_call_leaves_earlier_outputs_alone_and_they_outlive_the_session(tiny_bundle):
    with open_backend("onnxruntime", tiny_bundle, CPU) as backend:
        first = backend.encode(images(0))
        kept = [np.array(output) for output in first]
        for seed in range(1, 4):
            other = backend.encode(images(seed))
    assert not np.array_equal(other.features, kept[0])
    for output, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(output, copy)


@pytest.mark.parametrize("graph", ["encoder", "segmenter"])
def test_a_batch_gives_what_its_images_give(tiny_bundle, graph):
    """On the CPU one image runs after the other."""
    with open_backend("onnxruntime", tiny_bundle, CPU, graph=graph) as backend:
        run = backend.encode if graph == "encoder" else backend.segment
        together, alone = run(images(0)), [run(image[None]) for image in images(0)]
    for name, joined in together._asdict().items():
        parts = [getattr(each, name) for each in alone]
        assert joined.dtype == parts[0].dtype
        np.testing.assert_array_equal(joined, np.concatenate(parts))


@pytest.mark.parametrize(("precision", "in_strips"), [("fp32", True), ("int8", True), ("fp16", False), ("bf16", False)])
def test_strips_are_for_what_they_make_faster(tiny_bundle, monkeypatch, tmp_path, precision, in_strips):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # in which nothing is kept yet
    asked = []

    def record(model: Path, **options: bool) -> bytes:
        asked.append(model)
        return rewritten(model, **options)

    monkeypatch.setattr(type(tiny_bundle), "graph_file", lambda *_: tiny_bundle.file("encoder.onnx"))
    monkeypatch.setattr("msformer_deploy.backends.rewrites.strips.in_strips", record)
    with open_backend("onnxruntime", tiny_bundle, CPU, precision=precision) as backend:
        features = backend.encode(images(0)).features
    assert features.shape == (2, 16, 33, 33)
    assert (features.strides[1] == features.itemsize) == in_strips, "channels last in memory"
    assert asked == [tiny_bundle.file("encoder.onnx")] * in_strips


@pytest.mark.parametrize(
    ("graph", "side", "expected"),
    [("encoder", 33, True), ("segmenter", 97, False), ("segmenter", 128, False), ("segmenter", 193, True)],
)
def test_the_whole_method_runs_in_strips_from_some_size_on(tiny_bundle, graph, side, expected):
    sized = dataclasses.replace(tiny_bundle, sizes=dataclasses.replace(tiny_bundle.sizes, side=side))
    assert strips_pay(sized, graph) is expected


def test_images_may_lie_anyhow_in_memory(tiny_bundle):
    picture = images(0)
    turned = np.ascontiguousarray(picture.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with open_backend("onnxruntime", tiny_bundle, CPU) as backend:
        np.testing.assert_array_equal(backend.encode(turned).features, backend.encode(picture).features)


def test_the_whole_method_gives_labels_counts_collapse_and_probability(tiny_bundle):
    with open_backend("onnxruntime", tiny_bundle, CPU, graph="segmenter") as backend:
        got = backend.segment(images(0))
    assert got.label_map.dtype == np.uint8
    assert got.label_map.shape == (2, 33, 33)
    np.testing.assert_array_equal(got.counts.sum(axis=1), [33 * 33] * 2)
    assert got.collapsed.dtype == np.bool_
    assert (got.probability.dtype, got.probability.shape) == (np.float32, (2, 33, 33))


def test_placements_are_read_from_a_real_session(tiny_bundle):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(tiny_bundle.file("encoder.onnx"), options, providers=[module.CPU])
    nodes = module._nodes(session)
    assert nodes.keys() == {module.CPU}
    assert nodes.total() > 100


def deformed() -> onnx.ModelProto:
    """A graph that calls a function named as ours, which is DeformConv on one image: ``image`` to ``features``."""
    rng = np.random.default_rng(0)
    values = {
        "weight": rng.standard_normal((4, 3, 3, 3), dtype=np.float32),
        "offset": rng.standard_normal((1, 18, 6, 9), dtype=np.float32),
        "mask": rng.random((1, 9, 6, 9), dtype=np.float32),
    }
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ours", 1)]
    function = helper.make_function(
        "ours",
        "DeformConv",
        ["x", *values],
        ["y"],
        [helper.make_node("DeformConv", ["x", "weight", "offset", "", "mask"], ["y"], pads=[1, 1, 1, 1])],
        opsets[:1],
    )
    graph = helper.make_graph(
        [helper.make_node("DeformConv", ["image", *values], ["features"], domain="ours")],
        "deformed",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 6, 9])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 4, 6, 9])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)


class TestWithoutDeformConv:
    """ONNX Runtime before 1.25, the newest for Python 3.10, has no DeformConv on the CPU."""

    @pytest.mark.parametrize(("version", "has"), [("1.23.2", False), ("1.25.0", True), ("1.31.1", True), ("2.0", True)])
    def test_its_version_decides(self, version: str, has: bool) -> None:
        assert module._has_deform_conv(SimpleNamespace(__version__=version)) == has

    @pytest.mark.parametrize("as_file", [True, False])
    def test_a_session_opens_and_computes_the_same(self, monkeypatch: Any, tmp_path: Path, as_file: bool) -> None:
        model, image = deformed(), np.random.default_rng(1).random((1, 3, 6, 9), dtype=np.float32)
        (tmp_path / "deformed.onnx").write_bytes(model.SerializeToString())
        (expected,) = ReferenceEvaluator(model).run(None, {"image": image})
        monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
        given = tmp_path / "deformed.onnx" if as_file else model.SerializeToString()
        assert b"GridSample" in module._without_deform_conv(given)
        (got,) = module.open_session(given, CPU).run(None, {"image": image})
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

    def test_another_graph_stays_the_file_that_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(b"Conv")
        assert module._without_deform_conv(tmp_path / "a.onnx") == tmp_path / "a.onnx"

    def test_a_bundle_runs(self, tiny_deformable_bundle: Any, monkeypatch: Any) -> None:
        given = np.random.default_rng(0).random((2, 3, 24, 24), dtype=np.float32)
        with open_backend("onnxruntime", tiny_deformable_bundle, CPU) as backend:
            expected = backend.encode(given).features
        monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
        for name in ("encoder", "segmenter"):
            with open_backend("onnxruntime", tiny_deformable_bundle, CPU, graph=name) as backend:
                if name == "encoder":
                    np.testing.assert_allclose(backend.encode(given).features, expected, rtol=1e-3, atol=1e-4)
                else:
                    assert backend.segment(given).label_map.shape == (2, 24, 24)


class TestBothWheels:
    """onnxruntime and onnxruntime-gpu in one environment; that a GPU is refused is tested below."""

    @pytest.fixture(autouse=True)
    def both(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(module, "overwrite_each_other", lambda names: names == ("onnxruntime", "onnxruntime-gpu"))

    def test_a_cpu_runs_with_a_warning(self, tiny_bundle: Any) -> None:
        with (
            pytest.warns(UserWarning, match="are both installed and overwrite each other; uninstall both") as said,
            open_backend("onnxruntime", tiny_bundle, CPU),
        ):
            pass
        assert len(said) == 1
        assert "\n" not in str(said[0].message)


def test_a_graph_that_the_cpu_has_no_kernels_for_is_one_line(tmp_path):
    x, y, w = (
        helper.make_tensor_value_info(name, TensorProto.BFLOAT16, shape)
        for name, shape in (("x", [1, 1, 4, 4]), ("y", [1, 1, 2, 2]), ("w", [1, 1, 3, 3]))
    )
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "bf16", [x, w], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    with pytest.raises(BackendUnavailable) as raised:
        module.open_session(model.SerializeToString(), CPU)
    assert str(raised.value) == (
        "onnxruntime cannot open a session on cpu: this onnxruntime has no Conv (opset 22) for the graph's types there;"
        " choose another --precision, --device or --backend"
    )


def test_a_run_that_fails_is_one_line(tiny_bundle):
    with (
        open_backend("onnxruntime", tiny_bundle, CPU) as backend,
        pytest.raises(BackendUnavailable, match=r"onnxruntime fails on CPUExecutionProvider: .*Got: 5 Expected: 33"),
    ):
        backend.encode(np.zeros((1, 3, 5, 5), np.float32))


def test_a_missing_runtime_says_what_to_install(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as Python marks a module that cannot be imported
    with pytest.raises(BackendUnavailable, match=r"msformer-deploy\[cpu\]"):
        open_backend("onnxruntime", tiny_bundle, CPU)


class Options(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(entries={})

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        self.entries[name] = size


class Binding:
    """An IOBinding whose outputs are real CPU values under a CUDA device's name; it logs the order of what happens."""

    def __init__(self, log: list[Any]) -> None:
        self.log, self.names = log, []

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self.log.append(("input", name, array.shape))

    def bind_output(self, name: str, device: str, ordinal: int) -> None:
        self.names.append(name)
        self.log.append(("output", name, device, ordinal))

    def synchronize_outputs(self) -> None:
        self.log.append("outputs ready")

    def get_outputs(self) -> list[Any]:
        self.log.append("outputs read")
        return [onnxruntime.OrtValue.ortvalue_from_numpy(np.full(2, k, np.float32)) for k, _ in enumerate(self.names)]


class Node(NamedTuple):
    op_type: str


class Runtime(SimpleNamespace):
    """The surface of onnxruntime-gpu 1.31 that the backend uses, as its Python sources and this wheel showed it."""

    def __init__(self) -> None:
        super().__init__(
            __version__="1.31.1",
            __file__="nowhere/onnxruntime/__init__.py",
            cuda_version="13.0",
            available=WHEEL,
            SessionOptions=Options,
            OrtValue=onnxruntime.OrtValue,
            severities=[],
            sessions=[],
            log=[],
            loads={module.TENSORRT: True, module.CUDA: True, module.CPU: True},
            error=None,
            nodes={},
        )

    def get_available_providers(self) -> list[str]:
        return self.available

    def set_default_logger_severity(self, severity: int) -> None:
        self.severities.append(severity)

    def preload_dlls(self) -> None:
        print("Failed to load libcublasLt.so.13: no such file")

    def InferenceSession(self, source: Any, options: Options, **arguments: Any) -> Any:  # noqa: N802
        assert arguments["enable_fallback"] == 0
        assert self.severities[-1] == 4
        providers = dict(each if isinstance(each, tuple) else (each, {}) for each in arguments["providers"])
        # One that does not load is left out without an error, and the CPU is always added.
        loaded = list(dict.fromkeys([*(name for name in providers if self.loads[name]), module.CPU]))
        self.sessions.append(SimpleNamespace(source=source, options=options, providers=providers))
        if self.error is not None and loaded[0] != module.CPU:
            raise self.error
        return SimpleNamespace(
            get_providers=lambda: loaded,
            get_provider_graph_assignment_info=lambda: [
                SimpleNamespace(ep_name=name, get_nodes=lambda types=types: [Node(each) for each in types])
                for name, types in self.nodes.items()
            ],
            io_binding=lambda: Binding(self.log),
            run_with_iobinding=lambda binding: self.log.append("run"),
        )


Runtime.InferenceSession.get_provider_graph_assignment_info = None  # the class has it, and we look there


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """A machine with two GPUs, a driver for CUDA 13.1, onnxruntime-gpu, and torch for CUDA."""
    import torch

    fake = Runtime()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(module, "find_driver", lambda: Driver((13, 1), (Gpu("GPU A", "8.6"), Gpu("GPU B", "8.6"))))
    monkeypatch.setattr(module, "overwrite_each_other", lambda names: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: fake.log.append(f"torch done on {device}"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    return fake


def test_a_gpu_gets_the_graph_whole(runtime, tiny_bundle):
    _, session = opened(runtime, tiny_bundle)
    assert session.source == str(tiny_bundle.file("encoder.onnx"))


def opened(runtime: Runtime, bundle: Any, name: str = "onnxruntime", **arguments: Any) -> Any:
    """Without the fingerprint, as the stand-in computes nothing."""
    bundle = dataclasses.replace(bundle, manifest={**bundle.manifest, "fingerprint": None})
    backend = open_backend(name, bundle, arguments.pop("device", GPU), **arguments)
    return backend, runtime.sessions[-1]


def test_cuda_is_asked_for_alone_by_ordinal(runtime, tiny_bundle, capfd):
    backend, session = opened(runtime, tiny_bundle)
    assert session.providers == {module.CUDA: {"device_id": "1", "use_tf32": "0"}}
    assert (backend.provider, backend.device) == (module.CUDA, "cuda:1")
    assert runtime.severities == [4, 2]  # silent while opening, then the default again
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-tensorrt"])
@pytest.mark.parametrize(("precision", "allowed"), [("fp32", "0"), ("fp16", "1"), ("int8", "1")])
@pytest.mark.parametrize("device", [GPU, Device("auto")], ids=str)
def test_only_fp32_is_without_tf32(runtime, tiny_bundle, monkeypatch, name, precision, allowed, device):
    monkeypatch.setattr(type(tiny_bundle), "graph_file", lambda *_: tiny_bundle.file("encoder.onnx"))
    _, session = opened(runtime, tiny_bundle, name, precision=precision, device=device)
    assert session.providers[module.CUDA]["use_tf32"] == allowed


@pytest.mark.parametrize(
    ("name", "roundings"), [("onnxruntime", "fp32"), ("onnxruntime-tensorrt", "fp16"), ("openvino", "fp32")]
)
def test_fp32_is_held_to_fp32_except_where_it_may_be_tf32(runtime, tiny_bundle, name, roundings):
    """TF32 has the 11 significant bits of fp16, and TensorRT's provider cannot be kept from it."""
    device = Device("auto") if name == "openvino" else GPU
    backend = open_backend(name, tiny_bundle, device) if name == "openvino" else opened(runtime, tiny_bundle, name)[0]
    assert (backend.precision, backend.arithmetic) == ("fp32", roundings)


def test_tensorrt_comes_first_without_engine_cache_and_with_timings(runtime, tiny_bundle, tmp_path):
    backend, session = opened(runtime, tiny_bundle, "onnxruntime-tensorrt")
    assert list(session.providers) == [module.TENSORRT, module.CUDA]
    timings = tmp_path / "msformer-deploy" / "timing"
    assert session.providers[module.TENSORRT] == {
        "device_id": "1",
        "trt_engine_cache_enable": "0",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(timings),
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
    }
    assert timings.is_dir()
    assert session.providers[module.CUDA] == {"device_id": "1", "use_tf32": "0"}
    assert (backend.name, backend.provider) == ("onnxruntime-tensorrt", module.TENSORRT)


def test_a_cache_that_cannot_be_written_is_told(runtime, tiny_bundle, tmp_path):
    (tmp_path / "msformer-deploy").touch()
    with pytest.warns(UserWarning, match="cannot keep TensorRT's timings"):
        _, session = opened(runtime, tiny_bundle, "onnxruntime-tensorrt")
    assert "trt_timing_cache_enable" not in session.providers[module.TENSORRT]
    assert session.providers[module.TENSORRT]["trt_engine_cache_enable"] == "0"


def test_tensorrt_takes_the_first_gpu_unless_told_and_never_the_cpu(runtime, tiny_bundle):
    _, session = opened(runtime, tiny_bundle, "onnxruntime-tensorrt", device=Device("auto"))
    assert session.providers[module.TENSORRT]["device_id"] == "0"
    with pytest.raises(BackendUnavailable, match="on a GPU only"):
        opened(runtime, tiny_bundle, "onnxruntime-tensorrt", device=CPU)


def test_features_stay_on_the_gpu_and_are_ready_before_torch_reads_them(runtime, tiny_bundle):
    import torch

    backend, _ = opened(runtime, tiny_bundle)
    got = backend.encode(images(0))
    assert runtime.log == [
        "torch done on cuda:1",  # memory of features dropped before may be written again
        ("input", "image", (2, 3, 33, 33)),
        ("output", "features", "cuda", 1),
        ("output", "context_small", "cuda", 1),
        ("output", "context_large", "cuda", 1),
        "run",
        "outputs ready",
        "outputs read",
    ]
    assert [type(output) for output in got] == [torch.Tensor] * 3
    assert [float(output[0]) for output in got] == [0, 1, 2]


def test_results_come_back_to_the_cpu_without_torch_or_dlpack(runtime, tiny_bundle, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    runtime.OrtValue = object
    backend, session = opened(runtime, tiny_bundle, graph="segmenter")
    backend.segment(images(0))
    assert [entry[2:] for entry in runtime.log if entry[0] == "output"] == [("cpu", 0)] * len(Segmented._fields)
    assert runtime.log[-3:] == ["run", "outputs ready", "outputs read"]
    assert "session.disable_cpu_ep_fallback" not in session.options.entries


@pytest.mark.parametrize(
    ("nodes", "provider"),
    [
        ({}, module.CUDA),
        ({module.CUDA: ["Conv"] * 831}, module.CUDA),
        (
            {module.CUDA: ["Conv"] * 800, module.CPU: ["Shape"] * 31},
            "CUDAExecutionProvider (31 on CPUExecutionProvider of 831 nodes)",
        ),
    ],
    ids=["unknown", "all", "some elsewhere"],
)
def test_nodes_that_run_elsewhere_are_told(runtime, tiny_bundle, nodes, provider):
    runtime.nodes = nodes
    backend, session = opened(runtime, tiny_bundle, graph="segmenter")
    assert session.options.entries["session.record_ep_graph_assignment_info"] == "1"
    assert backend.provider == provider


def test_shapes_may_be_computed_on_the_cpu(runtime, tiny_bundle):
    """ONNX Runtime puts the arithmetic before a Resize there, as in M2SNet's encoder, whatever the GPU could do."""
    runtime.nodes = {module.CUDA: ["Conv"] * 90, module.CPU: ["Shape", "Slice", "Concat"]}
    backend, session = opened(runtime, tiny_bundle)
    assert "session.disable_cpu_ep_fallback" not in session.options.entries
    assert backend.provider == "CUDAExecutionProvider (3 on CPUExecutionProvider of 93 nodes)"


def test_work_of_the_encoder_is_not_left_to_the_cpu(runtime, tiny_bundle):
    runtime.nodes = {module.CUDA: ["Conv"] * 90, module.CPU: ["Shape", "Resize", "Conv", "Conv"]}
    with pytest.raises(BackendUnavailable, match=r"leaves operators of this graph to the CPU \(Conv, Resize\); choose"):
        opened(runtime, tiny_bundle)


def test_a_runtime_that_does_not_show_its_nodes_leaves_none_to_the_cpu(runtime, tiny_bundle, monkeypatch):
    monkeypatch.delattr(Runtime.InferenceSession, "get_provider_graph_assignment_info")
    _, session = opened(runtime, tiny_bundle)
    assert session.options.entries["session.disable_cpu_ep_fallback"] == "1"


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-tensorrt"])
def test_a_provider_that_does_not_load_is_not_replaced(runtime, tiny_bundle, name):
    wanted = module.CUDA if name == "onnxruntime" else module.TENSORRT
    runtime.loads[wanted] = False
    with pytest.raises(BackendUnavailable, match=f"onnxruntime opened .* in place of {wanted}"):
        opened(runtime, tiny_bundle, name)


def test_tensorrt_that_takes_no_node_is_not_replaced_by_cuda(runtime, tiny_bundle):
    runtime.nodes = {module.CUDA: ["Conv"] * 220}
    with pytest.raises(BackendUnavailable, match="TensorRT took none of the graph's 220 nodes"):
        opened(runtime, tiny_bundle, "onnxruntime-tensorrt")


def test_an_older_runtime_that_does_not_tell_placements(runtime, tiny_bundle, monkeypatch):
    original = Runtime.InferenceSession

    def without(self: Runtime, *arguments: Any, **options: Any) -> Any:
        session = original(self, *arguments, **options)
        del session.get_provider_graph_assignment_info
        return session

    monkeypatch.setattr(Runtime, "InferenceSession", without)
    backend, _ = opened(runtime, tiny_bundle, "onnxruntime-tensorrt")
    assert backend.provider == module.TENSORRT


def test_the_loader_tells_which_library_is_missing(runtime, tiny_bundle, monkeypatch, tmp_path):
    """The exception of 1.31 is about the consequence; the cause is only in its log, and in what the loader says."""
    runtime.error = RuntimeError("graph nodes that are assigned to the default CPU EP, but fallback ... disabled")
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    library.parent.mkdir()
    library.touch()
    runtime.__file__ = str(tmp_path / "__init__.py")

    def load(name: str) -> None:
        assert Path(name) == library
        raise OSError("libcudnn.so.9: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(module.ctypes, "CDLL", load)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(BackendUnavailable, match=r"on cuda:1: cuDNN \(libcudnn.so.9\) is not found; .* for CUDA 13"):
        opened(runtime, tiny_bundle)
    assert runtime.severities == [4, 2]


def test_what_cuda_says_is_told_where_the_library_loads(runtime, tiny_bundle):
    runtime.error = RuntimeError("CUDA failure 100: no CUDA-capable device is detected ; GPU=0")
    with pytest.raises(BackendUnavailable, match="on cuda:1: CUDA finds no GPU; look at nvidia-smi"):
        opened(runtime, tiny_bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"available": [module.CPU]}, r"has no CUDAExecutionProvider, only CPU.*; install msformer-deploy\[gpu\] in"),
        ({"both": True}, "are both installed and overwrite each other"),
        ({"driver": Driver((13, 1), (Gpu("GPU A", "8.6"),))}, "the NVIDIA driver shows 1: GPU A"),
        (
            {"driver": Driver((12, 8), (Gpu("A", "8.6"), Gpu("B", "8.6")))},
            "built for CUDA 13.0 and the driver serves 12.8 at most; update the",
        ),
        ({"driver": None}, "there is no NVIDIA driver"),
        ({"torch devices": 1}, "does not find it|is a CPU build"),
        (
            {"OrtValue": object},
            "onnxruntime 1.31.1 cannot hand its GPU memory .* 1.26 or newer, or pass --whole-",
        ),
    ],
    ids=["CPU wheel", "both wheels", "no such device", "old driver", "no driver", "torch", "no DLPack"],
)
def test_what_an_explicit_gpu_lacks_is_told(runtime, tiny_bundle, monkeypatch, change, message):
    import torch

    runtime.available = change.get("available", WHEEL)
    runtime.OrtValue = change.get("OrtValue", runtime.OrtValue)
    if "both" in change:
        monkeypatch.setattr(module, "overwrite_each_other", lambda names: True)
    if "driver" in change:

        def find() -> Driver:
            if change["driver"] is None:
                raise BackendUnavailable("there is no NVIDIA driver (libcuda.so.1 is not found); install it")
            return change["driver"]

        monkeypatch.setattr(module, "find_driver", find)
    if "torch devices" in change:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: change["torch devices"])
    with pytest.raises(BackendUnavailable, match=f"^device cuda:1 was asked for, but .*({message})") as raised:
        opened(runtime, tiny_bundle)
    assert len(str(raised.value).splitlines()) == 1
    assert runtime.sessions == []  # nothing was tried


@pytest.mark.parametrize("lacking", ["torch", "driver", "provider", "DLPack"])
def test_auto_takes_the_cpu_where_the_gpu_does_not_work(runtime, tiny_bundle, monkeypatch, lacking):
    import torch

    def find() -> Driver:
        raise BackendUnavailable("there is no NVIDIA driver")

    if lacking == "torch":
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    elif lacking == "driver":
        monkeypatch.setattr(module, "find_driver", find)
    elif lacking == "DLPack":
        runtime.OrtValue = object
    else:
        runtime.loads[module.CUDA] = False
    backend, session = opened(runtime, tiny_bundle, device=Device("auto"))
    assert list(session.providers) == [module.CPU]
    assert (backend.provider, backend.device) == (module.CPU, "cpu")


def test_auto_takes_the_gpu_where_it_works(runtime, tiny_bundle):
    backend, _ = opened(runtime, tiny_bundle, device=Device("auto"))
    assert (backend.provider, backend.device) == (module.CUDA, "cuda:0")


def test_a_cpu_build_of_torch_is_told_with_the_way_around(runtime, tiny_bundle, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(BackendUnavailable, match=r"is a CPU build, .*; install torch for CUDA, or pass --whole-graph"):
        opened(runtime, tiny_bundle)
