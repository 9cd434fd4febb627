"""S3-Net: both goldens of the published code, its norm, its sizes and its frozen encoder."""

from __future__ import annotations

import goldens
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from msformer_deploy.losses.self_guided import s3_losses
from msformer_deploy.models.deformable import deform_conv
from msformer_deploy.models.s3net import ChannelNorm, S3Encoder, S3Net

SIZES = {"s3net_d8_s32": (32, 8), "s3net_d64_s256": (256, 64)}


def network(side: int = 16, width: int = 6, blocks: int = 2, seed: int = 0) -> S3Net:
    """An untrained network; none of its norms is the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = S3Net(side, width, blocks)
        for module in model.modules():
            if isinstance(module, ChannelNorm):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias, -1, 1)
    return model


def images(batch: int, side: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_golden_outputs_and_losses(name, learning):
    """With and without gradients: the norms take another way."""
    model = S3Net(*SIZES[name])
    expected, facts = goldens.read(name)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == facts["state_dict_shapes"]
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["parameters"]
    model.load_state_dict(goldens.weights(facts["state_dict_shapes"]))
    stride, image = facts["stride"], torch.from_numpy(goldens.rule().image(model.side))
    with torch.set_grad_enabled(learning):
        features, (logits, auxiliary) = model.attend(image), model(image)
    goldens.close(features[:, :, ::stride, ::stride], expected["features"])
    goldens.close(auxiliary[:, :, ::stride, ::stride], expected["aux"])
    goldens.close(logits[:, :, ::stride, ::stride], expected["logits"])
    labels = logits.argmax(dim=1)
    assert (labels[0].numpy() == expected["labels"]).mean() > 0.9999
    losses = s3_losses(logits, labels, auxiliary)
    assert losses.cross_entropy.item() == pytest.approx(float(expected["ce"]), rel=1e-4)
    assert losses.affine.item() == pytest.approx(float(expected["affine_ce"]), rel=1e-4)


def test_parameters_of_the_published_size():
    counts = {
        name: sum(each.numel() for each in child.parameters()) for name, child in S3Net(256, 64, 2).named_children()
    }
    assert counts == {
        "conv1": 1_792,
        "conv2": 55_680,
        "convdeform": 1_806_336,
        "conv3": 4_160,
        "conv_aux": 4_160,
        "bn1": 128,
        "bn2": 256,
        "bn3": 128,
        "bn4": 128,
        "bn_aux": 128,
    }
    assert sum(counts.values()) == 1_872_896


def test_the_deformable_convolution_is_drawn_from_nought_to_one():
    drawn = network(width=16).convdeform
    for values in (drawn.weight, drawn.offset, drawn.mask):
        assert values.min() >= 0
        assert values.max() < 1
        assert values.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"side": 1}, "side must be at least 2, got 1"),
        ({"width": 1}, "width must be at least 2, got 1"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        S3Net(**{"side": 8, "width": 4, "blocks": 1} | sizes)


@pytest.mark.parametrize("shape", [(1, 3, 16, 15), (1, 3, 17, 16), (2, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, 16, 16\), got \("):
        network()(torch.zeros(shape))


@pytest.mark.parametrize("learning", [False, True])
def test_the_images_of_a_batch_do_not_mix(learning):
    model, pictures = network(), images(3)
    pictures[1] *= 0.1  # statistics of the batch would show
    with torch.set_grad_enabled(learning):
        together = model(pictures)
        for index in range(3):
            for got, alone in zip(together, model(pictures[index : index + 1]), strict=True):
                torch.testing.assert_close(got[index : index + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_outputs_are_those_of_its_parts():
    model, pictures = network(), images(2)
    logits, auxiliary = model(pictures)
    assert torch.equal(model.scores(pictures), logits)
    assert torch.equal(model.auxiliary(model.attend(pictures)), auxiliary)
    assert torch.equal(model.encode(pictures, deformable=False), model.attend(pictures))
    features = model.encode(pictures, deformable=True)
    assert torch.equal(model.bn4(model.conv3(features)), logits)
    drawn = model.convdeform
    assert torch.equal(features, model.bn3(deform_conv(model.attend(pictures), drawn.weight, drawn.offset, drawn.mask)))


class TestNorm:
    def pair(self) -> tuple[ChannelNorm, nn.BatchNorm2d]:
        """This package's norm and torch's in train mode, with equal weights."""
        ours, theirs = ChannelNorm(5), nn.BatchNorm2d(5)
        with torch.no_grad():
            ours.weight.copy_(torch.linspace(-1, 2, 5))
            ours.bias.copy_(torch.linspace(3, -2, 5))
        theirs.load_state_dict(ours.state_dict())
        return ours, theirs.train()

    def picture(self) -> torch.Tensor:
        """Channels of unlike mean and spread."""
        noise = torch.randn(1, 5, 9, 7, generator=torch.Generator().manual_seed(2))
        return noise * torch.logspace(-1, 1, 5)[:, None, None] + torch.linspace(-3, 3, 5)[:, None, None]

    @pytest.mark.parametrize("learning", [False, True])
    @pytest.mark.parametrize("training", [False, True])
    def test_it_is_batchnorm_in_train_mode(self, learning, training):
        ours, theirs = self.pair()
        ours.train(training)
        x = self.picture()
        with torch.set_grad_enabled(learning):
            got, expected = ours(x), theirs(x)
        assert got.requires_grad == learning
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)

    def test_so_are_its_gradients(self):
        gradients = []
        for norm in self.pair():
            x = self.picture().requires_grad_()
            (norm(x) * torch.arange(x.numel()).view(x.shape).sin()).sum().backward()
            gradients.append((x.grad, norm.weight.grad, norm.bias.grad))
        for got, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("learning", [False, True])
    def test_running_statistics_are_neither_read_nor_written(self, learning, training):
        norm, _ = self.pair()
        norm.train(training)
        with torch.set_grad_enabled(learning):
            expected = norm(self.picture())
            norm.running_mean.fill_(7)
            norm.running_var.fill_(0.01)
            before = {name: value.clone() for name, value in norm.state_dict().items()}
            assert torch.equal(norm(self.picture()), expected)
        assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())

    @pytest.mark.parametrize("learning", [False, True])
    def test_half_precision_is_normalised_in_float32(self, learning):
        norm, _ = self.pair()
        with torch.set_grad_enabled(learning):
            half = self.picture().bfloat16()
            got, expected = norm(half), norm(half.float())
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)


class TestEncoder:
    @pytest.mark.parametrize("deformable", [False, True])
    @pytest.mark.parametrize("learning", [False, True])
    def test_it_computes_what_the_network_does(self, deformable, learning):
        model = network()
        with torch.set_grad_enabled(learning):
            got = S3Encoder(model, deformable=deformable)(images(2)).features
        expected = model.encode(images(2), deformable=deformable)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    def test_without_is_the_default(self):
        model = network()
        with torch.no_grad():
            assert torch.equal(S3Encoder(model)(images(1)).features, model.attend(images(1)))

    @pytest.mark.parametrize("deformable", [False, True])
    def test_later_changes_of_the_network_do_not_reach_it(self, deformable):
        model = network()
        encoder = S3Encoder(model, deformable=deformable)
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        assert all(parameter.requires_grad for parameter in model.parameters()), "the network can still learn"
        with torch.no_grad():
            before = encoder(images(1)).features.clone()
            for parameter in model.parameters():
                parameter.add_(1)
            assert torch.equal(encoder(images(1)).features, before)
            assert not torch.allclose(model.encode(images(1), deformable=deformable), before)


def test_every_parameter_learns():
    model = network()
    logits, auxiliary = model(images(1))
    labels = logits.argmax(dim=1)
    (F.cross_entropy(logits, labels) + F.cross_entropy(auxiliary, labels)).backward()
    still = {name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()}
    assert still == set()
