"""The self-guided losses, against the same written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from msformer_deploy.losses.self_guided import Losses, S3Losses, repaired_s3_losses, s3_losses, self_guided_losses


def scores(seed: int = 0, clusters: int = 5, side: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(1, clusters, side, side, generator=generator)).requires_grad_()


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean over the pixels of minus the logarithm of the label's share."""
    shares = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
    return -shares.gather(1, labels[:, None]).log().mean().item()


def test_the_losses_of_msformer():
    logits = scores()
    labels = logits.detach().argmax(dim=1)
    attention = torch.tensor([[[1.0, 0.5], [0.0, 0.5]], [[1.0, 0.0], [0.0, 1.0]]])
    losses = self_guided_losses(logits, labels, attention, torch.tensor([0.25, 1.0]))
    assert losses.cross_entropy.item() == pytest.approx(cross_entropy(logits, labels), rel=1e-5)
    assert losses.inter_scale.item() == pytest.approx(0.375)
    assert losses.intra_scale.item() == pytest.approx(0.125)


def test_totals_are_weighted_sums():
    terms = [torch.tensor(value) for value in (2.0, 3.0, 5.0)]
    assert Losses(*terms).total(1.5, 1.3).item() == pytest.approx(2 + 1.5 * 3 + 1.3 * 5)
    assert S3Losses(*terms).total(3.5, 0.2, 4.0).item() == pytest.approx(3.5 * 2 + 0.2 * 3 + 4 * 5)


class TestOfS3NetAsPublished:
    def test_the_affine_loss_is_that_of_both_turned(self):
        logits, auxiliary = scores(), scores(1)
        turned = torch.rot90(logits, 1, (2, 3)).argmax(dim=1)
        published = F.cross_entropy(torch.rot90(auxiliary, 1, (2, 3)), turned)
        losses = s3_losses(logits, logits.detach().argmax(dim=1), auxiliary)
        assert losses.affine.item() == pytest.approx(published.item(), rel=1e-6)
        got, expected = (torch.autograd.grad(each, auxiliary)[0] for each in (losses.affine, published))
        torch.testing.assert_close(got, expected)

    def test_the_cross_entropy_is_of_its_own_labels(self):
        logits = scores()
        labels = logits.detach().argmax(dim=1)
        assert s3_losses(logits, labels, scores(1)).cross_entropy.item() == pytest.approx(
            cross_entropy(logits, labels), rel=1e-5
        )

    def test_the_spatial_loss_is_nothing_and_teaches_nothing(self):
        logits, auxiliary = scores(), scores(1)
        losses = s3_losses(logits, logits.detach().argmax(dim=1), auxiliary)
        assert losses.spatial.item() == 0
        assert not losses.spatial.requires_grad
        light, heavy = (losses.total(1.0, 0.0, weight) for weight in (0.0, 100.0))
        assert light.item() == heavy.item()
        assert losses.total(1, 0, 0).dtype == torch.float32


def sobel_edges(shares: np.ndarray) -> float:
    """Mean absolute differences of the three derivatives of shares (K, S, S), summed over the clusters."""
    smooth, slope = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
    derivatives = [
        np.stack([ndimage.correlate(each, np.outer(*kernel), mode="mirror") for each in shares])
        for kernel in ((smooth, slope), (slope, smooth), (slope, slope))
    ]
    along, down, both = derivatives
    return float(sum(np.abs(one - two).sum(axis=0).mean() for one, two in ((down, along), (both, along), (both, down))))


class TestOfS3NetAsMeant:
    def losses(self, logits: torch.Tensor, auxiliary: torch.Tensor) -> S3Losses:
        return repaired_s3_losses(logits, logits.detach().argmax(dim=1), auxiliary)

    def test_the_cross_entropy_is_the_same(self):
        logits = scores()
        labels = logits.detach().argmax(dim=1)
        assert self.losses(logits, scores(1)).cross_entropy.item() == pytest.approx(
            cross_entropy(logits, labels), rel=1e-5
        )

    def test_the_affine_loss_compares_with_the_turned_answer(self):
        logits, auxiliary = scores(), scores(1)
        labels = logits.detach().argmax(dim=1)
        turned = torch.from_numpy(np.rot90(labels.numpy(), axes=(1, 2)).copy())
        affine = self.losses(logits, auxiliary).affine
        assert affine.item() == pytest.approx(cross_entropy(auxiliary, turned), rel=1e-5)
        assert affine.item() != pytest.approx(cross_entropy(auxiliary, labels), rel=1e-3)
        same = torch.rot90(10 * logits.detach(), 1, (2, 3))
        assert self.losses(logits, same).affine < 1 < self.losses(logits, 10 * logits.detach()).affine

    def test_the_spatial_loss_is_that_of_sobel_derivatives(self):
        logits = scores()
        shares = logits.detach().double().softmax(dim=1)[0].numpy()
        assert self.losses(logits, scores(1)).spatial.item() == pytest.approx(sobel_edges(shares), rel=1e-5)

    def test_constant_shares_have_no_edges(self):
        logits = torch.linspace(-1, 1, 5).view(1, 5, 1, 1).expand(1, 5, 9, 9).clone().requires_grad_()
        spatial = self.losses(logits, scores(1)).spatial
        assert spatial.item() == pytest.approx(0, abs=1e-6)

    def test_edges_are_learned_from(self):
        logits = scores()
        spatial = self.losses(logits, scores(1)).spatial
        assert spatial.item() > 0
        (gradient,) = torch.autograd.grad(spatial, logits)
        assert gradient.abs().max() > 1e-4
        with torch.no_grad():
            assert self.losses(logits - 10 * gradient, scores(1)).spatial < spatial
