"""Exported graphs as runtimes see them."""

from __future__ import annotations

import onnx
import onnx.shape_inference
import pytest
import trained_weights
from onnx import TensorProto

from msformer_deploy.backends.onnxruntime import ON_SHAPES
from msformer_deploy.backends.rewrites.grid_samples import without_deform_conv


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("system", ["m2snet", "s3net"])
def test_what_encoders_compute_in_integers_is_arithmetic_on_shapes(
    tiny_deformable_bundle, tmp_path_factory, system, rewritten
):
    """ONNX Runtime moves nodes of integers alone from a GPU to the CPU, and may move no others."""
    folder = tiny_deformable_bundle.path
    if system == "m2snet":
        weights = [trained_weights.objects(tmp_path_factory.mktemp("weights") / "m2snet.safetensors")]
        folder = trained_weights.bundles({"m2snet": weights}, tmp_path_factory)["m2snet"]
    model = onnx.load(folder / "encoder.onnx")
    if rewritten:
        without_deform_conv(model.graph)
    graph = onnx.shape_inference.infer_shapes(model).graph
    integers = {each.name for each in graph.value_info if each.type.tensor_type.elem_type == TensorProto.INT64}
    moved = {node.op_type for node in graph.node if integers.issuperset(node.output)}
    assert moved <= ON_SHAPES
    assert bool(moved) is (system == "m2snet" or rewritten)
