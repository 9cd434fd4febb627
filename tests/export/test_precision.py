"""Graphs of other precisions: which types stand where, what they compute, and that nothing is silent."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from arithmetic import ARITHMETIC
from onnx import TensorProto, helper, numpy_helper

from msformer_deploy.backends.base import Device
from msformer_deploy.backends.onnxruntime import open_session
from msformer_deploy.errors import UsageError, ValidationMismatch
from msformer_deploy.export import graphs, precision

HALVES = ("fp16", "bf16")
OUTPUTS = ("features", "context_small", "context_large")


@pytest.fixture(scope="module")
def encoder(tiny_bundle) -> onnx.ModelProto:
    return onnx.load(tiny_bundle.file("encoder.onnx"))


@pytest.fixture(scope="module")
def whole(tiny_bundle) -> onnx.ModelProto:
    return onnx.load(tiny_bundle.file("segmenter.onnx"))


def images(count: int, seed: int = 5) -> Iterator[np.ndarray]:
    return iter(np.random.default_rng(seed).random((count, 1, 3, 33, 33), dtype=np.float32))


def made(name: str, encoder: onnx.ModelProto) -> onnx.ModelProto:
    if name == "int8":
        return precision.quantize(encoder, images(2))
    return precision.lower(encoder, name)


def run(model: onnx.ModelProto, image: np.ndarray) -> list[np.ndarray]:
    return open_session(model.SerializeToString(), Device("cpu")).run(OUTPUTS, {"image": image})


def error(got: list[np.ndarray], exact: list[np.ndarray]) -> float:
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in zip(got, exact, strict=True))


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every value, functions aside, as shape inference sees it."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    found = {entry.name: entry.data_type for entry in model.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


@pytest.mark.parametrize("name", [*HALVES, "int8"])
def test_a_graph_is_valid_keeps_its_contract_and_leaves_the_original_alone(encoder, name):
    before = encoder.SerializeToString(deterministic=True)
    model = made(name, encoder)
    assert encoder.SerializeToString(deterministic=True) == before
    graphs.check(model)
    opset = {"bf16": 22}.get(name, 20)
    for owner in (model, *model.functions):
        assert {entry.version for entry in owner.opset_import if not entry.domain} <= {opset}
    assert [value.name for value in model.graph.output] == list(OUTPUTS)
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {
        TensorProto.FLOAT
    }
    assert model.graph.output == encoder.graph.output
    assert made(name, encoder).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", [*HALVES, "int8"])
def test_names_are_unique_and_no_weight_is_left_over(encoder, name):
    graph = made(name, encoder).graph
    names = [node.name for node in graph.node]
    values = [entry.name for entry in graph.initializer] + [output for node in graph.node for output in node.output]
    assert len(set(names)) == len(names)
    assert len(set(values)) == len(values)
    assert {entry.name for entry in graph.initializer} <= {entry for node in graph.node for entry in node.input}


@pytest.mark.parametrize("name", HALVES)
def test_products_are_of_the_half_type_and_norms_and_attention_are_not(encoder, name):
    model = precision.lower(encoder, name)
    kinds, half = types(model), precision.TYPES[name]
    found: dict[str, set[int]] = {}
    for node in model.graph.node:
        shape_inputs = ("Reshape", "Slice", "ReduceMean")
        inputs = node.input[:1] if node.op_type in shape_inputs else node.input
        found.setdefault(node.op_type, set()).update(kinds[entry] for entry in (*inputs, *node.output) if entry)
    for product in ("Conv", "MatMul", "Gelu", "Concat", "Slice"):
        assert found[product] == {half}, product
    high = ("LayerNormalization", "ReduceMean", "Sub", "Pow", "Sqrt", "Reciprocal", "Mul", "CrossScaleAttention")
    for operator in high:
        assert found[operator] == {TensorProto.FLOAT}, operator
    assert set(found) == {*high, "Conv", "MatMul", "Gelu", "Concat", "Slice", "Add", "Transpose", "Reshape", "Cast"}


@pytest.mark.parametrize("name", HALVES)
def test_casts_stand_only_where_the_type_changes_and_once_per_value(encoder, name):
    model = precision.lower(encoder, name)
    kinds = types(model)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert casts
    for cast in casts:
        assert {kinds[cast.input[0]], kinds[cast.output[0]]} == {TensorProto.FLOAT, precision.TYPES[name]}
    sources = [cast.input[0] for cast in casts]
    assert len(set(sources)) == len(sources)
    back = {cast.output[0]: cast.input[0] for cast in casts}
    assert not set(back.values()) & set(back), "no cast of a cast"


def one_product(weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """``image`` times a weight, plus a bias, its output called features."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["image", "weight"], ["product"], name="product"),
            helper.make_node("Add", ["product", "bias"], ["features"], name="sum"),
        ],
        "one product",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, "n", 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, "n", 2])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("name", HALVES)
