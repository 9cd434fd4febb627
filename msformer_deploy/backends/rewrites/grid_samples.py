"""A deformable convolution in operators that every runtime has.

OpenVINO and TensorRT read no DeformConv, and ONNX Runtime before 1.25 has none on the CPU.

Where offsets and factors are constants, each of the nine taps is a GridSample at constant places, and the convolution
is a product over taps and channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

TAPS = 9  # of a 3x3 kernel, row by row


def without_deform_conv(graph: onnx.GraphProto) -> None:
    """Replace every call of our function DeformConv, in place; its weight, offsets and factors are initializers."""
    calls = [node for node in graph.node if node.domain and node.op_type == "DeformConv"]
    if not calls:
        return
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node not in calls:
            graph.node.append(node)
            continue
        image, *names = node.input
        tensors, made = _grid_samples(
            node.output[0], image, *(numpy_helper.to_array(constants[name]) for name in names)
        )
        for name in names:
            graph.initializer.remove(constants[name])
        graph.initializer.extend(tensors)
        graph.node.extend(made)


def _grid_samples(
    name: str, image: str, weight: NDArray[np.float32], offset: NDArray[np.float32], mask: NDArray[np.float32]
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Initializers and nodes that give ``name``: all taps in one GridSample, one below the other."""
    filters, channels, height, width = len(weight), weight.shape[1], *mask.shape[2:]
    places = np.concatenate(list(_places(offset[0].reshape(TAPS, 2, height, width))))
    values = {
        "grid": places[None],
        "factors": mask.reshape(1, 1, TAPS, height, width),
        "matrix": np.ascontiguousarray(weight.reshape(filters, channels * TAPS, 1, 1)),
        "taps_shape": np.array([0, channels, TAPS, height, width]),
        "flat_shape": np.array([0, channels * TAPS, height, width]),
        "ones": np.ones(3, np.int64),
    }
    given = {
        key: f"{name}/{key}" for key in (*values, "batch", "shape", "grids", "sampled", "taps", "weighted", "flat")
    }
    nodes = [
        helper.make_node("Shape", [image], [given["batch"]], start=0, end=1),
        helper.make_node("Concat", [given["batch"], given["ones"]], [given["shape"]], axis=0),
        helper.make_node("Expand", [given["grid"], given["shape"]], [given["grids"]]),
        helper.make_node("GridSample", [image, given["grids"]], [given["sampled"]], align_corners=1),
        helper.make_node("Reshape", [given["sampled"], given["taps_shape"]], [given["taps"]]),
        helper.make_node("Mul", [given["taps"], given["factors"]], [given["weighted"]]),
        helper.make_node("Reshape", [given["weighted"], given["flat_shape"]], [given["flat"]]),
        helper.make_node("Conv", [given["flat"], given["matrix"]], [name]),
    ]
    return [numpy_helper.from_array(value, given[key]) for key, value in values.items()], nodes


def _places(offset: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Where each tap looks, (H, W, 2): right then down, -1 and 1 at the centres of the outermost pixels."""
    height, width = offset.shape[2:]
    rows, columns = np.arange(height)[:, None], np.arange(width)
    for tap, (down, right) in enumerate(offset.astype(np.float64)):
        x = 2 * (right + columns + (tap % 3 - 1)) / (width - 1) - 1
        y = 2 * (down + rows + (tap // 3 - 1)) / (height - 1) - 1
        yield np.stack([x, y], axis=2).astype(np.float32)
