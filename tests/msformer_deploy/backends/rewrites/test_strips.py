"""Graphs rewritten to strips: the same results, from small pieces, whatever the graph's precision."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from arithmetic import ARITHMETIC
from onnx import TensorProto, helper, numpy_helper

from msformer_deploy.backends.rewrites.strips import in_strips
from msformer_deploy.export import precision

OUTPUTS = ["features", "context_small", "context_large"]
SIDE, WIDTH = 33, 8


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, 3, SIDE, SIDE), dtype=np.float32)


@pytest.fixture(scope="module")
def encoder(tiny_bundle) -> onnx.ModelProto:
    """The small encoder with no weight or bias that is trivial, as zeros and ones are."""
    model = onnx.load(tiny_bundle.file("encoder.onnx"))
    rng = np.random.default_rng(0)
    for entry in model.graph.initializer:
        if entry.data_type == TensorProto.FLOAT and (weights := numpy_helper.to_array(entry)).ndim:
            noise = 0.2 * rng.standard_normal(weights.shape, dtype=np.float32)
            entry.CopyFrom(numpy_helper.from_array(weights + noise, entry.name))
    return model


def run(model: bytes, names: list[str] = OUTPUTS) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(names, {"image": image()})


def error(got: list[np.ndarray], exact: list[np.ndarray]) -> float:
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in zip(got, exact, strict=True))


@pytest.mark.parametrize("pixels", [1, 70, 200, 500, 10**6])
def test_strips_of_any_height_compute_what_the_whole_does(encoder, pixels):
    whole = encoder.SerializeToString()
    strips = in_strips(whole, pixels)
    onnx.checker.check_model(onnx.load_from_string(strips), full_check=True)
    assert error(run(strips), run(whole)) < 2e-5


@pytest.mark.parametrize("transposed_last", [True, False])
def test_features_may_keep_their_channels_last(encoder, transposed_last):
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    if not transposed_last:
        last = next(node for node in model.graph.node if node.output[0] == "features")
        last.output[0] = "moved"
        model.graph.node.append(helper.make_node("Identity", ["moved"], ["features"]))
    strips = onnx.load_from_string(in_strips(model.SerializeToString(), 200, channels_last=True))
    onnx.checker.check_model(strips, full_check=True)
    operators = {node.op_type for node in strips.graph.node if node.output[0].startswith("features")}
    assert operators == {"Concat"} if transposed_last else {"Concat", "Transpose"}
    features, *contexts = run(strips.SerializeToString())
    assert features.shape == (1, SIDE, SIDE, 2 * WIDTH)
    assert error([features.transpose(0, 3, 1, 2), *contexts], run(encoder.SerializeToString())) < 2e-5


def test_products_stay_products_if_wanted(encoder):
    graph = onnx.load_from_string(in_strips(encoder.SerializeToString(), 500, pointwise=False)).graph
    operators = [node.op_type for node in graph.node]
    fine, coarse = 2, 1
    assert operators.count("Gemm") == 3 * 2 * (fine + coarse)  # queries and both products of two blocks
    assert operators.count("Conv") == (1 + 2) * (fine + coarse)  # of the image, and depthwise in each block


def test_no_two_convolutions_have_the_same_bias(encoder):
    """Else OpenVINO adds each in a pass over the hidden tokens."""
    graph = onnx.load_from_string(in_strips(encoder.SerializeToString(), 500, pointwise=False)).graph
    biases = [node.input[2] for node in graph.node if node.op_type == "Conv"]
    assert len(biases) == len(set(biases)) > 1


def test_a_bias_may_be_computed(encoder):
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    model.graph.node.insert(0, helper.make_node("Identity", [convolution.input[2]], ["computed"]))
    convolution.input[2] = "computed"
    assert error(run(in_strips(model.SerializeToString(), 200)), run(encoder.SerializeToString())) < 2e-5


def test_biases_of_zero_are_left_out(tiny_bundle, encoder):
    """As exported: norms whose biases are 0."""
    exported = tiny_bundle.file("encoder.onnx")
    strips = in_strips(exported, 200)
    assert error(run(strips), run(exported.read_bytes())) < 1e-5
    added = [
        [node.op_type for node in onnx.load_from_string(model).graph.node].count("Add")
        for model in (strips, in_strips(encoder.SerializeToString(), 200))
    ]
    assert added[0] == added[1] - 3 * (5 + 1), "three norms of five fine strips and of a coarse one"


def test_what_is_between_is_never_whole(encoder):
    """Hidden tokens, and what the attention makes of keys and queries, are there a strip and its halo at a time."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(in_strips(encoder.SerializeToString(), 200)))
    largest: dict[str, int] = {}
    kinds = {name: node.op_type for node in model.graph.node for name in node.output}
    for value in model.graph.value_info:
        size = int(np.prod([dim.dim_value for dim in value.type.tensor_type.shape.dim]))
        largest[kinds[value.name]] = max(size, largest.get(kinds[value.name], 0))
    strip = 9 * SIDE  # seven rows and two beside them
    for operator in ("Conv", "Gelu", "LayerNormalization"):
        assert 0 < largest[operator] <= strip * 4 * WIDTH, operator
    for operator in ("Exp", "Softmax", "Gemm", "Mul"):
        assert 0 < largest[operator] <= strip * WIDTH, operator


