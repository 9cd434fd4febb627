"""A part of a graph: what some of its values are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper


def needed_for(graph: onnx.GraphProto, output: str) -> set[str]:
    """Names of the values that an output is computed from, and its own."""
    needed = {output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    return needed


def drop_unneeded(graph: onnx.GraphProto) -> None:
    """Take out of a graph what none of its outputs is computed from."""
    needed = set().union(*(needed_for(graph, value.name) for value in graph.output))
    for kind in ("node", "initializer", "value_info"):
        entries = getattr(graph, kind)
        kept = [each for each in entries if needed.intersection(each.output if kind == "node" else [each.name])]
        del entries[:]
        entries.extend(kept)


def give_instead(graph: onnx.GraphProto, outputs: Mapping[str, Sequence[int | str | None]]) -> None:
    """Change a graph to give other values, by their names and shapes, float32, and to compute nothing else.

    Raises:
        KeyError: the graph has no value of that name.
    """
    made = {name for node in graph.node for name in node.output}
    del graph.output[:]
    for name, shape in outputs.items():
        if name not in made:
            raise KeyError(name)
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    drop_unneeded(graph)
