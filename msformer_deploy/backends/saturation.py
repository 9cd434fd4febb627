"""Sums of 8-bit products that do not fit into 16 bits, and whether a runtime on this CPU cuts them off.

CPUs without VNNI (AVX2, SSE, AVX-512 before Cascade Lake) multiply unsigned by signed 8-bit numbers and add two such
products in one instruction, vpmaddubsw, whose 16-bit result saturates. ONNX Runtime and oneDNN, which OpenVINO uses,
make signed activations unsigned by adding 128: an activation of 0 becomes 128 and the largest 255, whatever the zero
point is, so that even small activations saturate. Two products are at most 2 x 255 x the largest weight. They fit for
weights up to 64, which have 7 bits. Graphs of :mod:`msformer_deploy.export.precision` have no larger ones; those of
older bundles have, and are right on CPUs with VNNI only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendUnavailable, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST_SAFE = 32767 // (2 * 255)  # magnitude of a weight: 64
ALLOWED = 1e-3  # relative error of the trial product, which is exact without saturation and off by 0.99 with it

_EXTREME = 127  # of a signed 8-bit number
_ROWS = 64  # of the trial's activations


def wide_weights(model: Any) -> set[tuple[int, int]]:
    """Shapes (K, N) of the 8-bit weights of an ``onnx.ModelProto`` two products with which may exceed 16 bits."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    return {
        (entry.dims[0], entry.dims[1])
        for entry in model.graph.initializer
        if entry.data_type == TensorProto.INT8
        and len(entry.dims) == 2
        and np.abs(numpy_helper.to_array(entry).astype(np.int16)).max() > LARGEST_SAFE
    }


def refuse_saturation(name: str, path: Path, run: Callable[[bytes, NDArray[np.float32]], NDArray[np.float32]]) -> None:
    """See that a runtime multiplies the 8-bit weights of a graph without saturation, by a trial where they are wide.

    The trial is one product of each of their shapes, of the largest 8-bit numbers.

    Args:
        name: of the backend, for the message.
        path: the int8 graph, in its bundle.
        run: gives the output of an ONNX graph, serialised, for its one input, computed as the graph's products will be.

    Raises:
        BackendUnavailable: the runtime saturates on this CPU.
    """
    import numpy as np
    import onnx

    for inner, outer in sorted(wide_weights(onnx.load(path))):
        got = run(_trial(inner, outer), np.full((_ROWS, inner), _EXTREME, np.float32))
        error = float(np.abs(got / (_EXTREME * _EXTREME * inner) - 1).max())
        if not error <= ALLOWED:  # written so that NaN fails
            raise BackendUnavailable(
                f"{name} on this CPU cuts off sums of 8-bit products, and {printable(path)} has weights of 8 bits: a"
                f" trial product is {error:.2g} of its value off, allowed {ALLOWED:g}; make the graph again with"
                f" 'msformer-deploy export --output {printable(path.parent)} --update --force --precision int8', or"
                " pass --precision fp32"
            )


def _trial(inner: int, outer: int) -> bytes:
    """A graph whose input (R, K), quantised with scale 1, is multiplied by a weight (K, N) of the largest numbers."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    constants: dict[str, NDArray[Any]] = {
        "weight": np.full((inner, outer), _EXTREME, np.int8),
        "scale": np.array(1, np.float32),
        "zero": np.array(0, np.int8),
        "scales": np.ones(outer, np.float32),
        "zeros": np.zeros(outer, np.int8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["quantised"]),
            helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["activations"]),
            helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["weights"], axis=1),
            helper.make_node("MatMul", ["activations", "weights"], ["y"]),
        ],
        "trial",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [_ROWS, inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [_ROWS, outer])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())