def test_constants_go_into_the_context_and_biases_into_products(encoder):
    graph = onnx.load_from_string(in_strips(encoder.SerializeToString(), 500)).graph
    operators = [node.op_type for node in graph.node]
    fine, coarse = 2, 1  # strips of 33 and 17 rows
    assert operators.count("Gemm") == 2 * 2 * (fine + coarse)  # queries and second product of two blocks
    assert operators.count("Conv") == (1 + 2 * 2) * (fine + coarse)  # of the image, and two in each block
    assert "Pow" not in operators
    assert not {node.op_type for node in graph.node} & {"CrossScaleAttention"}
    assert len({node.name for node in graph.node}) == len(graph.node)


@pytest.mark.parametrize(("name", "tolerance"), [("fp16", 5e-3), ("int8", 2e-2)])
def test_other_precisions_keep_theirs(encoder, name, tolerance):
    lowered = (
        precision.quantize(encoder, iter([image(1)])) if name == "int8" else precision.lower(encoder, name)
    ).SerializeToString()
    strips = in_strips(lowered, 200)
    onnx.checker.check_model(onnx.load_from_string(strips), full_check=True)
    assert error(run(strips), run(lowered)) < tolerance, ARITHMETIC
    assert error(run(strips), run(encoder.SerializeToString())) < 5e-2, ARITHMETIC
    kind = {"fp16": TensorProto.FLOAT16, "int8": TensorProto.INT8}[name]
    assert kind in {entry.data_type for entry in onnx.load_from_string(strips).graph.initializer}


def test_the_whole_method_gives_the_same_labels(tiny_bundle):
    whole = tiny_bundle.file("segmenter.onnx").read_bytes()
    names = ["label_map", "counts", "collapsed", "probability"]
    labels, counts, collapsed, probability = run(in_strips(whole, 200), names)
    expected, _, flag, probable = run(whole, names)
    assert labels.dtype == expected.dtype
    assert (labels == expected).mean() > 0.999
    assert counts.sum() == SIDE * SIDE
    assert collapsed == flag
    np.testing.assert_allclose(probability, probable, atol=1e-4)


def test_an_attention_that_is_asked_for_its_consistency_runs_whole(encoder):
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    *_, last = (node for node in model.graph.node if node.op_type == "CrossScaleAttention")
    model.graph.output.append(helper.make_tensor_value_info(last.output[4], TensorProto.FLOAT, ["batch"]))
    whole, names = model.SerializeToString(), [*OUTPUTS, last.output[4]]
    strips = in_strips(whole, 200)
    assert [node.op_type for node in onnx.load_from_string(strips).graph.node].count("CrossScaleAttention") == 1
    assert error(run(strips, names), run(whole, names)) < 2e-5


# Nodes one by one, each between an image and the output.


def rows_model(nodes: list[onnx.NodeProto], output: list[int], **constants: np.ndarray) -> bytes:
    """``image`` through the nodes to ``features``; the last axis of the image is what else it has, not square."""
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", *output])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def node(operator: str, *inputs: str, output: str = "features", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], name=output, **attributes)


