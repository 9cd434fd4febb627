"""MSNet and M2SNet: the goldens, the constant convolutions against dense ones, half types, and the exported graph."""

from __future__ import annotations

import logging
import warnings
from collections import Counter

import goldens
import numpy as np
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from msformer_deploy.models.subtraction import BoxFilter, M2SNet, MSNet, SubtractionNet

NETWORKS = {"msnet": MSNet, "m2snet": M2SNet}
CLASSIFIER = 2_049_000  # parameters of the backbone's, which is no part of ours


def tiny(network: str = "m2snet") -> SubtractionNet:
    torch.manual_seed(0)
    return NETWORKS[network](channels=8, layers=(1, 1, 1, 1))


def images(side: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def learned(network: str = "m2snet") -> SubtractionNet:
    """A small network in eval mode whose running statistics are those of its images."""
    model = tiny(network).train()
    with torch.no_grad():
        for _ in range(50):
            model(images())
    return model.eval()


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize("network", NETWORKS)
def test_golden_logits_loss_and_gradients(network):
    expected, facts = goldens.read(f"{network}_s352")
    stride, model = facts["logit_stride"], NETWORKS[network]()
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert own == {name: shape for name, shape in facts["state_dict_shapes"].items() if ".fc." not in name}
    assert sum(parameter.numel() for parameter in model.parameters()) + CLASSIFIER == facts["parameters"]
    weights = goldens.weights(facts["state_dict_shapes"])
    model.load_state_dict(weights)
    x = (torch.from_numpy(goldens.rule().image(352)) - 0.5) / 0.25

    logits = model.train()(x)
    goldens.close(logits[:, :, ::stride, ::stride], expected["logits_train"])
    loss = F.binary_cross_entropy_with_logits(logits, (x[:, :1] > 0.3).float())
    assert loss.item() == pytest.approx(float(expected["bce_train"]), rel=1e-5)
    loss.backward()
    published = facts["grad_norms_train_bce"]
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    largest = max(published.values())
    for name, value in published.items():
        # Where rounding decides between the two sides of a ReLU, the deepest gradients in float32 and float64 are
        # 1.4 % apart. The absolute part is for biases before a norm, whose gradient is zero but for rounding.
        assert norms[name] == pytest.approx(value, rel=3e-2, abs=1e-6 * largest), name
    apart = [abs(norms[name] / value - 1) for name, value in published.items() if value > 1e-6 * largest]
    assert np.median(apart) < 2e-3

    model.load_state_dict(weights)
    with torch.no_grad():
        logits = model.eval()(x)
    goldens.close(logits[:, :, ::stride, ::stride], expected["logits_eval"])


@pytest.mark.parametrize(("network", "count"), [("msnet", 29_741_329), ("m2snet", 29_741_585)])
def test_published_size(network, count):
    with torch.device("meta"):
        model = NETWORKS[network]()
    assert sum(parameter.numel() for parameter in model.parameters()) == count - CLASSIFIER
    assert not any("fc" in name for name in model.state_dict())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("side", [64, 96, 160])
def test_logits_have_the_size_of_the_images(network, side):
    with torch.no_grad():
        assert tiny(network)(images(side)).shape == (2, 1, side, side)


@pytest.mark.parametrize("shape", [(1, 3, 65, 65), (1, 3, 64, 72), (1, 1, 64, 64), (3, 64, 64), (1, 3, 0, 0)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match="multiple of 32"):
        tiny().eval()(torch.zeros(shape))


class DenseFilter(nn.Module):
    """The constant convolution as its definition has it."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.register_buffer("ones", torch.ones(channels, channels, size, size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.conv2d(x, self.ones, padding=self.ones.shape[-1] // 2)).relu()


def filters(size: int, dtype: torch.dtype) -> tuple[BoxFilter, DenseFilter]:
    """A box filter and the dense one with the same norm, every channel of which differs."""
    box, dense = BoxFilter(16, size).to(dtype), DenseFilter(16, size).to(dtype)
    generator = torch.Generator().manual_seed(2)
    for tensor in box.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    dense.load_state_dict(box.state_dict())
    return box, dense


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
@pytest.mark.parametrize("scale", [1.0, 1e-3], ids=["plain", "epsilon matters"])
def test_a_box_filter_is_the_dense_convolution(size, dtype, tolerance, scale):
    close = {"rtol": tolerance, "atol": tolerance}
    pair = filters(size, dtype)
    generator = torch.Generator().manual_seed(3)
    for step in range(3):
        x = scale * torch.rand(2, 16, 9 + step, 7, generator=generator, dtype=torch.float64).to(dtype)
        slope = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)
        inputs = [x.clone().requires_grad_() for _ in pair]
        outputs = [each.train()(given) for each, given in zip(pair, inputs, strict=True)]
        torch.testing.assert_close(*outputs, **close)
        for output in outputs:
            (output * slope).sum().backward()
        gradients = [given.grad for given in inputs]
        torch.testing.assert_close(*(each / gradients[1].abs().max() for each in gradients), **close)
        torch.testing.assert_close(*([p.grad for p in each.parameters()] for each in pair), **close)
        torch.testing.assert_close(*(dict(each.state_dict()) for each in pair), **close)
    with torch.no_grad():
        before = {name: tensor.clone() for name, tensor in pair[0].state_dict().items()}
        torch.testing.assert_close(*(each.eval()(x) for each in pair), **close)
        torch.testing.assert_close(dict(pair[0].state_dict()), before, rtol=0, atol=0)


def test_the_whole_network_is_that_with_dense_convolutions():
    box, dense = tiny().double(), tiny().double()
    dense.conv_3, dense.conv_5 = DenseFilter(8, 3).double(), DenseFilter(8, 5).double()
    dense.load_state_dict(box.state_dict())
    x = images().double()
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(box.train()(x), dense.train()(x))
        torch.testing.assert_close(dict(box.state_dict()), dict(dense.state_dict()))
        torch.testing.assert_close(box.eval()(x), dense.eval()(x))


def test_shared_norms_see_the_twenty_maps_in_the_published_order():
    model, seen, out = tiny().train(), {"conv_3": [], "conv_5": []}, {}
    for name in seen:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen[name].append(inputs[0].clone())
        )
    for name, module in [*model.named_children(), ("x1", model.resnet.maxpool)]:
        if name != "resnet":
            module.register_forward_hook(lambda _, __, output, name=name: out.__setitem__(name, output.clone()))
    with torch.no_grad():
        model(images())
    pairs = [
        ("x5_dem_1", "x4_dem_1"),
        ("x4_dem_1", "x3_dem_1"),
        ("x3_dem_1", "x2_dem_1"),
        ("x2_dem_1", "x1"),
        ("x5_x4", "x4_x3"),
        ("x4_x3", "x3_x2"),
        ("x3_x2", "x2_x1"),
        ("x5_x4_x3", "x4_x3_x2"),
        ("x4_x3_x2", "x3_x2_x1"),
        ("x5_dem_4", "x4_x3_x2_x1"),
    ]
    for maps in seen.values():
        assert len(maps) == 20
        for (deeper, shallower), first, second in zip(pairs, maps[::2], maps[1::2], strict=True):
            size = out[shallower].shape[2:]
            resized = F.interpolate(out[deeper], size=size, mode="bilinear", align_corners=False)
            torch.testing.assert_close(first, resized, rtol=0, atol=1e-6)
            assert torch.equal(second, out[shallower]), (deeper, shallower)
    assert model.conv_3.norm.num_batches_tracked == model.conv_5.norm.num_batches_tracked == 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_beyond_fp16_are_right_in_half_types(dtype):
    x = 200 + 50 * torch.rand(1, 64, 8, 8, generator=torch.Generator().manual_seed(4))
    x = x.to(dtype)
    exact = BoxFilter(64, 5)
    with torch.no_grad():
        expected = exact(x.float())
        assert exact.norm.running_var.max() > torch.finfo(torch.float16).max
        half = BoxFilter(64, 5).to(dtype)
        learning = half(x)
        with torch.autocast("cpu", dtype):
            under_autocast = BoxFilter(64, 5)(x)
        frozen = half.eval()(x)
        torch.testing.assert_close(frozen.float(), exact.eval()(x.float()), rtol=1e-2, atol=1e-2)
    assert learning.dtype == under_autocast.dtype == frozen.dtype == dtype
    for got in (learning, under_autocast):
        torch.testing.assert_close(got.float(), expected, rtol=1e-2, atol=1e-2)
    for name, tensor in exact.state_dict().items():
        torch.testing.assert_close(half.state_dict()[name], tensor)  # its type too


@pytest.mark.slow
def test_a_halved_network_answers_as_before_but_for_rounding():
    model = learned()
    x = images()
    with torch.no_grad():
        expected = model(x)
        got = model.half()(x.half())
    assert {name for name, tensor in model.named_parameters() if tensor.dtype == torch.float32} == {
        f"conv_{size}.norm.{what}" for size in (3, 5) for what in ("weight", "bias")
    }
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.02 * expected.abs().max().item())
    assert model.double().conv_3.norm.running_var.dtype == torch.float64


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_the_exported_graph_is_of_plain_operators_and_answers_alike(network, caplog):
    model = learned(network).requires_grad_(False)
    if network == "m2snet":
        model.conv_5.norm.running_mean *= 4000 / model.conv_5.norm.running_mean.max()
        model.conv_5.norm.running_var *= 1e6 / model.conv_5.norm.running_var.max()
    x = images(batch=1)
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        program = torch.onnx.export(model, (x,), dynamo=True, opset_version=18, input_names=["image"], verbose=False)
    assert [str(each.message) for each in caught if not issubclass(each.category, FutureWarning)] == []
    assert [record.message for record in caplog.records if "torchvision" not in record.message] == []
    proto = program.model_proto
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", 18)]
    operators = Counter(node.op_type for node in proto.graph.node)
    plain = {"Conv", "Relu", "MaxPool", "AveragePool", "Split", "Add", "Concat", "Sub", "Abs", "Resize"}
    assert operators.keys() - plain <= (
        {"ReduceMean", "Expand", "BatchNormalization"} if network == "m2snet" else set()
    )
    numbers = [numpy_helper.to_array(each) for each in proto.graph.initializer]
    # Converted to fp16 later on, the graph must hold no infinity: the sum's statistics are scaled with the sum.
    assert max(abs(each).max() for each in numbers if each.dtype == np.float32 and each.size) < 3e4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(x)
    (logits,) = session.run(None, {"image": x.numpy()})
    goldens.close(torch.from_numpy(logits), expected.numpy())
