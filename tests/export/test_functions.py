"""The ONNX bodies of our ops, run in ONNX Runtime, against the torch reference."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from msformer_deploy.export.functions import FUNCTIONS, OPSET
from msformer_deploy.export.nodes import DOMAIN
from msformer_deploy.kernels import reference
from msformer_deploy.models.deformable import deform_conv


def run(name: str, inputs: dict[str, np.ndarray], outputs: int, **attributes: float) -> list[np.ndarray]:
    """One call of a function, as a graph of its own."""
    proto = {function.name: function.to_function_proto() for function in FUNCTIONS}[name]
    names = [f"out{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(name, list(inputs), names, domain=DOMAIN, **attributes)],
        name,
        [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for key, value in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(output) for output in names],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=[proto], opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("batch", "heads", "clusters", "size"),
    [(1, 1, 5, (1, 1)), (3, 1, 7, (1, 97)), (2, 2, 1, (4, 9)), (2, 2, 300, (8, 8))],
)
def test_cluster_argmax(batch, heads, clusters, size):
    features, head = random(batch, 6, *size), random(heads, clusters, 6, seed=1)
    kind = onnx.TensorProto.UINT8 if clusters <= 256 else onnx.TensorProto.UINT16
    labels, counts = run("ClusterArgmax", {"features": features, "head": head}, 2, label_type=int(kind))
    expected_labels, expected_counts = reference.cluster_argmax(torch.from_numpy(features), torch.from_numpy(head))
    assert labels.dtype == expected_labels.numpy().dtype
    assert np.array_equal(labels, expected_labels.numpy())
    assert counts.dtype == np.int64
    # With one head the counts have one row per image all the same.
    assert np.array_equal(np.broadcast_to(counts, expected_counts.shape), expected_counts.numpy())
    assert counts.shape == expected_counts.shape


@pytest.mark.parametrize(("fine", "coarse", "width"), [(1, 1, 1), (97, 25, 8)])
def test_cross_scale_attention(fine, coarse, width):
    shapes = [shape for n in (fine, coarse) for shape in ((2, n, width), (2, width, n), (2, n, width))]
    names = [f"{kind}_{scale}" for scale in ("fine", "coarse") for kind in ("query", "key", "value")]
    inputs = {name: random(*shape, seed=seed) for seed, (name, shape) in enumerate(zip(names, shapes, strict=True))}
    got = run("CrossScaleAttention", inputs, 5)
    expected = reference.cross_scale_attention(*(torch.from_numpy(value) for value in inputs.values()))
    for result, truth in zip(got, expected, strict=True):
        np.testing.assert_allclose(result, truth.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("offset", "stride"), [(0, 1), (2, 3), (6, 7)])
def test_head_refine_step(offset, stride):
    features, head, velocity = random(2, 5, 31), random(2, 9, 5, seed=1), random(2, 9, 5, seed=2)
    settings = {"offset": offset, "stride": stride, "lr": 0.3, "momentum": 0.9}
    got = run("HeadRefineStep", {"features": features, "head": head, "velocity": velocity}, 4, **settings)
    expected = reference.head_refine_step(*(torch.from_numpy(x) for x in (features, head, velocity)), **settings)
    for result, truth in zip(got, expected, strict=True):
        np.testing.assert_allclose(result, truth.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("reach", [0.5, 3.0])
def test_deform_conv(batch, reach):
    inputs = {
        "x": random(batch, 4, 6, 9),
        "weight": random(5, 4, 3, 3, seed=1),
        "offset": reach * random(1, 18, 6, 9, seed=2),
        "mask": random(1, 9, 6, 9, seed=3),
    }
    (got,) = run("DeformConv", inputs, 1)
    expected = deform_conv(*(torch.from_numpy(value) for value in inputs.values()))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)
