"""Engines: real ones by TensorRT-RTX, which builds without a GPU; the full TensorRT's against a recorded surface.

No engine was opened on a GPU for these tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
import trt_surface
from onnx import TensorProto, helper

from msformer_deploy.bundle import sidecar
from msformer_deploy.bundle.folder import Bundle, ModelSizes, graph_name
from msformer_deploy.bundle.sidecar import EngineOptions
from msformer_deploy.errors import BackendUnavailable, DeployError, UsageError, ValidationMismatch
from msformer_deploy.export import graphs, tensorrt
from msformer_deploy.export.precision import lower, quantize
from msformer_deploy.export.tensorrt import build_engine
from msformer_deploy.kernels import plugin, reference
from msformer_deploy.machine.driver import Gpu
from msformer_deploy.machine.trt_flavour import Flavour, find
from msformer_deploy.models.frozen import Frozen, FrozenEncoder
from msformer_deploy.registry import SYSTEMS
from msformer_deploy.weights.network import new_network, tie_upsampling

A10, H200 = Gpu("NVIDIA A10", "8.6"), Gpu("NVIDIA H200", "9.0")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# The body that TensorRT compiles in place of the plugin.


@pytest.mark.parametrize("label_type", [TensorProto.INT32, TensorProto.INT64])
@pytest.mark.parametrize(
    ("batch", "channels", "size", "clusters", "heads"),
    [(1, 1, (1, 1), 1, 1), (2, 7, (3, 9), 6, 1), (3, 16, (9, 5), 100, 3), (1, 4, (6, 6), 300, 1)],
)
def test_the_inlined_argmax_is_the_reference(label_type, batch, channels, size, clusters, heads):
    features, head = random(batch, channels, *size), random(heads, clusters, channels, seed=1)
    graph = helper.make_graph(
        [helper.make_node("ClusterArgmax", ["f", "h"], ["l", "c"], domain="msformer", label_type=label_type)],
        "argmax",
        [
            helper.make_tensor_value_info("f", TensorProto.FLOAT, features.shape),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, head.shape),
        ],
        [helper.make_empty_tensor_value_info(name) for name in ("l", "c")],
    )
    body = onnx.parser.parse_function(tensorrt.CLUSTER_ARGMAX)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("msformer", 1)]
    model = helper.make_model(graph, functions=[body], opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    labels, counts = session.run(None, {"f": features, "h": head})
    expected, expected_counts = reference.cluster_argmax(torch.from_numpy(features), torch.from_numpy(head))
    assert labels.dtype == helper.tensor_dtype_to_np_dtype(label_type)
    assert np.array_equal(labels, expected.numpy())
    assert counts.dtype == np.int64
    assert np.array_equal(counts, expected_counts.numpy())


# Real builds by TensorRT-RTX.


@pytest.fixture
def rtx() -> Flavour:
    pytest.importorskip("tensorrt_rtx")
    return find("rtx")


@pytest.fixture(scope="module")
def built(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both graphs' engines, their records, the folder they are in and the progress that was told."""
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path_factory.mktemp("built") / "bundle"
    shutil.copytree(tiny_bundle.path, path)
    told: list[tuple[str, int, int]] = []
    made = {
        graph: build_engine(
            path, graph, "fp32", find("rtx"), EngineOptions((1, 2, 4)), progress=lambda *step: told.append(step)
        )
        for graph in ("encoder", "segmenter")
    }
    return path, made, told


TENSORS = {
    "encoder": [
        ("features", "FLOAT", [-1, 16, 33, 33]),
        *((f"context_{s}", "FLOAT", [-1, 8, 8]) for s in ("small", "large")),
    ],
    "segmenter": [
        ("label_map", "INT32", [-1, 33, 33]),
        ("counts", "INT64", [-1, 6]),
        ("collapsed", "BOOL", [-1]),
        ("probability", "FLOAT", [-1, 33, 33]),
    ],
}


