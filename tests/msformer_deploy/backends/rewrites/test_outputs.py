"""A graph that gives values from inside it, and computes nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from msformer_deploy.backends.rewrites.outputs import cut, needed_for, take_channels_last


@pytest.fixture
def model() -> onnx.ModelProto:
    """Y = (x + a) * b, with s = x + a inside."""
    constants = [numpy_helper.from_array(np.float32([2]), "a"), numpy_helper.from_array(np.float32([3]), "b")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "a"], ["s"]), helper.make_node("Mul", ["s", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_only_what_is_needed_stays(model: onnx.ModelProto) -> None:
    cut(model.graph, {}, {"s": ("batch",)})
    assert [node.op_type for node in model.graph.node] == ["Add"]
    assert [each.name for each in model.graph.initializer] == ["a"]
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {"x": np.float32([1, 5])})
    np.testing.assert_array_equal(found, [3, 7])


def test_a_value_that_is_not_there(model: onnx.ModelProto) -> None:
    with pytest.raises(KeyError, match="prior"):
        cut(model.graph, {}, {"prior": ("batch",)})
    with pytest.raises(KeyError, match="prompts"):
        cut(model.graph, {"prompts": (1,)}, {"y": ("batch",)})


def test_a_value_can_be_given_in_place_of_what_computes_it(model: onnx.ModelProto) -> None:
    cut(model.graph, {"s": (1,)}, {"y": ("another",)})
    assert [node.op_type for node in model.graph.node] == ["Mul"]
    assert [each.type.tensor_type.shape.dim[0].dim_param for each in model.graph.output] == ["batch"], "as it was"
    (found,) = ReferenceEvaluator(model).run(None, {"x": np.float32([0]), "s": np.float32([5])})
    np.testing.assert_array_equal(found, [15])


def test_what_an_output_is_computed_from(model: onnx.ModelProto) -> None:
    assert needed_for(model.graph, "y") == {"x", "a", "s", "b", "y"}
    assert needed_for(model.graph, "s") == {"x", "a", "s"}


def test_a_value_is_given_to_those_who_read_it_before_it_is_transposed() -> None:
    """Y = x + 1 as it is and transposed back: whoever gives the transposed one gives both."""
    nodes = [
        helper.make_node("Add", ["x", "a"], ["last"]),
        helper.make_node("Transpose", ["last"], ["features"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMax", ["last", "axis"], ["largest"], keepdims=0),
        helper.make_node("Transpose", ["features"], ["rows"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
        helper.make_node("Add", ["largest", "sum"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in SHAPES.items()]
    constants = [numpy_helper.from_array(np.float32([1]), "a"), numpy_helper.from_array(np.array([3]), "axis")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = np.random.default_rng(0).random((1, 4, 5, 3), dtype=np.float32)
    (expected,) = ReferenceEvaluator(whole).run(None, {"x": x})
    cut(whole.graph, {"features": (1, 3, 4, 5)}, {"y": ()})
    features = (x + 1).transpose(0, 3, 1, 2)
    (found,) = ReferenceEvaluator(whole).run(None, {"features": features, "x": 0 * x})
    np.testing.assert_allclose(found, expected)
    assert "Add" not in [node.op_type for node in whole.graph.node if "a" in node.input], "nothing before it is left"
    take_channels_last(whole.graph, "features")
    (found,) = ReferenceEvaluator(whole).run(None, {"features": features.transpose(0, 2, 3, 1), "x": 0 * x})
    np.testing.assert_allclose(found, expected)
    assert "Transpose" not in [node.op_type for node in whole.graph.node]


SHAPES = {"x": (1, 4, 5, 3), "y": (1, 4, 5)}
