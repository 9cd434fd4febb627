"""The exporter sees each of our torch ops as one node, whose body runs in ONNX Runtime to torch's result."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from msformer_deploy import kernels
from msformer_deploy.export import nodes


class OneUpdate(torch.nn.Module):
    """An update of the head and the labels it gives: the two ops that no network contains."""

    def forward(self, features, head):
        updated, _, loss, _ = kernels.head_refine_step(
            features.flatten(2), head, torch.zeros_like(head), offset=1, stride=3, lr=0.3, momentum=0.9
        )
        labels, counts = kernels.cluster_argmax(features, updated)
        return updated, loss, labels, counts


@pytest.mark.slow
def test_ops_export_as_nodes_and_their_bodies_compute_what_torch_does():
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.randn(2, 4, 5, 7, generator=generator), torch.randn(2, 6, 4, generator=generator))
    names = ["updated", "loss", "labels", "counts"]
    program = torch.onnx.export(
        OneUpdate().eval(),
        inputs,
        dynamo=True,
        optimize=False,
        verbose=False,
        opset_version=20,
        input_names=["features", "head"],
        output_names=names,
        custom_translation_table=nodes.translations(),
    )
    model = ir.to_proto(program.model)
    called = {node.op_type for node in model.graph.node if node.domain == nodes.DOMAIN}
    assert called == {"HeadRefineStep", "ClusterArgmax"}
    model.functions.extend(nodes.bodies(called))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in zip(("features", "head"), inputs, strict=True)}
    for got, expected in zip(session.run(names, feed), OneUpdate()(*inputs), strict=True):
        assert got.dtype == expected.numpy().dtype
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-6)