@pytest.mark.trt
@pytest.mark.parametrize("graph", TENSORS)
def test_an_engine_of_tensorrt_rtx(built, rtx, graph):
    _, made, _ = built
    record = made[graph]
    assert record.folder == f"engines/{graph}-fp32-rtx-{rtx.version}-portable"
    assert record.options == EngineOptions((1, 2, 4))
    assert (record.gpu, record.driver, record.compute_capabilities) == (None, None, ("portable",))
    assert record.platform == sidecar.this_platform()
    assert record.kernels == (
        f"inlined: tensorrt_rtx {rtx.version} takes no ahead-of-time plugins; tensorrt 10.9 or newer does"
    )
    assert record.inputs == [{"name": "image", "dtype": "FLOAT", "shape": [-1, 3, 33, 33]}]
    assert [(each["name"], each["dtype"], each["shape"]) for each in record.outputs] == TENSORS[graph]
    assert record.build_seconds > 0


@pytest.mark.trt
@pytest.mark.parametrize("graph", TENSORS)
def test_the_sidecar_is_true(built, graph):
    path, made, _ = built
    folder = path / made[graph].folder
    assert {file.name for file in folder.iterdir()} == {"model.engine", "engine.json"}
    data = (folder / "model.engine").read_bytes()
    record = sidecar.read_record(folder / "engine.json")
    assert record == made[graph]
    assert (record.bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert record.onnx_sha256 == hashlib.sha256((path / f"{graph}.onnx").read_bytes()).hexdigest()


@pytest.mark.trt
@pytest.mark.parametrize("graph", TENSORS)
def test_types_are_read_back(built, graph):
    path, made, _ = built
    record = made[graph]
    model = onnx.load(path / f"{graph}.onnx")
    products = sum(node.op_type == "Conv" for node in model.graph.node)
    assert record.precisions_of == "network"
    assert record.precisions["CONVOLUTION"] == {"FLOAT": products}
    assert not {"HALF", "BF16", "INT8"} & {dtype for types in record.precisions.values() for dtype in types}
    assert sum(sum(types.values()) for types in record.precisions.values()) == record.layers


@pytest.mark.trt
def test_progress_is_told(built):
    _, _, told = built
    assert "Building engine" in {phase for phase, _, _ in told}
    assert all(0 <= done <= steps for _, done, steps in told)


@pytest.mark.trt
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_other_precisions(bundle_copy, rtx, precision):
    encoder = onnx.load(bundle_copy / "encoder.onnx")
    given = [np.random.default_rng(0).random((1, 3, 33, 33), dtype=np.float32)]
    lowered = quantize(encoder, given) if precision == "int8" else lower(encoder, precision)
    onnx.save(lowered, bundle_copy / graph_name("encoder", precision))
    record = build_engine(bundle_copy, "encoder", precision, rtx, EngineOptions())
    assert [each["dtype"] for each in (*record.inputs, *record.outputs)] == ["FLOAT"] * 4
    if precision == "int8":
        assert record.precisions["QUANTIZE"]["INT8"] > 0
        assert record.precisions["CONVOLUTION"].keys() == {"FLOAT"}
    else:
        assert record.precisions["CONVOLUTION"].keys() == {tensorrt.PRODUCT_TYPES[precision]}


@pytest.mark.trt
@pytest.mark.parametrize(
    ("graph_precision", "asked", "message"),
    [
        ("fp32", "fp16", r"encoder.fp16.onnx: \d+ Conv are fp16 in the graph, 0 in the network"),
        ("fp32", "bf16", r"encoder.bf16.onnx: \d+ Conv are bf16 in the graph, 0 in the network"),
        ("fp16", "bf16", r"encoder.bf16.onnx: \d+ Conv are bf16 in the graph, 0 in the network"),
        ("fp16", "fp32", r"encoder.onnx: \d+ Conv are fp32 in the graph, 0 in the network"),
        ("fp32", "int8", r"encoder.int8.onnx: 0 tensors are quantised in the graph, 0 in the network"),
    ],
)
def test_another_precision_than_asked_for_is_noticed(bundle_copy, rtx, graph_precision, asked, message):
    encoder = onnx.load(bundle_copy / "encoder.onnx")
    given = encoder if graph_precision == "fp32" else lower(encoder, graph_precision)
    onnx.save(given, bundle_copy / graph_name("encoder", asked))
    with pytest.raises(ValidationMismatch, match=message):
        build_engine(bundle_copy, "encoder", asked, rtx, EngineOptions())
    assert not (bundle_copy / "engines").exists()


@pytest.mark.trt
def test_half_layers_in_an_fp32_network_are_noticed(bundle_copy, rtx):
    """Beside all the products that the graph has."""
    encoder = onnx.load(bundle_copy / "encoder.onnx")
    name = encoder.graph.node[-1].output[0]
    encoder.graph.node[-1].output[0] = "exact"
    encoder.graph.node.append(helper.make_node("Cast", ["exact"], ["half"], to=TensorProto.FLOAT16))
    encoder.graph.node.append(helper.make_node("Cast", ["half"], [name], to=TensorProto.FLOAT))
    onnx.save(encoder, bundle_copy / "encoder.onnx")
    with pytest.raises(ValidationMismatch, match=r"encoder.onnx: the network has HALF layers, the graph has none"):
        build_engine(bundle_copy, "encoder", "fp32", rtx, EngineOptions())


@pytest.mark.trt
@pytest.mark.parametrize(
    ("options", "capabilities"),
    [
        (EngineOptions(), ("portable",)),
        (EngineOptions(compute_capabilities=("8.6", "12.0"), refit=True, workspace_mb=64), ("8.6", "12.0")),
    ],
)
def test_options_reach_tensorrt_rtx(bundle_copy, rtx, options, capabilities):
    builder = tensorrt._Builder(rtx, options)
    network = builder.parse(onnx.load(bundle_copy / "encoder.onnx"), "encoder.onnx")
    config = builder.configure(network, "fp32", None)
    flag, pool = rtx.api.BuilderFlag, rtx.api.MemoryPoolType.WORKSPACE
    assert config.get_flag(flag.REFIT) == options.refit
    assert not config.get_flag(flag.TF32)
    assert config.profiling_verbosity == rtx.api.ProfilingVerbosity.DETAILED
    assert config.num_optimization_profiles == 1
    if options.workspace_mb is not None:
        assert config.get_memory_pool_limit(pool) == options.workspace_mb * 2**20
    got = [config.get_compute_capability(index) for index in range(config.num_compute_capabilities)]
    wanted = [getattr(rtx.api.ComputeCapability, f"SM{each.replace('.', '')}") for each in options.compute_capabilities]
    assert [each for each in got if each != rtx.api.ComputeCapability.NONE] == wanted
    record = build_engine(bundle_copy, "encoder", "fp32", rtx, replace(options, refit=False))
    assert record.compute_capabilities == capabilities


@pytest.mark.trt
def test_the_profile_is_the_batch(bundle_copy, rtx, monkeypatch):
    profiles = []
    builder = tensorrt._Builder(rtx, EngineOptions((1, 2, 4)))
    make = builder._builder.create_optimization_profile

    class Spied:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def create_optimization_profile(self) -> Any:
            profiles.append(make())
            return profiles[-1]

    real = builder._builder
    builder._builder = Spied()
    network = builder.parse(onnx.load(bundle_copy / "encoder.onnx"), "encoder.onnx")
    builder.configure(network, "fp32", None)
    assert [tuple(shape) for shape in profiles[0].get_shape("image")] == [(n, 3, 33, 33) for n in (1, 2, 4)]


@pytest.mark.trt
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(compatibility="ampere-plus"), r"has no compatibility levels: .*; drop --trt-compatibility"),
        (EngineOptions(version_compatible=True), r"has no compatibility levels: .*--trt-version-compatible"),
        (EngineOptions(version_compatible=True, refit=True), "drop --trt-refit and --trt-plugins always, or"),
        (EngineOptions(compute_capabilities=("8.6", "6.1")), r"cannot build for compute capability 6.1, only 8.0, 8.6"),
        (EngineOptions(compute_capabilities=("7.5",)), r"cannot build for compute capability 7.5, only 8.0"),
        (EngineOptions(compute_capabilities=("current",)), "cannot build for compute capability current, only"),
    ],
)
def test_options_that_tensorrt_rtx_does_not_have(bundle_copy, rtx, options, message):
    with pytest.raises(UsageError, match=message) as error:
        build_engine(bundle_copy, "encoder", "fp32", rtx, options)
    assert "\n" not in str(error.value)


