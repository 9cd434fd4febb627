"""A graph that gives values from inside it, and computes nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from msformer_deploy.backends.rewrites.outputs import give_instead, needed_for


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
    give_instead(model.graph, {"s": ("batch",)})
    assert [node.op_type for node in model.graph.node] == ["Add"]
    assert [each.name for each in model.graph.initializer] == ["a"]
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {"x": np.float32([1, 5])})
    np.testing.assert_array_equal(found, [3, 7])


def test_a_value_that_is_not_there(model: onnx.ModelProto) -> None:
    with pytest.raises(KeyError, match="prior"):
        give_instead(model.graph, {"prior": ("batch",)})


def test_what_an_output_is_computed_from(model: onnx.ModelProto) -> None:
    assert needed_for(model.graph, "y") == {"x", "a", "s", "b", "y"}
    assert needed_for(model.graph, "s") == {"x", "a", "s"}
