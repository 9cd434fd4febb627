"""Transpositions that undo one another go, and nothing else does."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from msformer_deploy.backends.rewrites.transposes import cancel_transposes, inlined_but_for_strips
from msformer_deploy.bundle.folder import Bundle


def graph_of(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )


def transpose(source: str, result: str, *perm: int) -> onnx.NodeProto:
    return helper.make_node("Transpose", [source], [result], perm=list(perm))


def read(graph: onnx.GraphProto) -> list[tuple[str, list[str]]]:
    return [(node.op_type, list(node.input)) for node in graph.node]


@pytest.mark.parametrize("there", [(0, 3, 1, 2), (0, 2, 3, 1), (0, 1, 3, 2)])
def test_a_transposition_and_its_inverse_go(there: tuple[int, ...]) -> None:
    back = [there.index(axis) for axis in range(4)]
    graph = graph_of(transpose("x", "a", *there), transpose("a", "b", *back), helper.make_node("Relu", ["b"], ["y"]))
    cancel_transposes(graph)
    assert read(graph) == [("Relu", ["x"])]


def test_what_is_read_as_it_is_stays() -> None:
    graph = graph_of(
        transpose("x", "a", 0, 2, 3, 1),
        transpose("a", "b", 0, 3, 1, 2),
        helper.make_node("Relu", ["b"], ["y"]),
        helper.make_node("Neg", ["a"], ["z"]),
        outputs=("y", "z"),
    )
    cancel_transposes(graph)
    assert read(graph) == [("Transpose", ["x"]), ("Relu", ["x"]), ("Neg", ["a"])]


@pytest.mark.parametrize("second", [(0, 2, 3, 1), (0, 1, 3, 2)])
def test_others_stay(second: tuple[int, ...]) -> None:
    nodes = transpose("x", "a", 0, 2, 3, 1), transpose("a", "y", *second)
    graph = graph_of(*nodes)
    cancel_transposes(graph)
    assert list(graph.node) == list(nodes)


def test_an_output_of_the_graph_keeps_its_name() -> None:
    nodes = transpose("x", "a", 0, 2, 3, 1), transpose("a", "y", 0, 3, 1, 2)
    graph = graph_of(*nodes)
    cancel_transposes(graph)
    assert [node.output[0] for node in graph.node] == ["a", "y"]


def test_only_the_functions_of_strips_are_left(tiny_bundle: Bundle) -> None:
    model = inlined_but_for_strips(onnx.load(tiny_bundle.file("segmenter.onnx")))
    onnx.checker.check_model(model)
    assert {node.op_type for node in model.graph.node if node.domain} == {"CrossScaleAttention"}