@pytest.mark.trt
def test_weights_that_change_need_a_gpu_to_build(bundle_copy, rtx):
    with pytest.raises(BackendUnavailable, match="can be changed without a GPU; drop --trt-refit"):
        build_engine(bundle_copy, "encoder", "fp32", rtx, EngineOptions(refit=True))


@pytest.mark.trt
def test_plugins_that_tensorrt_rtx_cannot_take(bundle_copy, rtx):
    with pytest.raises(BackendUnavailable, match=r"^TensorRT-RTX .* takes none of our kernels, .*; drop --trt-plugins"):
        tensorrt.check_options(rtx, EngineOptions(plugins="always"), None)


@pytest.mark.trt
@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 1), (signal.SIGINT, 700), (signal.SIGTERM, 1)])
def test_a_build_can_be_interrupted(bundle_copy, rtx, number, after):
    before = signal.getsignal(number)
    told = []

    def progress(*step: Any) -> None:
        told.append(step)
        if len(told) == after:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle_copy, "segmenter", "fp32", rtx, EngineOptions(), progress=progress)
    assert len(told) < after + 20
    assert not (bundle_copy / "engines").exists()
    assert signal.getsignal(number) is before


def test_a_build_beside_the_main_thread(bundle_copy, full):
    """Only the main thread may touch signals."""
    made: list[sidecar.Record] = []
    thread = threading.Thread(
        target=lambda: made.append(build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10))
    )
    thread.start()
    thread.join()
    assert made[0].bytes > 0


