"""Weighted BCE and IoU against their definitions, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msformer_deploy.losses.structure import weighted_bce, weighted_iou

SIDE = 40


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks (2, 1, 40, 40): a large disc, and a small one in a corner."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    large = (rows - 20) ** 2 + (columns - 18) ** 2 < 150
    small = (rows - 2) ** 2 + (columns - 3) ** 2 < 9
    masks = torch.from_numpy(np.stack([large, small])[:, None].astype(np.float32))
    return 3 * torch.randn(masks.shape, generator=torch.Generator().manual_seed(0)), masks


def definition(logits: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    """The two losses of one image (1, H, W), in float64."""
    scores, truth = logits[0].numpy().astype(np.float64), mask[0].numpy().astype(np.float64)
    padded = np.pad(truth, 15)
    weights = np.empty_like(truth)
    for row, column in np.ndindex(*truth.shape):
        box = padded[row : row + 31, column : column + 31]
        weights[row, column] = 1 + 5 * abs(box.sum() / 31**2 - truth[row, column])
    chance = 1 / (1 + np.exp(-scores))
    entropy = -(truth * np.log(chance) + (1 - truth) * np.log(1 - chance))
    intersection, both = (weights * chance * truth).sum(), (weights * (chance + truth)).sum()
    return (weights * entropy).sum() / weights.sum(), 1 - (intersection + 1) / (both - intersection + 1)


def test_they_are_the_mean_over_images_of_their_definition(maps):
    logits, masks = maps
    bce, iou = np.mean([definition(*pair) for pair in zip(logits, masks, strict=True)], axis=0)
    assert weighted_bce(logits, masks).item() == pytest.approx(bce, rel=1e-5)
    assert weighted_iou(logits, masks).item() == pytest.approx(iou, rel=1e-5)


def test_published_bce_is_the_plain_mean(maps):
    logits, masks = maps
    chance = logits.double().sigmoid()
    plain = -(masks * chance.log() + (1 - masks) * (1 - chance).log()).mean()
    assert weighted_bce(logits, masks, published=True).item() == pytest.approx(plain.item(), rel=1e-5)
    assert abs(weighted_bce(logits, masks).item() - plain.item()) > 1e-3


@pytest.mark.parametrize("loss", [weighted_bce, weighted_iou])
def test_a_right_answer_costs_nothing_and_learning_goes_there(loss, maps):
    _, masks = maps
    assert loss(60 * masks - 30, masks).item() == pytest.approx(0, abs=1e-5)
    logits = torch.zeros_like(masks, requires_grad=True)
    loss(logits, masks).backward()
    assert (logits.grad[masks > 0] < 0).all()
    assert (logits.grad[masks == 0] > 0).all()


@pytest.mark.parametrize("loss", [weighted_bce, weighted_iou])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32(loss, dtype, maps):
    logits, masks = (torch.cat([each] * 2, dim=2).to(dtype) for each in maps)
    expected = loss(logits.float(), masks.float())
    with torch.autocast("cpu", dtype):
        got = loss(logits, masks)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected)
    large = torch.full((1, 1, 400, 400), 40.0, dtype=dtype)  # a sum of 160,000 is beyond fp16
    assert torch.isfinite(loss(large, torch.zeros_like(large)))


def test_an_empty_mask_gives_no_nan():
    logits, mask = torch.zeros(1, 1, 8, 8, requires_grad=True), torch.zeros(1, 1, 8, 8)
    (weighted_bce(logits, mask) + weighted_iou(logits, mask)).backward()
    assert torch.isfinite(logits.grad).all()
