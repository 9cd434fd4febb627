"""A refinement that is done in two ways: what is learned on, and that both come to the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from msformer_deploy.refinement.head import refine_head
from msformer_deploy.registry import RefineSettings

LOOP = "msformer_deploy.refinement.head.head_refine_loop"


def check_loop(monkeypatch: pytest.MonkeyPatch, loop: Callable[..., object], steps: int, stop_labels: int) -> None:
    """Three images: one learns or stops, one has collapsed from the start, one may stop."""
    features = torch.randn(3, 12, 9, 9, generator=torch.Generator().manual_seed(3))
    head: Tensor = torch.randn(6, 12, generator=torch.Generator().manual_seed(4))
    features[1] = 1
    settings = RefineSettings(steps=steps, stride=4, lr=0.5, head_scale=1.0, stop_labels=stop_labels)
    expected = refine_head(features, head, settings)
    monkeypatch.setattr(LOOP, loop)
    for got, right in zip(refine_head(features, head, settings), expected, strict=True):
        assert torch.equal(got.labels, right.labels)
        assert torch.equal(got.counts, right.counts)
        assert got.collapsed == right.collapsed
        assert [step.label_count for step in got.trace] == [step.label_count for step in right.trace]
        for step, other in zip(got.trace, right.trace, strict=True):
            assert step.cross_entropy == pytest.approx(other.cross_entropy, rel=1e-5)
    assert [each.collapsed for each in expected] == [False, True, False]