@pytest.mark.trt
def test_a_graph_that_tensorrt_cannot_parse(bundle_copy, rtx):
    names = ["image", "weight", "offset"]
    graph = helper.make_graph(
        [helper.make_node("DeformConv", names, ["features"], name="the deformed one")],
        "deformed",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
         zip(names, [(1, 3, 33, 33), (4, 3, 1, 1), (1, 2, 33, 33)], strict=True)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, (1, 4, 33, 33))],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]), bundle_copy / "encoder.onnx")
    with pytest.raises(DeployError, match=r"^TensorRT-RTX .* cannot parse encoder.onnx: the deformed one: ") as error:
        build_engine(bundle_copy, "encoder", "fp32", rtx, EngineOptions())
    assert "\n" not in str(error.value)


@pytest.mark.trt
@pytest.mark.slow
def test_the_whole_method_at_full_size(tmp_path, rtx):
    system = SYSTEMS["msformer"].sized()
    sizes = ModelSizes(system.side, system.width, system.clusters, system.blocks)
    network = new_network(sizes, 0).requires_grad_(False)
    head = network.linear_down.weight.detach()
    encoder = graphs.export_encoder(FrozenEncoder(tie_upsampling(network)), network.side, Frozen._fields)
    refinement = graphs.refinement_graph(head, system.preset().refinement, sizes.side)
    segmenter = graphs.join(encoder, refinement, graphs.figure_graph(head.shape[1], sizes.side, trained=False))
    onnx.save(segmenter, tmp_path / "segmenter.onnx")
    record = build_engine(tmp_path, "segmenter", "fp32", rtx, EngineOptions())
    assert [each["shape"] for each in record.outputs] == [[-1, 97, 97], [-1, 100], [-1], [-1, 97, 97]]
    assert record.bytes > 5 * 10**6


# The full TensorRT, against its recorded surface.


VERSIONS = ("10.13.3.9", "11.4.1.2")


@pytest.fixture(params=VERSIONS)
def full(request, monkeypatch, tmp_path) -> Flavour:
    return stand_in(request.param, monkeypatch, tmp_path)