def test_the_emulation_rounds_inputs_weights_and_results_and_no_optimiser_undoes_it(name):
    """Against the roundings written out in numpy, bit for bit."""
    generator = np.random.default_rng(0)
    image, weight = (generator.standard_normal(shape, dtype=np.float32) for shape in ((1, 50, 3), (3, 2)))
    bias = generator.standard_normal(2, dtype=np.float32)
    half = helper.tensor_dtype_to_np_dtype(precision.TYPES[name])

    def rounded(array: np.ndarray) -> np.ndarray:
        return array.astype(half).astype(np.float32)

    model = precision.emulate(one_product(weight, bias), name)
    (got,) = open_session(model.SerializeToString(), Device("cpu")).run(None, {"image": image})
    assert np.array_equal(got, rounded(rounded(rounded(image) @ rounded(weight)) + rounded(bias)))
    assert not np.array_equal(got, image @ weight + bias)


def test_emulation_and_typed_graph_agree_and_both_round(encoder):
    """ONNX Runtime computes fp16 in float32 between casts of its own, so a value may be rounded once less there."""
    (image,) = images(1)
    exact, typed = run(encoder, image), run(precision.lower(encoder, "fp16"), image)
    emulated = run(precision.emulate(encoder, "fp16"), image)
    assert error(emulated, typed) < 5e-3
    for got in (typed, emulated):
        assert 1e-5 < error(got, exact) < 5e-3


def test_bf16_rounds_coarser_than_fp16(encoder):
    (image,) = images(1)
    exact = run(encoder, image)
    errors = {name: error(run(precision.emulate(encoder, name), image), exact) for name in HALVES}
    assert 3 * errors["fp16"] < errors["bf16"] < 5e-2


def test_emulation_needs_no_kernels_of_the_half_type(encoder):
    model = precision.emulate(encoder, "bf16")
    graphs.check(model)
    kinds = types(model)
    users = {
        node.op_type
        for node in model.graph.node
        for entry in (*node.input, *node.output)
        if kinds.get(entry) == TensorProto.BFLOAT16
    }
    assert users == {"Cast"}


@pytest.mark.parametrize("name", [*HALVES, "int8"])
def test_the_joined_graph_holds_the_encoder_node_for_node_in_its_opset(encoder, whole, name):
    model = made(name, encoder)
    segmenter = graphs.exchange_encoder(whole, encoder, model)
    graphs.check(segmenter)
    opsets = {entry.version for entry in model.opset_import if not entry.domain}
    for owner in (segmenter, *segmenter.functions):
        assert {entry.version for entry in owner.opset_import if not entry.domain} <= opsets
    probe = graphs.probe(segmenter, model)
    if name == "bf16":
        return  # ONNX Runtime's CPU provider has no bfloat16 Conv
    (image,) = images(1)
    session = open_session(probe.SerializeToString(), Device("cpu"))
    *encoded, labels, probability = session.run([*OUTPUTS, "label_map", "probability"], {"image": image})
    assert error(encoded, run(model, image)) < 1e-5
    assert labels.shape == probability.shape == (1, 33, 33)
    exact = open_session(whole.SerializeToString(), Device("cpu")).run(["probability"], {"image": image})[0]
    assert 0 < np.abs(probability - exact).max() < 0.05, "the figure is learned on rounded features"


