"""LossNet against VGG-16 written out, what learns of it, and files that are not VGG-16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import vgg
from safetensors.torch import save_file
from torch.nn import functional as F

from msformer_deploy.errors import UsageError
from msformer_deploy.losses import lossnet
from msformer_deploy.losses.lossnet import LossNet

ENDS = (3, 8, 15, 22)  # index in torchvision's ``features`` of the last layer of each piece
POOLS = (4, 9, 16)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(vgg.weights(), path)
    return path


@pytest.fixture(scope="module")
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks (1, 1, 64, 64)."""
    logits = F.interpolate(torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)), scale_factor=8)
    return logits, (logits.roll(5, dims=3) > 0).float()


def definition(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    state = vgg.weights()
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    pair = torch.cat([logits.sigmoid(), masks]).repeat(1, 3, 1, 1)
    x = F.interpolate((pair - mean) / std, size=(224, 224), mode="bilinear")
    loss = torch.zeros(())
    for index in range(ENDS[-1] + 1):
        if index in vgg.CONVOLUTIONS:
            x = F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1)
        else:
            x = F.max_pool2d(x, 2) if index in POOLS else x.relu()
        if index in ENDS:
            loss = loss + (x[0] - x[1]).square().mean()
    return loss


@pytest.mark.slow
def test_it_is_its_definition_and_only_the_prediction_learns(file, maps):
    logits, masks = (each.clone().requires_grad_() for each in maps)
    network = LossNet(file)
    assert sum(parameter.numel() for parameter in network.parameters()) == 7_635_264
    assert network.state_dict().keys() == {
        name for name in vgg.weights() if name.startswith("features") and "24" not in name
    }
    loss = network(logits, masks)
    loss.backward()
    reference = maps[0].clone().requires_grad_()
    expected = definition(reference, maps[1])
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logits.grad / reference.grad.abs().max(), reference.grad / reference.grad.abs().max())
    assert masks.grad is None
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())


@pytest.mark.slow
def test_a_right_answer_costs_nothing_and_half_types_little(file, maps, monkeypatch):
    monkeypatch.setattr(lossnet, "SIDE", 32)  # a CPU without bfloat16 takes a minute for the full size
    logits, masks = maps
    network = LossNet(file).train()
    with torch.no_grad():
        assert network(200 * masks - 100, masks) == 0
        exact = network(logits, masks)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(logits.bfloat16(), masks)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, exact, rtol=0.005, atol=0)


@pytest.mark.slow
def test_a_pth_file_will_do(file, tmp_path):
    torch.save(vgg.weights(), tmp_path / "vgg16.pth")
    for name, tensor in LossNet(tmp_path / "vgg16.pth").state_dict().items():
        assert torch.equal(tensor, vgg.weights()[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("features.21.bias"), r"missing: features\.21\.bias"),
        (lambda state: state.update({"features.0.weight": torch.zeros(64, 1, 3, 3)}), r"features\.0\.weight \(64, 1,"),
        (lambda state: [state.pop(name) for name in list(state) if name.startswith("features")], "and 17 more"),
    ],
    ids=["a weight less", "another shape", "another network"],
)
def test_what_is_not_vgg_16_is_refused_in_a_line(change, message, tmp_path):
    state, path = vgg.weights(), tmp_path / "other.safetensors"
    change(state)
    save_file(state, path)
    with pytest.raises(UsageError, match=message) as caught:
        LossNet(path)
    assert str(caught.value).startswith(f"{path}: does not fit VGG-16")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.pth: cannot be read"):
        LossNet(tmp_path / "none.pth")
