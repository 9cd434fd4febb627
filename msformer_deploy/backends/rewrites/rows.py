"""Which nodes of our graphs work row by row, and where their results hold the rows of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

ELEMENTWISE = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Gelu", "Cast", "Identity"),
    *("QuantizeLinear", "DequantizeLinear"),
}


class Rows(NamedTuple):
    """Where a value holds the rows of an image, and how many elements of that axis are one row."""

    axis: int
    rows: int
    per: int = 1


Layout = Mapping[str, Rows]  # of the values that have rows
Shapes = Mapping[str, Sequence[int]]  # 0 for what is not known, such as the batch
Constants = Mapping[str, np.ndarray]


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, or the default that its operator has."""
    found = (helper.get_attribute_value(each) for each in node.attribute if each.name == name)
    return next(found, default)


def rows_of(node: onnx.NodeProto, layout: Layout, shapes: Shapes, constants: Constants) -> Rows | None:
    """Where the node's only result has the rows that its inputs have, or None if the node looks beyond a row.

    A convolution looks at the rows beside, which counts as row by row. An operator not known here never does.
    """
    rows = [layout[name] for name in node.input if name in layout]
    if not rows or len(node.output) != 1:
        return None
    if node.op_type in ELEMENTWISE:
        return rows[0] if _broadcasts(node, rows[0], layout, shapes) else None
    if node.op_type == "MatMul":
        return _product(node, layout, shapes)
    if node.op_type == "Concat":
        alike = len(rows) == len(node.input) and len(set(rows)) == 1
        return rows[0] if alike and attribute(node, "axis", None) != rows[0].axis else None
    if node.op_type not in _OF_THE_FIRST or any(name in layout for name in node.input[1:]):
        return None
    return _OF_THE_FIRST[node.op_type](node, rows[0], shapes, constants)


def doubled(node: onnx.NodeProto, layout: Layout, shapes: Shapes) -> Rows | None:
    """Rows of the result of a reshape that makes a row several, as the upsampling has it."""
    if node.op_type != "Reshape" or len(shapes[node.output[0]]) != 4:
        return None
    before, rows = layout.get(node.input[0]), shapes[node.output[0]][1]
    return Rows(1, rows) if before is not None and before.axis == 1 and rows % before.rows == 0 else None


def _broadcasts(node: onnx.NodeProto, rows: Rows, layout: Layout, shapes: Shapes) -> bool:
    """Every input has either these rows or the same for all of them."""
    rank = len(shapes[node.output[0]])
    for name in node.input:
        if name in layout:
            if layout[name] != rows or len(shapes[name]) != rank:
                return False
        elif rank - len(shapes[name]) <= rows.axis and shapes[name][rows.axis - rank] != 1:
            return False
    return True


def _product(node: onnx.NodeProto, layout: Layout, shapes: Shapes) -> Rows | None:
    """Rows times a matrix, or a matrix times columns."""
    left, right = node.input
    last = len(shapes[node.output[0]]) - 1
    if left in layout and right not in layout and len(shapes[right]) == 2:
        return layout[left] if layout[left].axis < last else None
    if right in layout and left not in layout and len(shapes[left]) == 2:
        return layout[right] if layout[right].axis == last else None
    return None


def _along_the_last_axis(node: onnx.NodeProto, rows: Rows, shapes: Shapes, _: Constants) -> Rows | None:
    axis = attribute(node, "axis", -1) % len(shapes[node.input[0]])
    return rows if rows.axis < axis else None


def _mean(node: onnx.NodeProto, rows: Rows, _: Shapes, constants: Constants) -> Rows | None:
    if len(node.input) < 2 or node.input[1] not in constants or not attribute(node, "keepdims", 1):
        return None
    axes = constants[node.input[1]]
    return rows if rows.axis not in axes and (axes >= 0).all() else None


def _transposed(node: onnx.NodeProto, rows: Rows, _: Shapes, __: Constants) -> Rows:
    return rows._replace(axis=list(attribute(node, "perm", ())).index(rows.axis))


def _convolved(node: onnx.NodeProto, rows: Rows, shapes: Shapes, _: Constants) -> Rows | None:
    plain = attribute(node, "auto_pad", b"NOTSET") == b"NOTSET" and set(attribute(node, "dilations", [1])) == {1}
    return Rows(2, shapes[node.output[0]][2]) if plain and (rows.axis, rows.per) == (2, 1) else None


def _cropped(node: onnx.NodeProto, rows: Rows, shapes: Shapes, constants: Constants) -> Rows | None:
    """A crop of columns, or of the last rows."""
    if len(node.input) < 4 or any(name not in constants for name in node.input[1:]):
        return None
    starts, _, axes, *steps = (constants[name] for name in node.input[1:])
    if rows.axis not in axes:
        return rows if (axes >= 0).all() else None
    simple = len(axes) == 1 and starts[0] == 0 and rows.per == 1 and all((each == 1).all() for each in steps)
    return rows._replace(rows=shapes[node.output[0]][rows.axis]) if simple else None


def _reshaped(node: onnx.NodeProto, rows: Rows, shapes: Shapes, _: Constants) -> Rows | None:
    """Pixels of all rows laid out one after the other, or in rows again, or a change of what is behind the rows."""
    before, after, axis = shapes[node.input[0]], shapes[node.output[0]], rows.axis
    if len(after) <= axis or list(before[1:axis]) != list(after[1:axis]) or not all(after[1:]):
        return None
    if after[axis] == before[axis]:
        return rows
    if rows.per == 1 and after[axis] == math.prod(before[axis : axis + 2]):
        return rows._replace(per=before[axis + 1]) if after[axis + 1 :] == before[axis + 2 :] else None
    if rows.per > 1 and after[axis] == rows.rows:
        return rows._replace(per=1) if after[axis + 2 :] == before[axis + 1 :] else None
    return None


_OF_THE_FIRST = {
    "LayerNormalization": _along_the_last_axis,
    "Softmax": _along_the_last_axis,
    "ReduceMean": _mean,
    "Transpose": _transposed,
    "Conv": _convolved,
    "Slice": _cropped,
    "Reshape": _reshaped,
}
