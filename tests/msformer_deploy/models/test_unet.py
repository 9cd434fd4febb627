"""The U-Net of MCSC: sizes, names, and the golden of the published code."""

from __future__ import annotations

import goldens
import pytest
import torch

from msformer_deploy.models.unet import UNet, classifier

TINY = (2, 3, 4, 5, 6)


@pytest.mark.golden
def test_golden_decoder_maps_and_parameters():
    network = UNet().eval()
    expected, facts = goldens.read("mcsc_unet_s224")
    shapes = facts["state_dict_shapes"]
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert ours == {name: shape for name, shape in shapes.items() if "out_conv" not in name}
    networks = (network, classifier())  # which replaces the published out_conv one for one
    assert sum(each.numel() for module in networks for each in module.parameters()) == facts["parameters"] == 1_813_764
    network.load_state_dict(goldens.weights(shapes))
    with torch.no_grad():
        maps = network(torch.from_numpy(goldens.rule().image(224)[:, :1]))
    for index, each in enumerate(maps):
        assert list(each.shape) == facts["maps"][index]
        stride = 4 if each.shape[3] > 32 else 1
        goldens.close(each[:, :, ::stride, ::stride], expected[f"map{index}"])


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (48, 16)])
def test_maps_are_those_of_an_eighth_up_to_the_whole(size):
    height, width = size
    maps = UNet(TINY)(torch.rand(2, 1, height, width))
    assert [tuple(each.shape) for each in maps] == [
        (2, 5, height // 8, width // 8),
        (2, 4, height // 4, width // 4),
        (2, 3, height // 2, width // 2),
        (2, 2, height, width),
    ]


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 32, 24), (1, 1, 40, 32), (1, 32, 32)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\), H and W multiples of 16"):
        UNet(TINY)(torch.zeros(shape))


def test_there_are_five_levels():
    with pytest.raises(ValueError, match="5 levels, got 4 widths and 5"):
        UNet(TINY[:4])


def test_dropout_is_of_the_encoder_and_in_training_alone():
    network, image = UNet(TINY), torch.rand(1, 1, 32, 32)
    assert [each.p for each in network.modules() if isinstance(each, torch.nn.Dropout)] == [
        *(0.05, 0.1, 0.2, 0.3, 0.5),
        *4 * (0.0,),
    ]
    assert not torch.equal(network(image).full, network(image).full)
    network.eval()
    assert torch.equal(network(image).full, network(image).full)


def test_weights_of_its_own_load_again_and_strangers_do_not():
    network = UNet(TINY)
    UNet(TINY).load_state_dict(network.state_dict())
    inside = torch.nn.ModuleDict({"cnn": UNet(TINY)})
    published = {f"cnn.{name}": each for name, each in network.state_dict().items()}
    inside.load_state_dict(published | {"cnn.decoder.out_conv.bias": torch.zeros(4)})
    with pytest.raises(RuntimeError, match="Unexpected"):
        network.load_state_dict(network.state_dict() | {"decoder.other.weight": torch.zeros(4)})


def test_the_classifier_is_drawn_as_xavier_says():
    torch.manual_seed(0)
    weight = classifier(64, 32).weight
    assert weight.shape == (32, 64, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (9 * (64 + 32))) ** 0.5, rel=0.05)
