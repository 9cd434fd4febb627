"""Soft Dice by hand."""

from __future__ import annotations

import pytest
import torch

from msformer_deploy.losses.overlap import soft_dice_loss

TARGET = torch.tensor([[[0, 1], [2, 2]], [[0, 0], [1, 2]]])  # (2, 2, 2)


def one_hot(target: torch.Tensor, classes: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(target, classes).permute(0, 3, 1, 2).float()


def test_a_perfect_answer_costs_nothing_even_of_a_class_that_is_nowhere():
    assert soft_dice_loss(one_hot(TARGET), TARGET).item() == pytest.approx(0, abs=1e-6)


def test_sums_are_over_the_whole_batch_and_the_mean_over_all_classes():
    probabilities = torch.full((2, 4, 2, 2), 0.25)
    expected = 0.0
    for count in (3, 2, 3, 0):  # pixels of each class, of 8
        expected += 1 - (2 * 0.25 * count + 1e-5) / (8 / 16 + count + 1e-5)
    assert soft_dice_loss(probabilities, TARGET).item() == pytest.approx(expected / 4, rel=1e-6)


def test_background_counts():
    wrong = one_hot(torch.where(TARGET == 0, 1, TARGET))
    some = soft_dice_loss(wrong, TARGET).item()
    of_background, of_first = 1 - 0, 1 - 2 * 2 / (5 + 2)
    assert some == pytest.approx((of_background + of_first) / 4, abs=1e-5)


def test_half_precision_is_summed_in_float32():
    logits = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 4, (1, 64, 64), generator=torch.Generator().manual_seed(1))
    half = logits.softmax(dim=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = soft_dice_loss(half, target)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(soft_dice_loss(half.float(), target).item(), abs=1e-6)


def test_it_has_a_gradient():
    logits = torch.zeros(2, 4, 2, 2, requires_grad=True)
    soft_dice_loss(logits.softmax(dim=1), TARGET).backward()
    assert logits.grad[0, 1, 0, 1] < 0 < logits.grad[0, 0, 0, 1]
