"""The Swin-UNet of MCSC: sizes, names, windows and shifts, and the golden of the published code."""

from __future__ import annotations

from typing import Any

import goldens
import pytest
import torch

from msformer_deploy.models import swin_unet
from msformer_deploy.models.swin_unet import SwinBlock, SwinUNet, WindowAttention

UNUSED = ("output.weight",)
CONSTANT = ("attn_mask", "relative_position_index")


def tiny(seed: int = 0, **sizes: Any) -> SwinUNet:
    torch.manual_seed(seed)
    return SwinUNet(**{"side": 64, "width": 4, "heads": (1, 1, 2, 2), "window": 2} | sizes)


@pytest.mark.slow
@pytest.mark.golden
def test_golden_decoder_maps_and_parameters():
    network = SwinUNet().eval()
    expected, facts = goldens.read("mcsc_swinunet_s224")
    shapes = facts["state_dict_shapes"]
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert ours == {name: shape for name, shape in shapes.items() if not name.endswith((*UNUSED, *CONSTANT))}
    constants = {name: list(each.shape) for name, each in network.named_buffers()}
    assert constants == {name: shape for name, shape in shapes.items() if name.endswith(CONSTANT)}
    unused = 4 * 96
    assert sum(each.numel() for each in network.parameters()) + unused == facts["parameters"] == 27_168_420
    network.load_state_dict(goldens.weights(shapes))
    with torch.no_grad():
        maps = network(torch.from_numpy(goldens.rule().image(224)[:, :1]))
    for index, each in enumerate(maps):
        assert list(each.shape) == facts["maps"][index]
        goldens.close(each[:, :, ::8, ::8] if each.ndim == 4 else each[:, ::7], expected[f"map{index}"])


@pytest.mark.parametrize(
    ("sizes", "side", "width"), [({}, 64, 4), ({"side": 128}, 128, 4), ({"width": 8, "window": 1, "side": 32}, 32, 8)]
)
def test_tokens_and_map_have_the_documented_shapes(sizes, side, width):
    tokens = tiny(**sizes)(torch.rand(2, 1, side, side))
    assert [tuple(each.shape) for each in tokens] == [
        (2, (side // 16) ** 2, 4 * width),
        (2, (side // 8) ** 2, 2 * width),
        (2, (side // 4) ** 2, width),
        (2, width, side, side),
    ]


def test_every_parameter_learns():
    network = tiny()
    network(torch.rand(2, 1, 64, 64)).full.square().sum().backward()
    assert [name for name, each in network.named_parameters() if each.grad is None] == []


def test_images_of_a_batch_do_not_influence_one_another():
    network, images = tiny().eval(), torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        together = network(images)
        for index in range(3):
            for batch, alone in zip(together, network(images[index : index + 1]), strict=True):
                torch.testing.assert_close(batch[index], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "part"),
    [
        ({"side": 65}, "multiple of 64"),
        ({"side": 0}, "multiple of 64"),
        ({"heads": (1, 3, 2, 2)}, "8 channels of stage 2 cannot be shared by 3 heads"),
        ({"depths": (2, 2)}, "4 stages, got 2 depths"),
    ],
)
def test_sizes_that_do_not_fit(sizes, part):
    with pytest.raises(ValueError, match=part):
        tiny(**sizes)


def test_a_wrong_image_size_is_named():
    with pytest.raises(ValueError, match=r"\(B, 1, 64, 64\)"):
        tiny()(torch.zeros(1, 3, 64, 64))


def block(side: int, *, shifted: bool) -> SwinBlock:
    torch.manual_seed(1)
    return SwinBlock(4, side, heads=2, window=2, shifted=shifted, drop_path=0.0)


def reach(layer: SwinBlock, side: int, row: int, column: int) -> set[tuple[int, int]]:
    """The output tokens that depend on one input token."""
    tokens = torch.rand(1, side, side, 4, generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[0, row, column] += torch.tensor([1.0, -1.0, 0.5, 0.0])
    with torch.no_grad():
        changed = (layer(other) - layer(tokens)).abs().amax(dim=3)[0] > 1e-7
    return {(r, c) for r, c in changed.nonzero().tolist()}


@pytest.mark.parametrize(
    ("shifted", "place", "expected"),
    [
        (False, (0, 0), {(0, 0), (0, 1), (1, 0), (1, 1)}),
        (True, (1, 1), {(1, 1), (1, 2), (2, 1), (2, 2)}),
        (True, (0, 0), {(0, 0)}),  # the window goes on at the far edge, whose tokens are kept apart
        (True, (0, 1), {(0, 1), (0, 2)}),
    ],
)
def test_windows_and_shifted_windows(shifted, place, expected):
    assert reach(block(6, shifted=shifted), 6, *place) == expected


def test_a_single_window_is_never_shifted():
    assert reach(block(2, shifted=True), 2, 0, 0) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_attention_is_that_of_torch_with_a_bias_for_each_relative_position():
    torch.manual_seed(0)
    attention = WindowAttention(6, heads=2, window=3)
    windows = torch.rand(2, 4, 9, 6)
    bias = torch.zeros(2, 9, 9)
    for i in range(9):
        for j in range(9):
            row, column = i // 3 - j // 3 + 2, i % 3 - j % 3 + 2
            bias[:, i, j] = attention.relative_position_bias_table[row * 5 + column]
    query, key, value = (
        each.unflatten(3, (2, 3)).transpose(2, 3) for each in attention.qkv(windows).chunk(3, dim=3)
    )  # heads before tokens
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    expected = attention.proj(expected.transpose(2, 3).flatten(3))
    torch.testing.assert_close(attention(windows, None), expected)


def test_stochastic_depth_rises_over_the_encoder_and_the_decoder_mirrors_it():
    network = tiny(drop_path=0.7)
    encoder = [[each.drop_path for each in stage.blocks] for stage in network.layers]
    assert [rate for stage in encoder for rate in stage] == pytest.approx([0.1 * index for index in range(8)])
    assert [[each.drop_path for each in stage.blocks] for stage in network.layers_up[1:]] == encoder[2::-1]


def test_residuals_are_left_out_by_image_and_in_training_alone():
    torch.manual_seed(0)
    layer = SwinBlock(4, 2, heads=2, window=2, shifted=False, drop_path=0.5)
    tokens = torch.rand(1, 2, 2, 4).expand(400, -1, -1, -1)
    residual = layer._kept(tokens)
    kept = residual.flatten(1).any(dim=1)
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(residual[kept], 2 * tokens[kept])
    layer.eval()
    assert torch.equal(layer._kept(tokens), tokens)


def test_weights_of_its_own_load_again_and_strangers_do_not():
    network = tiny()
    tiny(1).load_state_dict(network.state_dict())
    inside = torch.nn.ModuleDict({"swin": tiny(1)})
    published = {f"swin.{name}": each for name, each in network.state_dict().items()}
    inside.load_state_dict(published | {"swin.output.weight": torch.zeros(4, 4, 1, 1)})
    with pytest.raises(RuntimeError, match="Unexpected"):
        network.load_state_dict(network.state_dict() | {"other.weight": torch.zeros(4)})


def test_the_classifier():
    assert swin_unet.classifier().weight.shape == (4, 96, 3, 3)
