"""A graph rewritten to work on horizontal strips of an image, so that what is between its products stays in a cache.

Whole, the hidden tokens of one block at 257 x 257 are 106 MB, written and read by each of a dozen operators: on a CPU
that costs as much as the products. In strips the same operators run on a few rows at a time. Only what looks at all
rows, such as a mean over the image, still waits for every strip. The files of a bundle stay as they are, because a GPU
wants few large operators; a backend for the CPU rewrites them when it loads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .rows import Rows, attribute, doubled, rows_of
from .transposes import cancel_transposes, inlined_but_for_strips

PIXELS = 4096  # of a strip, about
ATTENTION = "CrossScaleAttention"


def in_strips(
    model: Path | bytes, pixels: int = PIXELS, *, channels_last: bool = False, pointwise: bool = True
) -> bytes:
    """The graph for one image, serialised, rewritten to strips; results agree up to rounding.

    Any of our graphs can be given: what is not known to work row by row runs whole, as before.

    Args:
        model: an ONNX file, or its bytes; the batch comes first in every input and output, and will be 1.
        pixels: of a strip, about; it has one row at least.
        channels_last: make outputs (1, C, H, W) (1, H, W, C), which is how features arise and what learning wants.
        pointwise: make a product before a convolution a 1x1 convolution. ONNX Runtime then need not change the layout
            between them; OpenVINO multiplies faster.
    """
    loaded = inlined_but_for_strips(onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model))
    cancel_transposes(loaded.graph)
    if channels_last:
        leave_channels_last(loaded.graph)
    # With the batch unknown, ONNX Runtime plans its memory in a time that grows with the square of the nodes.
    for value in (*loaded.graph.input, *loaded.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    _Rewriter(loaded, pixels, pointwise).apply()
    if not any(node.domain for node in loaded.graph.node):
        del loaded.functions[:]
    return loaded.SerializeToString()


def leave_channels_last(graph: onnx.GraphProto) -> None:
    """Leave out the transposition that outputs (N, C, H, W) end with; where there is none, put its inverse behind.

    Whatever else reads such an output reads it as before.
    """
    producer = {name: node for node in graph.node for name in node.output}
    for value in graph.output:
        name, dims = value.name, list(value.type.tensor_type.shape.dim)
        if len(dims) != 4:
            continue
        del value.type.tensor_type.shape.dim[:]
        value.type.tensor_type.shape.dim.extend(dims[axis] for axis in (0, 2, 3, 1))
        last, first = producer[name], f"{name}/channels first"
        is_transposed = last.op_type == "Transpose" and attribute(last, "perm", None) == [0, 3, 1, 2]
        if is_transposed and not any(name in node.input for node in graph.node):
            graph.node.remove(last)
        else:
            _rename(graph, name, first)
        if is_transposed:
            _rename(graph, last.input[0], name)
        else:
            graph.node.append(helper.make_node("Transpose", [first], [name], perm=[0, 2, 3, 1]))


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


class _Rewriter:
    """One pass over the nodes in their order. A node that works row by row is copied when strips of it are asked for.

    Whole values keep their names; the part of ``x`` from row 8 to row 16 is ``x[8:16]``. Together with the strips go
    exact changes of the arithmetic that are a gain on a CPU: constants behind an attention are taken into its context;
    a product and what is added to it are one ``Gemm``; a product before a convolution is a 1x1 convolution, which
    leaves its result in the layout that the next one wants.
    """

    def __init__(self, model: onnx.ModelProto, pixels: int, pointwise: bool) -> None:
        self._graph, self._pixels, self._points = model.graph, pixels, pointwise
        self._constants = {each.name: numpy_helper.to_array(each) for each in self._graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self._shapes = {name: list(array.shape) for name, array in self._constants.items()}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            if value.type.tensor_type.HasField("shape"):
                self._shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        self._producer = {name: node for node in self._graph.node for name in node.output}
        self._uses = Counter(name for node in self._graph.node for name in node.input)
        self._uses.update(value.name for value in self._graph.output)
        self._layout: dict[str, Rows] = {}
        self._whole = {value.name for value in self._graph.input}  # of those in the layout
        self._attended: dict[str, tuple[str, str]] = {}  # queries and context, where softmax(queries) context is meant
        self._parts: dict[tuple[str, int, int], str] = {}
        self._cuts: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []

    def apply(self) -> None:
        for value in self._graph.input:
            if len(shape := self._shapes[value.name]) == 4:
                self._layout[value.name] = Rows(2, shape[2])
        for node in self._graph.node:
            if self._streams(node):
                self._stream(node)
            elif self._folds(node):
                self._fold(node)
            elif rows := rows_of(node, self._layout, self._shapes, self._constants):
                self._layout[node.output[0]] = rows
            else:
                self._keep(node)
        for value in self._graph.output:
            self._make_whole(value.name)
        used = {name for node in self._nodes for name in node.input}
        del self._graph.node[:], self._graph.value_info[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in self._constants.items() if name in used
        )

    # Whole values.

    def _keep(self, node: onnx.NodeProto) -> None:
        for name in node.input:
            self._make_whole(name)
        self._nodes.append(node)
        self._whole.update(node.output)
        if rows := doubled(node, self._layout, self._shapes):
            self._layout[node.output[0]] = rows

    def _make_whole(self, name: str) -> None:
        if name not in self._layout or name in self._whole:
            return
        node = self._producer[name]
        if node.op_type == "Reshape" and node.input[0] in self._layout:  # costs nothing, where strips are put together
            self._make_whole(node.input[0])
            self._nodes.append(node)
        else:
            parts = [self._part(name, *strip) for strip in self._strips(name)]
            self._emit("Concat", parts, name, axis=self._layout[name].axis)
        self._whole.add(name)

    # Parts of values.

    def _strips(self, name: str) -> list[tuple[int, int]]:
        """First row and end of every strip, as equal as can be; images are square."""
        rows = self._layout[name].rows
        count = min(rows, max(1, round(rows * rows / self._pixels)))
        return list(pairwise(round(index * rows / count) for index in range(count + 1)))

    def _part(self, name: str, low: int, high: int) -> str:
        """Name of rows ``low`` to ``high`` of a value, made when first asked for; of a value without rows, its own."""
        if name not in self._layout:
            return name
        key = (name, low, high)
        if key not in self._parts:
            if name in self._whole:
                self._parts[key] = self._cut(name, name, low, high)
            elif (low, high) not in self._strips(name) and self._uses[name] > 1:
                self._parts[key] = self._assemble(name, low, high)
            else:
                self._parts[key] = self._rows(name, low, high)
        return self._parts[key]

    def _cut(self, name: str, source: str, low: int, high: int) -> str:
        """Rows of ``source``, which is laid out as the value ``name`` is."""
        output = f"{source}[{low}:{high}]"
        if output not in self._cuts:
            self._cuts.add(output)
            axis, _, per = self._layout[name]
            ends = [self._integers(row * per) for row in (low, high)]
            self._emit("Slice", [source, *ends, self._integers(axis)], output)
        return output

    def _assemble(self, name: str, low: int, high: int) -> str:
        """Rows beyond a strip, from the strips, which are made anyway."""
        pieces = []
        for start, end in self._strips(name):
            first, last = max(low, start), min(high, end)
            if first < last:
                strip = self._part(name, start, end)
                inside = (first, last) != (start, end)
                pieces.append(self._cut(name, strip, first - start, last - start) if inside else strip)
        return self._emit("Concat", pieces, f"{name}[{low}:{high}]", axis=self._layout[name].axis)

    def _rows(self, name: str, low: int, high: int) -> str:
        """Rows of a value, computed."""
        output = f"{name}[{low}:{high}]"
        if name in self._attended:
            return self._attend(name, low, high)
        node = self._producer[name]
        if node.op_type == "Conv":
            return self._convolve(node, low, high)
        if self._points and node.op_type == "Transpose" and (pointwise := self._pointwise(node)) is not None:
            part = self._part(pointwise[0], low, high)
            shape = self._integers(1, high - low, self._shapes[name][3], -1)
            image = self._emit("Reshape", [part, shape], f"{part}/image")
            moved = self._emit("Transpose", [image], f"{part}/moved", perm=attribute(node, "perm", None))
            return self._emit("Conv", [moved, *pointwise[1:]], output)
        if node.op_type == "Add" and (linear := self._linear(node)) is not None:
            return self._gemm(*linear, name, low, high)
        if node.op_type == "Concat" and attribute(node, "axis", 0) == 1 and self._layout[name].axis == 2:
            return self._stack(node, low, high)
        inputs = [self._part(each, low, high) for each in node.input]
        if node.op_type == "Slice" and self._layout[node.input[0]].rows != self._layout[name].rows:
            return inputs[0]  # rows before the crop have the same numbers
        if node.op_type == "Add" and self._is(node.input[1], 0):
            return inputs[0]
        if node.op_type == "Pow" and self._is(node.input[1], 2):
            return self._emit("Mul", [inputs[0], inputs[0]], output)
        if node.op_type == "Reshape":
            inputs[1] = self._shape(name, low, high)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = copy.output[0] = output
        copy.input[:] = inputs
        self._nodes.append(copy)
        return output

    def _convolve(self, node: onnx.NodeProto, low: int, high: int) -> str:
        """Rows of a convolution, from the rows under its kernel; beyond the image are zeros as before."""
        image, weight, *bias = node.input
        kernel, rows = self._shapes[weight][2], self._layout[image].rows
        (stride, across), (top, left, _, right) = attribute(node, "strides", [1, 1]), attribute(node, "pads", [0] * 4)
        start, end = low * stride - top, (high - 1) * stride - top + kernel
        output = f"{node.output[0]}[{low}:{high}]"
        if bias and bias[0] in self._constants:  # OpenVINO adds it in a pass of its own if another convolution has it
            self._constants[f"{output}/bias"] = self._constants[bias[0]]
            bias = [f"{output}/bias"]
        return self._emit(
            "Conv",
            [self._part(image, max(start, 0), min(end, rows)), weight, *bias],
            output,
            pads=[max(-start, 0), left, max(end - rows, 0), right],
            strides=[stride, across],
            group=attribute(node, "group", 1),
        )

    def _stack(self, node: onnx.NodeProto, low: int, high: int) -> str:
        """Channels put together, with the pixels in one axis: else ONNX Runtime moves transposes behind all strips."""
        output, flat = f"{node.output[0]}[{low}:{high}]", []
        for index, name in enumerate(node.input):
            shape = self._integers(1, self._shapes[name][1], -1)
            flat.append(self._emit("Reshape", [self._part(name, low, high), shape], f"{output}/{index}"))
        joined = self._emit("Concat", flat, f"{output}/flat", axis=1)
        return self._emit("Reshape", [joined, self._shape(node.output[0], low, high)], output)

    # Products.

    def _product(self, name: str) -> onnx.NodeProto | None:
        """The product of rows with a constant matrix that a value is, if it is used once."""
        node = self._producer.get(name)
        if node is None or node.op_type != "MatMul" or self._uses[name] > 1 or name in self._attended:
            return None
        return node if node.input[0] in self._layout and node.input[1] in self._constants else None

    def _linear(self, add: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
        """A product and what is added to it: a constant vector, or values of the same shape."""
        for name, other in (add.input, reversed(add.input)):
            vector = other in self._constants and len(self._shapes[other]) == 1
            if (node := self._product(name)) is not None and (vector or other in self._layout):
                return node, other
        return None

    def _gemm(self, product: onnx.NodeProto, other: str, name: str, low: int, high: int) -> str:
        output = f"{name}[{low}:{high}]"
        operands: list[str] = []
        for operand in (product.input[0], other):
            part = self._part(operand, low, high)
            if operand in self._layout:
                flat = self._integers(-1, self._shapes[operand][-1])
                part = self._emit("Reshape", [part, flat], f"{output}/{len(operands)}")
            operands.append(part)
        result = self._emit("Gemm", [operands[0], product.input[1], operands[1]], f"{output}/product")
        return self._emit("Reshape", [result, self._shape(name, low, high)], output)

    def _pointwise(self, transpose: onnx.NodeProto) -> tuple[str, str, str] | None:
        """Input, kernel and bias of a 1x1 convolution that gives what the transpose of a product with bias does."""
        source = transpose.input[0]
        add = self._producer.get(source)
        if add is not None and add.op_type == "Reshape" and self._uses[source] == 1:  # tokens laid out as an image
            source = add.input[0]
            add = self._producer.get(source)
        if add is None or add.op_type != "Add" or self._uses[source] > 1:
            return None
        linear = self._linear(add)
        if linear is None or linear[1] in self._layout or attribute(transpose, "perm", None) != [0, 3, 1, 2]:
            return None
        matrix = linear[0].input[1]
        kernel = np.ascontiguousarray(self._constants[matrix].T)[:, :, None, None]
        self._constants.setdefault(f"{matrix}/1x1", kernel)
        self._shapes[f"{matrix}/1x1"] = list(kernel.shape)
        return linear[0].input[0], f"{matrix}/1x1", linear[1]

    # The attention.

    def _streams(self, node: onnx.NodeProto) -> bool:
        """Whether this is an attention with all its inputs in rows, and nobody asks how far its contexts agree."""
        if node.op_type != ATTENTION or self._uses[node.output[4]]:
            return False
        axes = [self._layout[name].axis for name in node.input if name in self._layout]
        return axes == [1, 2, 1, 1, 2, 1]

    def _stream(self, node: onnx.NodeProto) -> None:
        for branch, (query, key, value) in enumerate((node.input[:3], node.input[3:])):
            attended, context = node.output[branch], node.output[2 + branch]
            self._context(key, value, context)
            self._attended[attended] = query, context
            self._layout[attended] = self._layout[query]

    def _folds(self, node: onnx.NodeProto) -> bool:
        """Whether this is a constant matrix or vector behind an attention, which can go into its context."""
        ranks = {"MatMul": 2, "Add": 1}
        if node.op_type not in ranks or node.input[0] not in self._attended or self._uses[node.input[0]] > 1:
            return False
        return node.input[1] in self._constants and len(self._shapes[node.input[1]]) == ranks[node.op_type]

    def _fold(self, node: onnx.NodeProto) -> None:
        """(softmax(Q) C) M = softmax(Q) (C M); and a vector likewise, because the softmax of a query sums to 1."""
        query, context = self._attended[node.input[0]]
        (result,) = node.output
        self._attended[result] = query, self._emit(node.op_type, [context, node.input[1]], f"{result}/context")
        self._layout[result] = self._layout[query]

    def _attend(self, name: str, low: int, high: int) -> str:
        query, context = self._attended[name]
        output = f"{name}[{low}:{high}]"
        weights = self._emit("Softmax", [self._part(query, low, high)], f"{output}/weights", axis=2)
        return self._emit("MatMul", [weights, context], output)

    def _context(self, key: str, value: str, context: str) -> None:
        """Softmax of the keys over all positions times the values: each strip against its own largest key, then joined.

        As in FlashAttention (arXiv 2205.14135): with m the largest key of a channel in a strip and M that of the image,
        a strip's sums count exp(m - M) times.
        """
        last, names = self._integers(2), ("largest", "sum", "product")
        strips: dict[str, list[str]] = {name: [] for name in names}
        for strip in self._strips(value):
            keys = self._part(key, *strip)
            top = self._emit("ReduceMax", [keys, last], f"{keys}/largest")
            powers = self._emit("Exp", [self._emit("Sub", [keys, top], f"{keys}/below")], f"{keys}/powers")
            total = self._emit("ReduceSum", [powers, last], f"{keys}/sum")
            product = self._emit("MatMul", [powers, self._part(value, *strip)], f"{keys}/product")
            for name, result in zip(names, (top, total, product), strict=True):
                strips[name].append(result)
        width, count = self._shapes[value][2], len(strips["sum"])
        tops, sums, products = (self._emit("Concat", strips[name], f"{context}/{name}s", axis=2) for name in names)
        top = self._emit("ReduceMax", [tops, last], f"{context}/top")
        shares = self._emit("Exp", [self._emit("Sub", [tops, top], f"{context}/below")], f"{context}/shares")
        sums = self._emit("Mul", [sums, shares], f"{context}/shared")
        shares = self._emit("Div", [shares, self._emit("ReduceSum", [sums, last], f"{context}/sum")], f"{context}/part")
        shares = self._emit("Reshape", [shares, self._integers(1, width, 1, count)], f"{context}/parts")
        products = self._emit("Reshape", [products, self._integers(1, width, count, width)], f"{context}/stack")
        joined = self._emit("MatMul", [shares, products], f"{context}/rows")
        self._emit("Reshape", [joined, self._integers(1, width, width)], context)

    # Small things.

    def _is(self, name: str, number: float) -> bool:
        constant = self._constants.get(name)
        return constant is not None and bool((constant == number).all())

    def _shape(self, name: str, low: int, high: int) -> str:
        axis, _, per = self._layout[name]
        return self._integers(*self._shapes[name][:axis], (high - low) * per, *self._shapes[name][axis + 1 :])

    def _integers(self, *values: int) -> str:
        name = f"integers {list(values)}"
        self._constants.setdefault(name, np.array(values, np.int64))
        return name

    def _emit(self, operator: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output