RNG = np.random.default_rng(2)
ROW_BY_ROW = {
    "elementwise": ([node("Add", "image", "one")], [3, 33, 33], {"one": np.float32(1)}),
    "a factor for each channel": ([node("Mul", "image", "c")], [3, 33, 33], {"c": np.ones((1, 3, 1, 1), "f")}),
    "softmax along rows": ([node("Softmax", "image", axis=3)], [3, 33, 33], {}),
    "mean over columns": ([node("ReduceMean", "image", "a")], [3, 33, 1], {"a": np.array([3])}),
    "norm along rows": (
        [node("LayerNormalization", "image", "g", axis=-1)],
        [3, 33, 33],
        {"g": np.ones(33, "f")},
    ),
    "transpose": ([node("Transpose", "image", perm=[0, 2, 3, 1])], [33, 33, 3], {}),
    "pixels in one axis": (
        [node("Reshape", "image", "s", output="x"), node("Add", "x", "one")],
        [3, 1089],
        {"s": np.array([0, 3, 1089]), "one": np.ones((1, 1, 1), "f")},
    ),
    "and in two again": (
        [node("Reshape", "image", "s", output="x"), node("Reshape", "x", "t", output="y"), node("Add", "y", "one")],
        [3, 33, 33],
        {"s": np.array([0, 3, 1089]), "t": np.array([0, 3, 33, 33]), "one": np.ones((1, 1, 1, 1), "f")},
    ),
    "crop of columns": (
        [node("Slice", "image", "l", "h", "a")],
        [3, 33, 20],
        {"l": np.array([3]), "h": np.array([23]), "a": np.array([3])},
    ),
    "crop of the last rows": (
        [node("Slice", "image", "l", "h", "a")],
        [3, 20, 33],
        {"l": np.array([0]), "h": np.array([20]), "a": np.array([2])},
    ),
    "channels put together": ([node("Concat", "image", "image", axis=1)], [6, 33, 33], {}),
    "product": ([node("MatMul", "image", "w")], [3, 33, 4], {"w": RNG.standard_normal((33, 4)).astype("f")}),
    "convolution": (
        [node("Conv", "image", "w", pads=[1, 1, 1, 1])],
        [2, 33, 33],
        {"w": RNG.standard_normal((2, 3, 3, 3)).astype("f")},
    ),
    "convolution of stride 2": (
        [node("Conv", "image", "w", pads=[1, 1, 1, 1], strides=[2, 2])],
        [2, 17, 17],
        {"w": RNG.standard_normal((2, 3, 3, 3)).astype("f")},
    ),
    "wide convolution of a convolution": (
        [node("Conv", "image", "v", pads=[1, 1, 1, 1], output="x"), node("Conv", "x", "w", pads=[2, 2, 2, 2])],
        [2, 33, 33],
        {"v": RNG.standard_normal((3, 3, 3, 3)).astype("f"), "w": RNG.standard_normal((2, 3, 5, 5)).astype("f")},
    ),
}
BEYOND_A_ROW = {
    "softmax along columns": ([node("Softmax", "image", axis=2)], [3, 33, 33], {}),
    "mean over rows": ([node("ReduceMean", "image", "a")], [3, 1, 33], {"a": np.array([2])}),
    "mean over all": ([node("ReduceMean", "image", "a")], [1, 1, 1], {"a": np.array([1, 2, 3])}),
    "mean over the last axes": ([node("ReduceMean", "image", "a")], [3, 1, 1], {"a": np.array([-1, -2])}),
    "norm over pixels": (
        [node("LayerNormalization", "image", "g", axis=2)],
        [3, 33, 33],
        {"g": np.ones((33, 33), "f")},
    ),
    "a factor for each row": ([node("Mul", "image", "c")], [3, 33, 33], {"c": RNG.random((33, 1)).astype("f")}),
    "with itself turned": (
        [node("Transpose", "image", perm=[0, 1, 3, 2], output="x"), node("Add", "image", "x")],
        [3, 33, 33],
        {},
    ),
    "product over rows": ([node("MatMul", "w", "image")], [3, 4, 33], {"w": RNG.standard_normal((4, 33)).astype("f")}),
    "product of two": ([node("MatMul", "image", "image")], [3, 33, 33], {}),
    "rows put together": ([node("Concat", "image", "image", axis=2)], [3, 66, 33], {}),
    "crop of the first rows": (
        [node("Slice", "image", "l", "h", "a")],
        [3, 30, 33],
        {"l": np.array([3]), "h": np.array([33]), "a": np.array([2])},
    ),
    "every other row": (
        [node("Slice", "image", "l", "h", "a", "s")],
        [3, 17, 33],
        {"l": np.array([0]), "h": np.array([33]), "a": np.array([2]), "s": np.array([2])},
    ),
    "rows and channels in one axis": ([node("Reshape", "image", "s")], [99, 33], {"s": np.array([0, 99, 33])}),
    "dilated convolution": (
        [node("Conv", "image", "w", pads=[2, 2, 2, 2], dilations=[2, 2])],
        [2, 33, 33],
        {"w": RNG.standard_normal((2, 3, 3, 3)).astype("f")},
    ),
    "unknown operator": ([node("Softplus", "image")], [3, 33, 33], {}),
}


@pytest.mark.parametrize("name", [*ROW_BY_ROW, *BEYOND_A_ROW])
def test_a_node_is_split_if_it_works_row_by_row_and_computes_the_same(name):
    nodes, output, constants = (ROW_BY_ROW | BEYOND_A_ROW)[name]
    whole = rows_model(nodes, output, **constants)
    strips = in_strips(whole, 200)
    (got,), (expected,) = run(strips, ["features"]), run(whole, ["features"])
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    last = onnx.load_from_string(strips).graph.node[-1]
    joined = last.op_type == "Concat" and all(part.endswith("]") for part in last.input)
    assert joined == (name in ROW_BY_ROW)


def test_whole_pixels_in_one_axis_are_the_whole_image_reshaped():
    """Both are needed whole, and their strips are put together once."""
    nodes = [
        node("Add", "image", "one", output="rows"),
        node("Reshape", "rows", "s", output="pixels"),
        node("Softmax", "pixels", axis=2, output="x"),
        node("Softmax", "rows", axis=2, output="y"),
        node("ReduceMean", "x", "a", output="m"),
        node("ReduceMean", "y", "b", output="n"),
        node("Add", "m", "n"),
    ]
    constants = {"one": np.ones((1, 1, 1, 1), "f"), "s": np.array([0, 3, 1089])}
    axes = {"a": np.array([1, 2]), "b": np.array([2, 3])}
    whole = rows_model(nodes, [1, 3, 1], **constants, **axes)
    strips = in_strips(whole, 200)
    (got,), (expected,) = run(strips, ["features"]), run(whole, ["features"])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert sum(each.op_type == "Concat" for each in onnx.load_from_string(strips).graph.node) == 1