def stand_in(version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Flavour:
    api = trt_surface.make("tensorrt", version)
    monkeypatch.setitem(sys.modules, "tensorrt", api)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", api.plugin)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(plugin.compiled, "load_for_driver", lambda *_: None)  # takes seconds
    return Flavour("tensorrt", api)


def test_an_engine_of_the_full_tensorrt(bundle_copy, full):
    record = build_engine(bundle_copy, "segmenter", "fp32", full, EngineOptions(), gpu=A10, driver="13.0")
    assert record.folder == f"engines/segmenter-fp32-tensorrt-{full.version}-sm86"
    assert (record.gpu, record.driver, record.compute_capabilities) == ("NVIDIA A10", "13.0", ("8.6",))
    assert record.kernels == "plugins"
    assert record.precisions_of == "engine"
    assert record.precisions["CONVOLUTION"].keys() == {"FLOAT"}
    assert "PLUGIN_V3" in record.precisions
    assert record.outputs[0]["dtype"] == "INT32"
    assert full.api.plugins == {each.id for each in plugin.PLUGINS}


def test_a_rebuilt_engine_takes_the_place_of_the_former(bundle_copy, full):
    first = build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10)
    second = build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions((1, 2, 4)), gpu=A10)
    assert second.folder == first.folder
    assert sidecar.read_record(bundle_copy / second.folder / "engine.json") == second
    assert (bundle_copy / second.folder / "model.engine").stat().st_size == second.bytes


def test_the_full_tensorrt_builds_on_a_gpu_only(bundle_copy, full):
    with pytest.raises(
        BackendUnavailable, match=r"only on the GPU they are for, .*; build there, or pass --trt-flavour rtx"
    ):
        build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_precisions_of_the_full_tensorrt(bundle_copy, full, precision):
    onnx.save(lower(onnx.load(bundle_copy / "encoder.onnx"), precision), bundle_copy / graph_name("encoder", precision))
    record = build_engine(bundle_copy, "encoder", precision, full, EngineOptions(plugins="never"), gpu=A10)
    assert (record.kernels, record.precisions_of) == ("inlined: not wanted", "engine")
    assert record.precisions["CONVOLUTION"].keys() == {tensorrt.PRODUCT_TYPES[precision]}
    assert record.precisions["MATRIX_MULTIPLY"].keys() >= {tensorrt.PRODUCT_TYPES[precision], "FLOAT"}


def test_an_engine_without_the_precision_that_its_graph_has(bundle_copy, full, monkeypatch):
    """As where TensorRT goes its own way after the network was parsed."""
    onnx.save(lower(onnx.load(bundle_copy / "encoder.onnx"), "fp16"), bundle_copy / "encoder.fp16.onnx")
    monkeypatch.setattr(trt_surface, "INSPECTED_10", dict.fromkeys(trt_surface.INSPECTED_10, "FP32"))
    monkeypatch.setattr(trt_surface, "INSPECTED_11", dict.fromkeys(trt_surface.INSPECTED_11, "Float"))
    with pytest.raises(ValidationMismatch, match="built the fp16 encoder without a single fp16 tensor in it"):
        build_engine(bundle_copy, "encoder", "fp16", full, EngineOptions(plugins="never"), gpu=A10)
    assert not (bundle_copy / "engines").exists()


@pytest.mark.parametrize(("low", "name"), [("Half", "HALF"), ("BF16", "BF16"), ("Int8", "INT8")])
def test_an_fp32_engine_with_low_tensors_in_it(bundle_copy, full, monkeypatch, low, name):
    monkeypatch.setitem(trt_surface.INSPECTED_10, "FLOAT", low)
    monkeypatch.setitem(trt_surface.INSPECTED_11, "FLOAT", low)
    with pytest.raises(ValidationMismatch, match=f"built the fp32 encoder with {name} tensors in it"):
        build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(plugins="never"), gpu=A10)


