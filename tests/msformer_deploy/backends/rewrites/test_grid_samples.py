"""A deformable convolution in operators that every runtime has, against ONNX's own DeformConv."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.openvino import prepared
from msformer_deploy.backends.rewrites.grid_samples import without_deform_conv
from msformer_deploy.export.functions import DOMAIN, OPSET, DeformConv

CPU = Device("cpu")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def two_layers(height: int = 6, width: int = 9, reach: float = 1.0) -> onnx.ModelProto:
    """Our function twice, an operator before, between and after; (batch, 3, height, width) to (batch, 4, ...)."""
    constants, nodes, name = {}, [helper.make_node("Neg", ["image"], ["in0"])], "in0"
    for index, (channels, filters) in enumerate(((3, 5), (5, 4))):
        values = {
            "weight": random(filters, channels, 3, 3, seed=4 * index + 1),
            "offset": reach * random(1, 18, height, width, seed=4 * index + 2),
            "mask": random(1, 9, height, width, seed=4 * index + 3),
        }
        given = {key: f"{key}{index}" for key in values}
        constants |= {given[key]: value for key, value in values.items()}
        nodes += [
            helper.make_node("DeformConv", [name, *given.values()], [f"out{index}"], domain=DOMAIN),
            helper.make_node("Tanh", [f"out{index}"], [f"in{index + 1}"]),
        ]
        name = f"in{index + 1}"
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, height, width])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    functions = [DeformConv.to_function_proto()]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"image": image})
    return np.asarray(result)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("reach", [0.5, 5.0])
@pytest.mark.parametrize(("height", "width"), [(6, 9), (2, 5)])
def test_it_computes_what_deform_conv_does(batch, reach, height, width):
    model, image = two_layers(height, width, reach), random(batch, 3, height, width)
    expected = run(model, image)
    without_deform_conv(model.graph)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model, image), expected, rtol=1e-4, atol=1e-5)


def test_nothing_of_the_function_is_left():
    model = two_layers()
    without_deform_conv(model.graph)
    assert not any(node.domain or node.op_type == "DeformConv" for node in model.graph.node)
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used, "its offsets and factors are gone"
    assert len({name for node in model.graph.node for name in node.output}) == len(model.graph.node)


def test_a_graph_without_one_stays_as_it_is(tiny_bundle):
    model = onnx.load(tiny_bundle.file("encoder.onnx"))
    before = model.SerializeToString(deterministic=True)
    without_deform_conv(model.graph)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("strips", [False, True])
def test_openvino_is_given_no_deform_conv(tiny_deformable_bundle, strips):
    model = onnx.load_from_string(prepared(tiny_deformable_bundle.file("encoder.onnx"), strips=strips))
    operators = [node.op_type for node in model.graph.node]
    assert "GridSample" in operators
    assert "DeformConv" not in operators


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_gives_what_onnxruntime_gives(tiny_deformable_bundle, batch):
    pictures = np.random.default_rng(5).random((batch, 3, 24, 24), dtype=np.float32)
    encoded, segmented = {}, {}
    for name in ("onnxruntime", "openvino"):
        with open_backend(name, tiny_deformable_bundle, CPU) as backend:
            encoded[name] = backend.encode(pictures)
        with open_backend(name, tiny_deformable_bundle, CPU, graph="segmenter") as backend:
            segmented[name] = backend.segment(pictures)
    got, truth = (np.asarray(encoded[name].features) for name in ("openvino", "onnxruntime"))
    assert np.abs(got - truth).max() < 1e-4 * np.abs(truth).max()
    assert (segmented["openvino"].label_map == segmented["onnxruntime"].label_map).mean() > 0.999
    np.testing.assert_array_equal(segmented["openvino"].collapsed, segmented["onnxruntime"].collapsed)
    np.testing.assert_allclose(segmented["openvino"].probability, segmented["onnxruntime"].probability, atol=1e-4)
