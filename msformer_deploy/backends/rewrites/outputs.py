"""A part of a graph: what some of its values are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from .rows import attribute
from .transposes import cancel_transposes

Shape = Sequence[int | str | None]


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


def cut(graph: onnx.GraphProto, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> None:
    """Change a graph to give other values, to be given some that it computes, and to compute nothing else, in place.

    Args:
        graph: any; its own inputs stay, where something needs them.
        inputs: values that it is given, float32, by name, with their shapes.
        outputs: values that it gives, by name, with their shapes; those that it gave before keep their own.

    Raises:
        KeyError: the graph has no value of that name.
    """
    made = {name for node in graph.node for name in node.output}
    for name in (*inputs, *outputs):
        if name not in made:
            raise KeyError(name)
    for name, shape in inputs.items():
        _give(graph, name)
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    former = {value.name: value for value in graph.output}
    floats = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items())
    given = [former.get(value.name, value) for value in floats]
    del graph.output[:]
    graph.output.extend(given)
    drop_unneeded(graph)


def _give(graph: onnx.GraphProto, name: str) -> None:
    """Let nobody read a value from what computes it.

    Where that is a transposition, others may read what is transposed, see :mod:`.transposes`; that is given, too.
    """
    (place,) = (index for index, node in enumerate(graph.node) if name in node.output)
    maker = graph.node[place]
    before = maker.input[0] if maker.op_type == "Transpose" and not maker.domain else None
    for node in graph.node:
        node.output[:] = [f"{each}/computed" if each in (name, before) else each for each in node.output]
    if before is not None:
        inverse = np.argsort(attribute(maker, "perm", None)).tolist()
        maker.input[0] = f"{before}/computed"
        graph.node.insert(place, helper.make_node("Transpose", [name], [before], perm=inverse))


def take_channels_last(graph: onnx.GraphProto, name: str) -> None:
    """Let a graph be given an input (N, C, H, W) as (N, H, W, C), which it has from a transposition as a rule."""
    (value,) = (each for each in graph.input if each.name == name)
    dims = list(value.type.tensor_type.shape.dim)
    del value.type.tensor_type.shape.dim[:]
    value.type.tensor_type.shape.dim.extend(dims[axis] for axis in (0, 2, 3, 1))
    first = f"{name}/channels first"
    for node in graph.node:
        node.input[:] = [first if each == name else each for each in node.input]
    graph.node.insert(0, helper.make_node("Transpose", [name], [first], perm=[0, 3, 1, 2]))
    cancel_transposes(graph)