def test_a_weight_that_fp16_cannot_hold_is_refused(encoder):
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    target = next(entry for entry in model.graph.initializer if len(entry.dims) == 4)
    weights = numpy_helper.to_array(target).copy()
    weights.flat[-1] = -7e4
    target.CopyFrom(numpy_helper.from_array(weights, target.name))
    with pytest.raises(ValidationMismatch, match=r"reaches 7e\+04, too large for fp16"):
        precision.lower(model, "fp16")
    precision.lower(model, "bf16")


def test_an_operator_without_a_precision_is_an_error(encoder):
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    next(node for node in model.graph.node if node.op_type == "Gelu").op_type = "Erf"
    with pytest.raises(ValueError, match="no precision is known for operator Erf"):
        precision.lower(model, "fp16")


def test_int8_is_what_tensorrt_takes(encoder):
    """Symmetric: zero points 0 of type int8, a scale per column of a weight, biases and all results in float32."""
    model = precision.quantize(encoder, images(2))
    weights = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    assert TensorProto.INT32 not in {entry.data_type for entry in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    quantized = []
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = weights[node.input[2]]
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
        if node.op_type == "MatMul" and producers.get(node.input[0], node).op_type == "DequantizeLinear":
            weight = producers[node.input[1]]
            assert weights[weight.input[0]].dtype == np.int8
            assert weights[weight.input[1]].shape == weights[weight.input[0]].shape[1:]
            assert helper.get_node_attr_value(weight, "axis") == 1
            quantized.append(weights[weight.input[0]].shape)
    assert sorted(quantized) == sorted([(8, 32), (32, 8)] * 4), "the four MLPs"
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == len(quantized)


def test_int8_computes_nearly_what_fp32_does(encoder):
    (image,) = images(1)
    exact = run(encoder, image)
    got = run(precision.quantize(encoder, images(3, seed=6)), image)
    assert 1e-4 < error(got, exact) < 5e-2, ARITHMETIC


def test_int8_ranges_are_those_of_all_images(encoder):
    """The activations of the last image are the largest, and a reader that stops early would miss them."""

    def scales(*brightness: float) -> np.ndarray:
        (image,) = images(1)
        model = precision.quantize(encoder, iter([image * np.float32(factor) for factor in brightness]))
        return np.array(
            [
                numpy_helper.to_array(entry).item()
                for entry in model.graph.initializer
                if entry.name.endswith("_scale") and not entry.dims
            ]
        )

    alone, first, both = scales(1), scales(0.01), scales(0.01, 1)
    assert np.allclose(both, np.maximum(alone, first))
    assert not np.allclose(both, first)


def test_quantizing_is_quiet_and_leaves_no_files(encoder, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    precision.quantize(encoder, images(1))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers


def test_quantizing_needs_images_and_products(encoder):
    with pytest.raises(ValueError, match="No data"):
        precision.quantize(encoder, iter([]))
    with pytest.raises(UsageError, match="this encoder has none; choose fp16 or bf16"):
        precision.quantize(one_product(np.eye(3, dtype=np.float32), np.zeros(3, np.float32)), images(1))


def test_one_image_at_a_time_is_taken(encoder):
    """Memory does not grow with their number: the next is asked for after the one before was run."""
    runs = 0
    original = onnxruntime.InferenceSession.run

    def counted(self, *arguments):
        nonlocal runs
        runs += 1
        return original(self, *arguments)

    def lazily():
        for index, image in enumerate(images(3)):
            assert runs == index
            yield image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime.InferenceSession, "run", counted)
        precision.quantize(encoder, lazily())
    assert runs == 3
