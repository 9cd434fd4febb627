"""The backbone: both kinds of block against their definition, sizes, and a state dict with a classifier."""

from __future__ import annotations

import goldens
import pytest
import torch
from torch.nn import functional as F

from msformer_deploy.models.res2net import Bottle2neck, Res2Net


def tiny() -> Res2Net:
    torch.manual_seed(0)
    return Res2Net(channels=8, layers=(2, 1, 1, 1))


def random_block(*arguments: int, opens_stage: bool) -> Bottle2neck:
    """A block in eval mode, none of whose norms is the identity."""
    torch.manual_seed(1)
    block = Bottle2neck(*arguments, opens_stage=opens_stage).double().eval()
    for name, tensor in block.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand_like(tensor) + (0.5 if name.endswith(("weight", "var")) else 0))
    return block


def normed(block: Bottle2neck, x: torch.Tensor, conv: str, norm: str, **options: int) -> torch.Tensor:
    """Convolution and norm by their names in the state dict."""
    state = block.state_dict()
    statistics = [state[f"{norm}.{what}"] for what in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(F.conv2d(x, state[f"{conv}.weight"], **options), *statistics)


def test_a_block_adds_to_each_group_what_the_one_before_found():
    block = random_block(16, 4, opens_stage=False)
    x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
    width = block.convs[0].in_channels
    groups = normed(block, x, "conv1", "bn1").relu().split(width, dim=1)
    first = normed(block, groups[0], "convs.0", "bns.0", padding=1).relu()
    second = normed(block, first + groups[1], "convs.1", "bns.1", padding=1).relu()
    third = normed(block, second + groups[2], "convs.2", "bns.2", padding=1).relu()
    joined = torch.cat([first, second, third, groups[3]], dim=1)
    torch.testing.assert_close(block(x), (normed(block, joined, "conv3", "bn3") + x).relu())


@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_block_of_a_stage_keeps_groups_apart_and_pools(stride):
    block = random_block(8, 4, stride, opens_stage=True)
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64)
    groups = normed(block, x, "conv1", "bn1").relu().split(block.convs[0].in_channels, dim=1)
    found = [normed(block, groups[i], f"convs.{i}", f"bns.{i}", padding=1, stride=stride).relu() for i in range(3)]
    pooled = F.avg_pool2d(groups[3], 3, stride, padding=1, count_include_pad=True)
    smaller = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
    shortcut = normed(block, smaller, "downsample.1", "downsample.2")
    out = normed(block, torch.cat([*found, pooled], dim=1), "conv3", "bn3")
    torch.testing.assert_close(block(x), (out + shortcut).relu())


@pytest.mark.parametrize("side", [64, 96])
def test_stages_have_the_documented_shapes(side):
    with torch.no_grad():
        stages = tiny().eval()(torch.rand(2, 3, side, side))
    assert {name: tuple(stage.shape[1:]) for name, stage in stages._asdict().items()} == {
        "x1": (8, side // 4, side // 4),
        "x2": (32, side // 4, side // 4),
        "x3": (64, side // 8, side // 8),
        "x4": (128, side // 16, side // 16),
        "x5": (256, side // 32, side // 32),
    }


def test_published_size():
    with torch.device("meta"):
        model = Res2Net()
    assert sum(parameter.numel() for parameter in model.parameters()) == 23_669_352


@pytest.mark.golden
def test_golden_names_and_shapes():
    _, facts = goldens.read("msnet_s352")
    with torch.device("meta"):
        own = {f"resnet.{name}": list(tensor.shape) for name, tensor in Res2Net().state_dict().items()}
    published = {name: shape for name, shape in facts["state_dict_shapes"].items() if name.startswith("resnet.")}
    assert {name: shape for name, shape in published.items() if ".fc." not in name} == own


@pytest.mark.parametrize("prefix", ["", "0."], ids=["alone", "as a part"])
def test_a_classifier_is_dropped_and_anything_else_refused(prefix):
    source, backbone = tiny(), tiny()
    target = torch.nn.Sequential(backbone) if prefix else backbone
    with torch.no_grad():
        source.bn1.weight.fill_(3)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    state |= {f"{prefix}fc.weight": torch.zeros(10, 256), f"{prefix}fc.bias": torch.zeros(10)}
    target.load_state_dict(state)
    assert (backbone.bn1.weight == 3).all()
    assert f"{prefix}fc.bias" in state
    assert not any("fc" in name for name in target.state_dict())
    with pytest.raises(RuntimeError, match=r"fc\.scale"):
        target.load_state_dict(state | {f"{prefix}fc.scale": torch.zeros(1)})
