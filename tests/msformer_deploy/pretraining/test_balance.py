"""The term against collapse: its ends, what it is by definition, and which way it pushes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from msformer_deploy.pretraining.balance import imbalance

CLUSTERS, SIDE = 4, 8


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    """Logits (B, K, S, S) so decided that their softmax is 0 and 1."""
    return 200.0 * F.one_hot(labels, CLUSTERS).permute(0, 3, 1, 2)


EVEN = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE) % CLUSTERS
SINGLE = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        (one_hot(EVEN), 0.0),
        (torch.zeros(1, CLUSTERS, SIDE, SIDE), 0.0),
        (one_hot(SINGLE), math.log(CLUSTERS)),
        (one_hot(EVEN % 2), math.log(2)),
        (one_hot(torch.cat([EVEN, SINGLE])), math.log(CLUSTERS) / 2),
        (one_hot(torch.cat([SINGLE, SINGLE + 1])), math.log(CLUSTERS)),
    ],
    ids=["even", "undecided", "one cluster", "two of four", "mean over images", "images even only together"],
)
def test_its_ends(logits, expected):
    assert imbalance(logits).item() == pytest.approx(expected, abs=1e-5)


def test_it_is_the_divergence_of_the_mean_from_the_uniform():
    logits = torch.randn(2, CLUSTERS, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = logits.softmax(dim=1).mean(dim=(2, 3))
    expected = (shares * (shares * CLUSTERS).log()).sum(dim=1).mean()
    torch.testing.assert_close(imbalance(logits), expected)


def test_descending_it_evens_the_shares_and_is_never_nan():
    logits = one_hot(SINGLE).requires_grad_()
    imbalance(logits).backward()
    assert torch.isfinite(logits.grad).all()
    logits = torch.zeros(1, CLUSTERS, SIDE, SIDE)
    logits[:, 0] = 1
    logits.requires_grad_()
    imbalance(logits).backward()
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1:] < 0).all()
