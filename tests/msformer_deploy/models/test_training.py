"""The backward passes written out, against numerical derivatives and against autograd on the whole."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from msformer_deploy.models import training
from msformer_deploy.models.msformer import Block, ImageNorm, MSFormer


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("batch", [1, 2])
def test_image_norm(batch):
    x, weight, bias = random(batch, 3, 5, 4), random(4, seed=1), random(4, seed=2)
    expected = F.instance_norm(x.permute(0, 3, 1, 2), weight=weight, bias=bias, eps=0.01).permute(0, 2, 3, 1)
    torch.testing.assert_close(training.image_norm(x, weight, bias, 0.01), expected)
    assert torch.autograd.gradcheck(lambda *each: training.image_norm(*each, 0.01), (x, weight, bias))


@pytest.mark.parametrize("batch", [1, 2])
def test_key_projection(batch):
    tokens, weight, bias = random(batch, 5, 4), random(4, 4, seed=1), random(4, seed=2)
    keys = training.key_projection(tokens, weight, bias)
    torch.testing.assert_close(keys, F.linear(tokens, weight, bias).mT)
    assert keys.is_contiguous()
    assert torch.autograd.gradcheck(training.key_projection, (tokens, weight, bias))


@pytest.mark.parametrize("pixels", [1, 14, 35, 10_000])
@pytest.mark.parametrize(("height", "width"), [(1, 7), (2, 7), (11, 7)])
def test_strips_are_the_whole(monkeypatch, pixels, height, width):
    """Strips of one row, of several with a shorter last one, and one strip: results and every gradient."""
    monkeypatch.setattr(training, "PIXELS", pixels)
    torch.manual_seed(0)
    block = Block(4).double()
    parameters = [*block.norm2.parameters(), *block.mlp.parameters()]
    x, grad = random(2, height, width, 4), random(2, height, width, 4, seed=1).detach()
    got = training.add_in_strips(block._feed_forward, x, parameters)
    expected = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(got, expected)
    for each, right in zip(
        torch.autograd.grad(got, [x, *parameters], grad),
        torch.autograd.grad(expected, [x, *parameters], grad),
        strict=True,
    ):
        torch.testing.assert_close(each, right)


def test_strips_keep_no_hidden_tokens():
    kept: list[int] = []
    block, x = Block(4), torch.randn(1, 9, 7, 4)
    parameters = [*block.norm2.parameters(), *block.mlp.parameters()]
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.shape[-1]) or each, lambda each: each):
        training.add_in_strips(block._feed_forward, x, parameters)
        strips, whole = len(kept), block.mlp(block.norm2(x))
    assert strips == 1 + len(parameters)
    assert len(kept) > 2 * strips
    assert whole.shape == x.shape


@pytest.mark.parametrize("trained", [True, False])
def test_only_what_is_trained_takes_these_ways(monkeypatch, trained):
    """A frozen network, and one without gradients, computes as it is exported."""
    called: list[str] = []
    for name in ("image_norm", "key_projection", "add_in_strips"):
        original = getattr(training, name)
        monkeypatch.setattr(
            f"msformer_deploy.models.msformer.{name}",
            lambda *each, name=name, original=original: called.append(name) or original(*each),
        )
    torch.manual_seed(0)
    model, images = MSFormer(33, 6, 6), torch.rand(1, 3, 33, 33)
    if not trained:
        model.requires_grad_(False)
    features = model.encode(images).features
    assert set(called) == ({"image_norm", "key_projection", "add_in_strips"} if trained else set())
    with torch.no_grad():
        torch.testing.assert_close(features, model.encode(images).features, rtol=1e-5, atol=1e-5)


def test_a_norm_that_is_trained_is_the_one_that_is_not():
    norm, x = ImageNorm(4), torch.randn(2, 5, 6, 4)
    torch.testing.assert_close(norm(x), norm.requires_grad_(False)(x))