def report_of(monkeypatch: pytest.MonkeyPatch, full: Flavour, *layers: Any) -> None:
    told = json.dumps({"Layers": layers})
    monkeypatch.setattr(full.api.EngineInspector, "get_engine_information", lambda *_: told)


def tensor(name: str, dtype: str) -> dict[str, str]:
    return {"Name": name, "DataType": dtype}


IMAGE, FEATURES = tensor("image", "Float"), tensor("features", "Float")


@pytest.mark.parametrize(
    "layers",
    [
        [],
        ["a name alone"],
        [{"LayerType": "fused", "Inputs": [IMAGE], "Outputs": [FEATURES]}],
        [{"LayerType": "fused", "Inputs": [IMAGE, {"Name": "weights"}], "Outputs": [FEATURES]}],
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_where_the_engine_shows_no_types_the_networks_count(bundle_copy, full, monkeypatch, precision, layers):
    onnx.save(lower(onnx.load(bundle_copy / "encoder.onnx"), "fp16"), bundle_copy / "encoder.fp16.onnx")
    report_of(monkeypatch, full, *layers)
    record = build_engine(bundle_copy, "encoder", precision, full, EngineOptions(plugins="never"), gpu=A10)
    assert record.precisions_of == "network"
    assert record.precisions["CONVOLUTION"].keys() == {tensorrt.PRODUCT_TYPES[precision]}


@pytest.mark.parametrize("kind", ["Inputs", "Outputs"])
def test_types_are_looked_for_at_all_inputs_and_outputs_of_a_layer(bundle_copy, full, monkeypatch, kind):
    onnx.save(lower(onnx.load(bundle_copy / "encoder.onnx"), "fp16"), bundle_copy / "encoder.fp16.onnx")
    layer = {"LayerType": "fused", "Inputs": [IMAGE], "Outputs": [FEATURES]}
    report_of(monkeypatch, full, layer | {kind: [*layer[kind], tensor("inner", "Half")]})
    record = build_engine(bundle_copy, "encoder", "fp16", full, EngineOptions(plugins="never"), gpu=A10)
    assert (record.precisions_of, record.precisions) == ("engine", {"fused": {"FLOAT": 1}})
    with pytest.raises(ValidationMismatch, match="fp32 encoder with HALF tensors in it"):
        build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(plugins="never"), gpu=A10)


@pytest.mark.parametrize("graph_precision", ["fp32", "fp16"])
def test_networks_are_strongly_typed_and_no_precision_flag_is_set(bundle_copy, full, graph_precision):
    """Types are the graph's: TensorRT 10 would choose others by its flags, 11 has none."""
    encoder = onnx.load(bundle_copy / "encoder.onnx")
    if graph_precision == "fp16":
        onnx.save(lower(encoder, "fp16"), bundle_copy / "encoder.fp16.onnx")
    build_engine(bundle_copy, "encoder", graph_precision, full, EngineOptions(plugins="never"), gpu=A10)
    (config,) = full.api.built
    assert {flag.name for flag in config._flags} == ({"TF32"} if graph_precision == "fp16" else set())
    assert config._network._flags == 1 << int(full.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@pytest.mark.parametrize(
    ("options", "level", "flags"),
    [
        (EngineOptions(), None, set()),
        (EngineOptions(compatibility="ampere-plus"), "AMPERE_PLUS", set()),
        (EngineOptions(compatibility="same-compute-capability"), "SAME_COMPUTE_CAPABILITY", set()),
        (EngineOptions(refit=True), None, {"REFIT"}),
        (EngineOptions(version_compatible=True), None, {"VERSION_COMPATIBLE"}),
    ],
)
def test_options_reach_the_full_tensorrt(bundle_copy, full, options, level, flags):
    options = replace(options, batch=(1, 2, 4), workspace_mb=96)
    build_engine(bundle_copy, "encoder", "fp32", full, options, gpu=A10)
    (config,) = full.api.built
    chosen = config.hardware_compatibility_level
    assert (None if chosen is None else chosen.name) == level
    assert {flag.name for flag in config._flags} == flags
    assert config._pools == {full.api.MemoryPoolType.WORKSPACE: 96 * 2**20}
    assert config._profiles[0]._shapes["image"] == [[batch, 3, 33, 33] for batch in (1, 2, 4)]
    assert config.profiling_verbosity is full.api.ProfilingVerbosity.DETAILED
    assert config.progress_monitor is None


def test_compute_capabilities_are_not_for_the_full_tensorrt(bundle_copy, full):
    with pytest.raises(UsageError, match="--trt-compute-capability is for --trt-flavour rtx"):
        build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(compute_capabilities=("8.6",)), gpu=A10)


def test_an_older_tensorrt_without_a_level(bundle_copy, full, monkeypatch):
    levels = trt_surface._Member("HardwareCompatibilityLevel", "NONE AMPERE_PLUS", start=0)
    monkeypatch.setattr(full.api, "HardwareCompatibilityLevel", levels)
    with pytest.raises(BackendUnavailable, match=r"has no --trt-compatibility same-compute-capability; 10\.9 has"):
        build_engine(
            bundle_copy, "encoder", "fp32", full, EngineOptions(compatibility="same-compute-capability"), gpu=A10
        )


@pytest.mark.parametrize(
    ("wanted", "kernels"), [("auto", "inlined: tensorrt 10.8.0.43 takes no ahead-of-time"), ("always", None)]
)
def test_a_tensorrt_without_our_plugins(bundle_copy, monkeypatch, tmp_path, wanted, kernels):
    full = stand_in("10.8.0.43", monkeypatch, tmp_path)
    monkeypatch.delattr(full.api, "IPluginV3QuickAOTBuild")
    options = EngineOptions(plugins=wanted)
    if kernels is None:
        with pytest.raises(BackendUnavailable, match=r"^TensorRT 10.8.0.43 takes none of our kernels, .*; drop --trt-"):
            tensorrt.check_options(full, options, A10)
    else:
        assert build_engine(bundle_copy, "encoder", "fp32", full, options, gpu=A10).kernels.startswith(kernels)


def test_plugins_that_fail_are_left_out_and_the_reason_is_recorded(bundle_copy, full, monkeypatch):
    """Registered in vain: TensorRT's parser does not find them."""
    monkeypatch.setattr(plugin, "register", lambda *_: None)
    record = build_engine(bundle_copy, "segmenter", "fp32", full, EngineOptions(), gpu=A10)
    assert record.kernels.startswith("inlined: with plugins, ")
    assert "Plugin not found" in record.kernels
    assert "PLUGIN_V3" not in record.precisions
    with pytest.raises(DeployError, match=r"cannot parse segmenter\.onnx: .*Plugin not found"):
        build_engine(bundle_copy, "segmenter", "fp32", full, EngineOptions(plugins="always"), gpu=A10)


def test_timings_are_kept_for_the_next_build(bundle_copy, full, tmp_path):
    for builds in (1, 2, 3):
        build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10)
        (file,) = (tmp_path / "cache").rglob("*.cache")
        assert file.name == f"tensorrt-{full.version}-nvidia-a10.cache"
        assert file.read_bytes() == b"." * builds


