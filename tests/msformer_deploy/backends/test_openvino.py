"""OpenVINO, for real; bfloat16 where the CPU has it, and in a recorded surface."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from arithmetic import ARITHMETIC
from bundles import relisted
from onnx import TensorProto, helper

from msformer_deploy.backends import open_backend
from msformer_deploy.backends import openvino as module
from msformer_deploy.backends.base import Device
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.export import precision as lowering

CPU = Device("cpu")
openvino = module.import_openvino()


def images(seed: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 33, 33), dtype=np.float32)


def relative_error(got: np.ndarray, truth: Any) -> float:
    truth = np.asarray(truth)
    return float(np.abs(got - truth).max() / np.abs(truth).max())


def test_it_computes_what_torch_computes(tiny_bundle):
    with open_backend("torch", tiny_bundle, CPU) as reference, open_backend("openvino", tiny_bundle, CPU) as backend:
        for got, truth in zip(backend.encode(images(0)), reference.encode(images(0)), strict=True):
            assert got.dtype == np.float32
            assert relative_error(got, truth) < 1e-5


def test_the_whole_method_gives_what_onnxruntime_gives(tiny_bundle):
    pictures = images(1, count=4)
    with open_backend("onnxruntime", tiny_bundle, CPU, graph="segmenter") as reference:
        truth = reference.segment(pictures)
    with open_backend("openvino", tiny_bundle, CPU, graph="segmenter") as backend:
        got = backend.segment(pictures)
    assert [array.dtype for array in got] == [np.uint8, np.int64, np.bool_, np.float32]
    assert (got.label_map == truth.label_map).mean() > 0.999
    np.testing.assert_array_equal(got.counts.sum(axis=1), [33 * 33] * 4)
    np.testing.assert_array_equal(got.collapsed, truth.collapsed)
    np.testing.assert_allclose(got.probability, truth.probability, atol=1e-4)


@pytest.fixture(scope="module")
def lowered(tiny_bundle, tmp_path_factory):
    """The small bundle with other encoders, too; its segmenters of those precisions are not what they say."""
    folder = tmp_path_factory.mktemp("lowered")
    for name in tiny_bundle.manifest["files"]:
        (folder / name).write_bytes(tiny_bundle.file(name).read_bytes())
    encoder = onnx.load(tiny_bundle.file("encoder.onnx"))
    for name, graph in (
        ("fp16", lowering.lower(encoder, "fp16")),
        ("bf16", lowering.lower(encoder, "bf16")),
        ("int8", lowering.quantize(encoder, iter(images(3)[:, None]))),
    ):
        onnx.save(graph, folder / f"encoder.{name}.onnx")
        (folder / f"segmenter.{name}.onnx").write_bytes(tiny_bundle.file("segmenter.onnx").read_bytes())
    return relisted(folder, tiny_bundle.facts)


NEEDS_BF16 = pytest.mark.skipif(
    "BF16" not in module.open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this CPU has no bfloat16 arithmetic",
)


@pytest.mark.parametrize(
    ("precision", "most"), [("fp16", 5e-3), pytest.param("bf16", 5e-2, marks=NEEDS_BF16), ("int8", 0.1)]
)
def test_other_precisions_are_those_of_the_graph(lowered, precision, most):
    with open_backend("openvino", lowered, CPU) as reference:
        truth = reference.encode(images(2)).features
    with open_backend("openvino", lowered, CPU, precision=precision) as backend:
        assert backend.precision == precision
        assert 1e-5 < relative_error(backend.encode(images(2)).features, truth) < most, ARITHMETIC


@pytest.mark.parametrize(("precision", "in_strips"), [("fp32", True), ("fp16", True), ("bf16", True), ("int8", False)])
def test_strips_are_for_what_is_known_to_work_in_them(tiny_bundle, precision, in_strips):
    model = onnx.load_from_string(
        module.prepared(tiny_bundle.file("encoder.onnx"), strips=precision in module.IN_STRIPS)
    )
    operators = {node.op_type for node in model.graph.node}
    assert ("Gemm" in operators) == in_strips, "which only strips have"
    assert not {node.domain for node in model.graph.node} - {""}
    features = next(value for value in model.graph.output if value.name == "features")
    assert [dim.dim_value for dim in features.type.tensor_type.shape.dim][1:] == [33, 33, 16]


def test_what_executes_is_read_back(tiny_bundle):
    with open_backend("openvino", tiny_bundle, Device("auto")) as backend:
        assert (backend.name, backend.provider, backend.device, backend.precision) == ("openvino", "CPU", "cpu", "fp32")
        assert backend.max_batch is None


def test_what_could_change_numbers_or_times_is_set(tiny_bundle):
    with open_backend("openvino", tiny_bundle, CPU, threads=1) as backend:
        compiled = backend._compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    assert compiled.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_threads_are_left_to_openvino_unless_they_are_asked_for():
    asked = []
    compiled = SimpleNamespace(get_property=lambda _: openvino.Type.f32)
    core = SimpleNamespace(compile_model=lambda model, device, settings: asked.append((device, settings)) or compiled)
    assert module.compile_on_cpu(core, "model", None) is compiled
    ((device, settings),) = asked
    assert device == "CPU"
    assert "INFERENCE_NUM_THREADS" not in settings


@pytest.mark.parametrize("device", [Device("cuda"), Device("cuda", 1)], ids=str)
def test_a_gpu_is_refused(tiny_bundle, device):
    with pytest.raises(BackendUnavailable, match=f"^device {device} was asked for, but backend openvino runs on the"):
        open_backend("openvino", tiny_bundle, device)


class Core:
    """As much of OpenVINO's core as compiling needs, on a CPU that computes what ``computes`` says."""

    def __init__(self, capabilities: list[str], computes: str) -> None:
        self.capabilities, self.computes = capabilities, computes

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.capabilities

    def compile_model(self, model: str, device: str, settings: dict[str, Any]) -> Any:
        self.settings = settings
        return SimpleNamespace(get_property=lambda _: getattr(openvino.Type, self.computes))


