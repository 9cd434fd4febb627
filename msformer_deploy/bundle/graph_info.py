"""What an ONNX file contains, as plain data, without running it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from ..errors import DeployError


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """Inputs, outputs, opsets, operator counts and local functions of a graph."""
    return {
        "inputs": [_tensor(value) for value in model.graph.input],
        "outputs": [_tensor(value) for value in model.graph.output],
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "producer": model.producer_name,
        "nodes": len(model.graph.node),
        "operators": dict(Counter(_operator(node) for node in model.graph.node).most_common()),
        "functions": [f"{function.domain}::{function.name}" for function in model.functions],
        "initializers": len(model.graph.initializer),
    }


def describe_file(path: Path) -> dict[str, Any]:
    """Describe the graph in a file, and check it.

    Raises:
        DeployError: it is not a readable, valid ONNX file.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, the checker and the file system each raise their own
        raise DeployError(f"{path}: not a valid ONNX file ({' '.join(str(error).split())[:200]})") from error
    return describe(model)


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else str(node.op_type)


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": onnx.TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": [dim.dim_param or dim.dim_value for dim in tensor.shape.dim],
    }