def test_timings_that_cannot_be_read_stop_no_build(bundle_copy, full, tmp_path):
    build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10)
    (file,) = (tmp_path / "cache").rglob("*.cache")
    file.unlink()
    file.mkdir()
    build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10)


def test_timings_of_another_device_are_not_used(bundle_copy, full, tmp_path):
    build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10)
    (file,) = (tmp_path / "cache").rglob("*.cache")
    file.write_bytes(b"other device")
    build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10)
    assert file.read_bytes() == b"."


def test_timings_that_cannot_be_kept_are_no_failure(bundle_copy, full, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10).bytes > 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends the process at once")
def test_a_build_of_the_full_tensorrt_can_be_interrupted(bundle_copy, full):
    with pytest.raises(KeyboardInterrupt):
        build_engine(
            bundle_copy,
            "encoder",
            "fp32",
            full,
            EngineOptions(),
            gpu=A10,
            progress=lambda *_: os.kill(os.getpid(), signal.SIGINT),
        )
    assert not (bundle_copy / "engines").exists()


def test_a_build_that_fails(bundle_copy, full, monkeypatch):
    def fail(self: Any, network: Any, config: Any) -> None:
        self._fail("Error Code 10: no implementation\n  for the node")
        self._fail("and what follows from it")

    monkeypatch.setattr(full.api.Builder, "build_serialized_network", fail)
    with pytest.raises(
        DeployError, match=r"cannot build an engine of encoder.onnx: Error Code 10: no implementation for the node$"
    ):
        build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10)


