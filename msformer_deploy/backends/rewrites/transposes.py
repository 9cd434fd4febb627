"""Transpositions that undo one another are left out: an encoder ends with one, and what learns begins with its inverse.

ONNX Runtime leaves them out itself, but not across the strips of :mod:`.strips`. OpenVINO leaves none out.
"""

from __future__ import annotations

from collections import Counter

import onnx
import onnx.inliner

from .rows import attribute

FUNCTIONS_OF_STRIPS = ("CrossScaleAttention", "DeformConv")  # which rewriters look for


def inlined_but_for_strips(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in which functions that no other rewriter looks for are replaced by their bodies."""
    names = [
        (function.domain, function.name) for function in model.functions if function.name not in FUNCTIONS_OF_STRIPS
    ]
    return onnx.inliner.inline_selected_functions(model, names)


def cancel_transposes(graph: onnx.GraphProto) -> None:
    """Let what reads the inverse of a transposition read what was transposed, in place; nodes nobody reads then go."""
    producer = {name: node for node in graph.node for name in node.output}
    renamed: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type != "Transpose" or node.domain:
            continue
        before = producer.get(node.input[0])
        if before is None or before.op_type != "Transpose" or before.domain:
            continue
        first, second = (attribute(each, "perm", None) for each in (before, node))
        if first and second and [first[axis] for axis in second] == list(range(len(first))):
            renamed[node.output[0]] = before.input[0]
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    for node in reversed(list(graph.node)):
        if node.op_type == "Transpose" and not node.domain and not uses[node.output[0]]:
            uses.subtract(node.input)
            graph.node.remove(node)
