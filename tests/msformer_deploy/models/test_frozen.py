"""The frozen encoder, whole and in strips, against the network it is made from."""

from __future__ import annotations

import pytest
import torch

from msformer_deploy.models import frozen
from msformer_deploy.models.frozen import FrozenEncoder
from msformer_deploy.models.msformer import MSFormer
from msformer_deploy.models.strips import encode_in_strips
from msformer_deploy.weights.network import tie_upsampling

SIZES = [{}, {"side": 65}, {"blocks": 1}, {"width": 5, "blocks": 3}]


def network(tied: bool = False, **sizes: int) -> MSFormer:
    """A small network in float64 in which no weight or bias is trivial."""
    torch.manual_seed(0)
    model = MSFormer(**{"side": 33, "width": 6, "clusters": 6, "blocks": 2} | sizes).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return tie_upsampling(model) if tied else model


def images(model: MSFormer, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, model.side, model.side, generator=generator, dtype=torch.float64)


def check(
    got: frozen.Frozen, model: MSFormer, inputs: torch.Tensor, tolerance: float, of_contexts: float | None = None
) -> None:
    """Errors are relative to the largest value; those of contexts, which are sums over all pixels, may be larger."""
    expected = model.encode(inputs)
    for name, tensor in got._asdict().items():
        truth = getattr(expected, name)
        assert tensor.shape == truth.shape
        allowed = tolerance if name == "features" or of_contexts is None else of_contexts
        error = float((tensor.double() - truth).abs().max() / truth.abs().max())
        assert error <= allowed, name


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_freezing_changes_no_numbers(tied, sizes):
    model = network(tied, **sizes)
    encoded = FrozenEncoder(model)(images(model))
    check(encoded, model, images(model), 1e-12)
    assert encoded.features.is_contiguous(), "as the CUDA kernels read them"


@pytest.mark.parametrize("pixels", [1, 100, 400, 10**6])
@pytest.mark.parametrize("sizes", SIZES)
def test_strips_of_any_height_change_no_numbers(pixels, sizes):
    model = network(tied=True, **sizes)
    encoded = encode_in_strips(FrozenEncoder(model), images(model), pixels)
    check(encoded, model, images(model), 1e-12)
    assert encoded.features.is_contiguous(memory_format=torch.channels_last), "as learning on a CPU wants them"


@pytest.mark.parametrize("encode", [FrozenEncoder.__call__, encode_in_strips], ids=["whole", "strips"])
def test_float32_is_close(encode):
    """Also on an image with a flat background, of which sums over all pixels add up many equal rounding errors."""
    model = network(tied=True, side=129, width=16, clusters=16)  # products any narrower are slow sums in some libraries
    inputs = images(model, 1)
    inputs[:, :, 40:] = 0.3
    check(encode(FrozenEncoder(model).float(), inputs.float()), model, inputs, 5e-5, of_contexts=1e-4)


@pytest.mark.parametrize("encode", [FrozenEncoder.__call__, encode_in_strips], ids=["whole", "strips"])
def test_a_large_mean_takes_no_digits_from_the_deviations(encode):
    model = network(tied=True)
    for embed in (model.patch_embed_s, model.patch_embed_l):
        embed.proj.bias.add_(300)
    check(encode(FrozenEncoder(model).float(), images(model).float()), model, images(model), 1e-3)


def test_whole_images_go_through_the_op_that_has_a_kernel(monkeypatch):
    calls = []

    def counted(*tensors):
        calls.append([tuple(tensor.shape) for tensor in tensors])
        return original(*tensors)

    original = frozen.cross_scale_attention
    monkeypatch.setattr(frozen, "cross_scale_attention", counted)
    model = network()
    FrozenEncoder(model)(images(model))
    fine, coarse = ((2, 1089, 6), (2, 6, 1089), (2, 1089, 6)), ((2, 289, 6), (2, 6, 289), (2, 289, 6))
    assert calls == [[*fine, *coarse]] * 2


def test_tied_upsampling_is_a_quarter_of_the_product():
    assert FrozenEncoder(network(tied=True)).up.shape == (6, 6)
    assert FrozenEncoder(network()).up.shape == (24, 6)


def test_later_changes_of_the_network_do_not_reach_it():
    model = network()
    encoder, inputs = FrozenEncoder(model), images(model)
    before = encoder(inputs)
    for parameter in model.parameters():
        parameter.zero_()
    for one, other in zip(encoder(inputs), before, strict=True):
        assert torch.equal(one, other)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("encode", [FrozenEncoder.__call__, encode_in_strips], ids=["whole", "strips"])
def test_a_wrong_image_size_is_named(encode):
    with pytest.raises(ValueError, match=r"\(B, 3, 33, 33\)"):
        encode(FrozenEncoder(network()), torch.zeros(1, 3, 65, 65, dtype=torch.float64))