def test_a_network_of_other_tensors_than_the_graph(bundle_copy, full, monkeypatch):
    monkeypatch.setitem(trt_surface.TYPES, TensorProto.BOOL, "UINT8")
    with pytest.raises(ValidationMismatch, match=r"made the outputs .*'UINT8'.* of the graph's .*'BOOL'"):
        build_engine(bundle_copy, "segmenter", "fp32", full, EngineOptions(), gpu=A10)


def test_an_engine_that_cannot_be_opened_where_it_was_built(bundle_copy, full, monkeypatch):
    monkeypatch.setattr(full.api, "opens", False)
    record = build_engine(bundle_copy, "encoder", "fp32", full, EngineOptions(), gpu=A10)
    assert record.precisions_of == "network"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_inspector_that_gets_no_shapes_says_no_types_and_refuses_nothing(bundle_copy, full, monkeypatch, precision):
    """As TensorRT does for every engine with a dynamic batch, where there is no context with the shapes of a run."""
    onnx.save(lower(onnx.load(bundle_copy / "encoder.onnx"), "fp16"), bundle_copy / "encoder.fp16.onnx")
    monkeypatch.setattr(full.api, "prepares", False)
    record = build_engine(bundle_copy, "encoder", precision, full, EngineOptions(plugins="never"), gpu=A10)
    assert record.precisions_of == "network"
    assert record.precisions["CONVOLUTION"].keys() == {tensorrt.PRODUCT_TYPES[precision]}


@pytest.mark.parametrize(("gpu", "opened"), [(A10, True), (H200, False)], ids=["Ampere", "Hopper"])
def test_tensorrt_rtx_opens_no_engine_where_it_does_not_run(bundle_copy, gpu, opened):
    rtx = Flavour("rtx", trt_surface.make("tensorrt_rtx", "1.7.1"))
    record = build_engine(bundle_copy, "encoder", "fp32", rtx, EngineOptions(), gpu=gpu)
    assert ("deserialize" in rtx.api.events) is opened
    assert record.precisions_of == ("engine" if opened else "network")


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        ({"Format/Datatype": "Row major linear FP32"}, "FLOAT"),
        ({"Format/Datatype": "Row major linear FP16 format"}, "HALF"),
        ({"Format/Datatype": "Channel major FP16 format where C % 8 == 0"}, "HALF"),
        ({"Format/Datatype": "Half"}, "HALF"),
        ({"Format/Datatype": "Row major linear BFloat16 format"}, "BF16"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}, "INT8"),
        ({"Format/Datatype": "Row major Int8 format"}, "INT8"),
        ({"Format/Datatype": "UInt8"}, "UINT8"),
        ({"DataType": "Half", "Format": "Row major linear FP16 format (kLINEAR)"}, "HALF"),
        ({"DataType": "Int64"}, "INT64"),
        ({"DataType": "BF16"}, "BF16"),
        ({"DataType": "FP8"}, "FP8"),
        ({"DataType": "N/A due to dynamic shapes"}, "unknown"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_types_in_the_inspectors_report(tensor, dtype):
    report = {"Layers": [{"LayerType": "gemm", "Outputs": [tensor]}, {"LayerType": "signal"}, "a name alone"]}
    assert tensorrt.layer_types(report) == {"gemm": {dtype: 1}}


def test_a_report_of_names_alone():
    assert tensorrt.layer_types(json.loads('{"Layers": ["one", "two"], "Bindings": ["image"]}')) == {}
