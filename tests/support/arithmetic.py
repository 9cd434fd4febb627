"""Which 8-bit arithmetic this CPU has, and what the one without VNNI makes of products."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

FLAGS = ("avx2", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm")
EXACT = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


def _flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":")[1].split()}


_FOUND = _flags()
ARITHMETIC = f"{platform.machine()} with {', '.join(flag for flag in FLAGS if flag in _FOUND) or 'flags unknown'}"
# Whether sums of two 8-bit products are cut off; None where the flags do not say.
SATURATES = None if not _FOUND or platform.machine() not in ("x86_64", "AMD64") else _FOUND.isdisjoint(EXACT)


def saturating(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int8 (M, K) times int8 (K, N) as kernels without VNNI do it: unsigned by adding 128, pairs summed in 16 bits."""
    unsigned = activations.astype(np.int32) + 128
    products = unsigned[:, :, None] * weights.astype(np.int32)[None]
    pairs = products.reshape(len(activations), -1, 2, weights.shape[1]).sum(axis=2).clip(-32768, 32767)
    return pairs.sum(axis=1) - 128 * weights.astype(np.int32).sum(axis=0)


def int8_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The quantised matrices of a graph, by name."""
    return {
        entry.name: numpy_helper.to_array(entry)
        for entry in model.graph.initializer
        if entry.data_type == TensorProto.INT8 and len(entry.dims) == 2
    }


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with weights of 8 bits in place of 7, as older bundles have them: twice the number, half the scale."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    scales = {node.input[1] for node in wide.graph.node for name in node.input if name in int8_weights(model)}
    for entry in wide.graph.initializer:
        array = numpy_helper.to_array(entry)
        if entry.name in int8_weights(model):
            array = (2 * array.astype(np.int16)).clip(-127, 127).astype(np.int8)
        elif entry.name in scales:
            array = array / 2
        entry.CopyFrom(numpy_helper.from_array(array.astype(numpy_helper.to_array(entry).dtype), entry.name))
    return wide