def test_bfloat16_where_the_cpu_has_it_and_only_if_it_is_asked_for():
    core = Core(["FP32", "BF16"], "bf16")
    assert module.compile_on_cpu(core, "model", None, "bf16")
    assert core.settings["INFERENCE_PRECISION_HINT"] == "bf16"
    core.computes = "f32"
    assert module.compile_on_cpu(core, "model", None)
    assert core.settings["INFERENCE_PRECISION_HINT"] == "f32"


def test_bfloat16_is_refused_where_it_would_be_emulated():
    with pytest.raises(BackendUnavailable, match=r"this CPU has none; pass --precision fp32$"):
        module.compile_on_cpu(Core(["FP32", "INT8"], "bf16"), "model", None, "bf16")


@pytest.mark.parametrize(("precision", "computes"), [("fp32", "bf16"), ("int8", "f16"), ("bf16", "f32")])
def test_another_arithmetic_than_was_asked_for_is_refused(precision, computes):
    with pytest.raises(BackendUnavailable, match=f"and computes in {computes}; use another --backend$"):
        module.compile_on_cpu(Core(["BF16"], computes), "model", None, precision)


def test_outputs_are_taken_without_a_copy(tiny_bundle):
    with open_backend("openvino", tiny_bundle, CPU) as backend:
        for output in backend.encode(images(0)[:1]):
            assert not output.flags.owndata
            assert output.flags.writeable, "else torch warns"
            assert torch.as_tensor(output).data_ptr() == output.ctypes.data


def test_a_later_call_leaves_earlier_outputs_alone_and_they_outlive_the_backend(tiny_bundle):
    with open_backend("openvino", tiny_bundle, CPU) as backend:
        first = backend.encode(images(0))
        kept = [np.array(output) for output in first]
        for seed in range(1, 4):
            other = backend.encode(images(seed))
    assert not np.array_equal(other.features, kept[0])
    del backend
    for output, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(output, copy)


def test_images_may_lie_anyhow_in_memory(tiny_bundle):
    picture = images(0)
    turned = np.ascontiguousarray(picture.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with open_backend("openvino", tiny_bundle, CPU) as backend:
        np.testing.assert_array_equal(backend.encode(turned).features, backend.encode(picture).features)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_any_number_of_images_at_once(lowered, precision):
    pictures = images(5, count=4)
    with open_backend("openvino", lowered, CPU, threads=1, precision=precision) as backend:
        alone = [backend.encode(picture[None]).features[0] for picture in pictures]
        for size in (1, 3, 4):
            for got, truth in zip(backend.encode(pictures[:size]).features, alone, strict=False):
                np.testing.assert_array_equal(got, truth)


def test_threads_may_share_it(tiny_bundle):
    pictures = [images(seed, count=1 + seed % 2) for seed in range(12)]
    with open_backend("openvino", tiny_bundle, CPU) as backend:
        serial = [np.array(backend.encode(each).features) for each in pictures]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(backend.encode, pictures))
    for got, truth in zip(together, serial, strict=True):
        np.testing.assert_array_equal(got.features, truth)


def test_a_run_that_fails_is_one_line(tiny_bundle):
    with (
        open_backend("openvino", tiny_bundle, CPU) as backend,
        pytest.raises(BackendUnavailable, match=r"^openvino fails on CPU: .*\[1,3,33,33\].*\(1\.3\.5\.5\)"),
    ):
        backend.encode(np.zeros((1, 3, 5, 5), np.float32))


def model_of(node: onnx.NodeProto) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 33, 33]) for name in "xy")
    graph = helper.make_graph([node], "one", [x], [y])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def test_a_graph_it_cannot_read_is_one_line(tiny_bundle, tmp_path):
    path = tmp_path / "encoder.onnx"
    onnx.save(model_of(helper.make_node("Odd", ["x"], ["y"], domain="elsewhere")), path)
    files = {"encoder.onnx": {"sha256": "of the odd one", "bytes": path.stat().st_size}}
    manifest = {**tiny_bundle.manifest, "files": {**tiny_bundle.manifest["files"], **files}}
    with pytest.raises(BackendUnavailable) as raised:
        open_backend("openvino", dataclasses.replace(tiny_bundle, path=tmp_path, manifest=manifest), CPU)
    said = str(raised.value)
    assert said.startswith(f"openvino cannot read {path}: ")
    assert "elsewhere.Odd" in said
    assert "\n" not in said
    assert "src/" not in said


def test_a_graph_it_cannot_compile_is_one_line():
    core = module.open_core()
    model = core.read_model(model_of(helper.make_node("Relu", ["x"], ["y"])).SerializeToString())
    with pytest.raises(BackendUnavailable) as raised:
        module.compile_on_cpu(core, model, threads=-1)
    assert str(raised.value).startswith("openvino cannot compile the graph: ")
    assert "\n" not in str(raised.value)


def test_a_missing_runtime_says_what_to_install(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # as Python marks a module that cannot be imported
    with pytest.raises(BackendUnavailable, match=r"^openvino cannot be imported .*; install .*\[openvino\]$"):
        open_backend("openvino", tiny_bundle, CPU)


def test_a_runtime_that_does_not_start_is_one_line(monkeypatch):
    def refuse() -> None:
        raise RuntimeError("Exception from src/core.cpp:84:\nCheck 'plugins' failed at src/core.cpp:3:\nno plugins\n\n")

    monkeypatch.setattr(openvino, "Core", refuse)
    monkeypatch.setattr(module, "_core", module._core.__wrapped__)  # as if none had been started yet
    with pytest.raises(BackendUnavailable, match=r"^openvino does not start: no plugins; install it again$"):
        module.open_core()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends the process at once")
def test_signals_are_handled_after_what_opened_it_was_freed_in_another_thread():
    """Its CPU plugin brings a stack for signals and frees it with itself, whatever thread that is in."""
    script = (
        "import faulthandler, gc, os, signal, threading\n"
        "faulthandler.enable()\n"  # as pytest does; then Python's handlers run on a stack of their own
        "from msformer_deploy.backends.openvino import CPU, open_core\n"
        "held = [open_core()]\n"
        "held[0].get_property(CPU, 'FULL_DEVICE_NAME')\n"  # loads the plugin
        "def drop():\n"
        "    held.clear()\n"
        "    gc.collect()\n"
        "thread = threading.Thread(target=drop)\n"
        "thread.start()\n"
        "thread.join()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('handled'))\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "for _ in range(10): pass\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Exception from a.cpp:1:\nCheck 'x' failed at b.cpp:2:\nfirst\n  second \n\n", "first second"),
        ("plain", "plain"),
        ("Exception from a.cpp:1:\n", "RuntimeError"),
        ("", "RuntimeError"),
    ],
)
def test_reasons_are_one_line(text, line):
    assert module.reason(RuntimeError(text)) == line


@pytest.mark.parametrize("before", ["", "import openvino_telemetry"], ids=["fresh", "imported before"])
def test_the_import_reports_nothing_to_anyone(tmp_path, before):
    """Left alone, its Python package leaves an identifier in the home folder and sends an event at each import."""
    script = (
        f"{before}\n"
        "from msformer_deploy.backends.openvino import open_core\n"
        "open_core()\n"
        "import openvino.tools.ovc\n"
        "assert 'stub' in type(openvino.tools.ovc.telemetry).__module__\n"
    )
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
