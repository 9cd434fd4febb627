"""The contrastive loss: the golden, its formula anchor by anchor, its gradient, its memory, and its groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from locations import GOLDEN
from torch.nn import functional as F

from msformer_deploy.losses import contrastive
from msformer_deploy.losses.contrastive import balanced_loss, contrastive_loss, draw_groups, group_loss


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Unit vectors along the second axis."""
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=1)


def by_anchor(features: torch.Tensor, labels: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """The formula as it stands, an anchor at a time."""
    similarities = features @ features.T / temperature
    losses = []
    for i, own in enumerate(labels.tolist()):
        others = [j for j in range(len(labels)) if j != i]
        positives = [j for j in others if labels[j] == own]
        if not positives:
            losses.append(features.sum() * 0)
            continue
        count = {each: int((labels == each).sum()) for each in set(labels.tolist())}
        weighted = [similarities[i, j].exp() / (count[int(labels[j])] - (j in positives)) for j in others]
        logarithm = (torch.stack(weighted).sum() + 1e-6).log()
        losses.append(-torch.stack([similarities[i, j] - logarithm for j in positives]).mean())
    return torch.stack(losses).mean()


@pytest.mark.golden
@pytest.mark.parametrize("published", [False, True])
def test_golden_losses_of_a_group(published):
    with np.load(GOLDEN / "mcsc_contrastive.npz") as file:
        golden = dict(file)
    features, labels = torch.from_numpy(golden["features"]), torch.from_numpy(golden["labels"])
    found = group_loss(features, labels, float(golden["temperature"]), published_order=published)
    expected = golden["loss_published_order" if published else "loss_aligned"]
    assert found.item() == pytest.approx(float(expected), rel=1e-6)
    assert abs(golden["loss_published_order"] - golden["loss_aligned"]) > 1e-2


LABELS = {
    "mixed": torch.arange(60) * 7 % 4,
    "one class": torch.zeros(60, dtype=torch.int64),
    "single pixels": torch.cat([torch.zeros(58, dtype=torch.int64), torch.tensor([2, 9])]),
    "no positives": torch.arange(60),
    "unsorted and unequal": (torch.arange(60) % 11 == 3).long() + 2 * (torch.arange(60) % 13 == 1).long(),
}


@pytest.mark.parametrize("kept", [0, 60**2])
@pytest.mark.parametrize("strip", [1, 7, 1000])
@pytest.mark.parametrize("name", LABELS)
def test_loss_and_gradient_are_those_of_the_formula(name, strip, kept, monkeypatch):
    monkeypatch.setattr(contrastive, "STRIP_CPU", strip)
    monkeypatch.setattr(contrastive, "KEPT", kept)
    exact = unit(60, 5, dtype=torch.float64).requires_grad_()
    expected = by_anchor(exact, LABELS[name])
    (slope,) = torch.autograd.grad(expected, exact)
    features = exact.detach().float().requires_grad_()
    found = balanced_loss(features[None], LABELS[name][None])
    (gradient,) = torch.autograd.grad(3 * found, features)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(gradient.double(), 3 * slope, rtol=1e-4, atol=1e-6)


def test_groups_do_not_change_one_another():
    features = unit(3, 6, 60, seed=1).transpose(1, 2)
    labels = torch.stack([LABELS["mixed"], LABELS["single pixels"], LABELS["unsorted and unequal"]])
    together = features.clone().requires_grad_()
    found = balanced_loss(together, labels)
    found.backward()
    alone = features.clone().requires_grad_()
    each = [balanced_loss(alone[k : k + 1], labels[k : k + 1]) for k in range(3)]
    torch.stack(each).mean().backward()
    assert found.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-6)
    torch.testing.assert_close(together.grad, alone.grad, rtol=1e-5, atol=1e-7)


def test_a_gradient_is_only_computed_where_one_is_needed(monkeypatch):
    monkeypatch.setattr(contrastive._Group, "slopes", lambda self: pytest.fail("computed"))
    assert balanced_loss(unit(1, 5, 60).transpose(1, 2), LABELS["mixed"][None]).item() > 0


def test_the_temperature_divides():
    features, labels = unit(40, 6), torch.arange(40) % 3
    for temperature in (0.07, 0.5, 2.0):
        expected = by_anchor(features, labels, temperature).item()
        assert balanced_loss(features[None], labels[None], temperature).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_it_is_computed_in_float32_under_autocast(dtype):
    features = unit(50, 8).to(dtype).requires_grad_()
    labels = torch.arange(50) % 3
    with torch.autocast("cpu", torch.bfloat16):
        found = balanced_loss(features[None], labels[None])
        found.backward()
    assert found.dtype == torch.float32
    exact = features.detach().float().requires_grad_()
    expected = balanced_loss(exact[None], labels[None])
    expected.backward()
    assert found.item() == expected.item()
    assert features.grad.dtype == dtype
    torch.testing.assert_close(features.grad, exact.grad.to(dtype))


def allocations(count: int, groups: int = 1) -> tuple[int, int]:
    """Numbers saved for the backward pass, and in the largest tensor that was made in either pass."""
    features = unit(groups, 8, count).transpose(1, 2).requires_grad_()
    labels = torch.arange(count).expand(groups, -1) % 4
    kept: list[int] = []
    with torch.profiler.profile(profile_memory=True) as profile:
        with torch.autograd.graph.saved_tensors_hooks(
            lambda each: kept.append(each.numel()) or each, lambda each: each
        ):
            loss = balanced_loss(features, labels)
        loss.backward()
    return sum(kept), max(event.self_cpu_memory_usage for event in profile.events()) // 4


def test_exponentials_are_of_one_group_at_a_time():
    count = 600
    kept, largest = allocations(count, groups=3)
    assert kept == 3 * count * 8
    assert largest <= count * (count + contrastive.STRIP_CPU) / 2 + 64


def test_of_a_large_group_there_is_only_a_strip(monkeypatch):
    monkeypatch.setattr(contrastive, "KEPT", 2999**2)
    kept, largest = allocations(3000)
    assert kept == 3000 * 8
    assert largest <= 3000 * contrastive.STRIP_CPU + 64


def labelled(*places: tuple[int, int, int], maps: int = 3, side: int = 10) -> torch.Tensor:
    labels = torch.zeros(maps, side, side, dtype=torch.int64)
    for index, row, column in places:
        labels[index, row, column] = 1
    return labels


def drawn(labels: torch.Tensor, block: int, seed: int = 0, **options: object) -> contrastive.Groups:
    return draw_groups(labels, block, generator=torch.Generator().manual_seed(seed), **options)


def test_a_group_has_one_block_of_each_map_and_every_pixel_is_in_one():
    labels = torch.ones(3, 10, 10, dtype=torch.int64)
    groups = drawn(labels, 4)
    assert groups.labels.shape == (9, 3, 4, 4)  # blocks begin at 0, 4 and 6
    blocks = groups.places.view(3, 9, 16)
    for each in blocks:
        rows, columns = each // 10, each % 10
        assert set(each.flatten().tolist()) == set(range(100))
        assert {(int(rows[i, 0]), int(columns[i, 0])) for i in range(9)} == {
            (r, c) for r in (0, 4, 6) for c in (0, 4, 6)
        }
        assert (rows.amax(dim=1) - rows.amin(dim=1) == 3).all()
        assert (columns.amax(dim=1) - columns.amin(dim=1) == 3).all()


def test_published_tiling_leaves_out_the_last_row_and_column_of_blocks():
    labels = torch.ones(2, 10, 10, dtype=torch.int64)
    assert len(drawn(labels, 3, published_tiling=True).labels) == 4
    assert len(drawn(labels, 3).labels) == 16
    at_224, at_28 = (torch.ones(1, side, side, dtype=torch.int64) for side in (224, 28))
    assert len(drawn(at_224, 19, published_tiling=True).labels) == 100
    assert len(drawn(at_28, 14, published_tiling=True).labels) == 1
    assert len(drawn(at_224, 19).labels) == 144
    assert len(drawn(at_28, 14).labels) == 4


def test_the_order_is_random_by_map_and_follows_the_generator():
    labels = torch.ones(3, 20, 20, dtype=torch.int64)
    orders = [drawn(labels, 4, seed).places.view(3, 25, 16)[:, :, 0] for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0][0], orders[0][1])


def test_pixels_keep_their_labels():
    labels = torch.randint(0, 4, (3, 9, 9), generator=torch.Generator().manual_seed(0))
    groups = drawn(labels, 3)
    picked = groups.pick(labels[:, None].float())
    assert picked.shape == (3, 1, 81, 1)
    by_group = picked[..., 0].view(3, len(groups.labels), 3, 3).transpose(0, 1)
    assert torch.equal(by_group.long(), groups.labels)
    assert torch.equal(groups.pick(labels[1:, None].float(), 1), picked[1:])


def test_groups_of_background_alone_are_left_out():
    groups = drawn(labelled((1, 0, 0), (2, 9, 9)), 5)
    assert 1 <= len(groups.labels) <= 2
    assert groups.labels.flatten(1).any(dim=1).all()
    assert groups.labels.sum() == 2


def test_nothing_is_computed_of_background(monkeypatch):
    labels = labelled((0, 3, 3), maps=2)
    made: list[int] = []
    real = contrastive._Group
    monkeypatch.setattr(contrastive, "_Group", lambda *each: made.append(1) or real(*each))
    groups = drawn(labels, 5)
    contrastive_loss(groups.pick(unit(2, 4, 10, 10)), groups)
    assert len(made) == 1
    empty = drawn(labelled(maps=2), 5)
    features = unit(2, 4, 10, 10).requires_grad_()
    loss = contrastive_loss(empty.pick(features), empty)
    loss.backward()
    assert len(made) == 1
    assert (loss.item(), features.grad.abs().max().item()) == (0, 0)


def test_the_loss_is_the_mean_over_groups_of_pixels_with_their_labels():
    labels = torch.randint(0, 3, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    features = unit(2, 4, 6, 6)
    groups = drawn(labels, 3)
    places = groups.places.view(2, 4, 9)
    expected = []
    for k in range(4):
        pixels = torch.cat([features[n].flatten(1)[:, places[n, k]].T for n in range(2)])
        expected.append(by_anchor(pixels, torch.cat([labels[n].flatten()[places[n, k]] for n in range(2)])))
    found = contrastive_loss(groups.pick(features), groups)
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    shifted = contrastive_loss(groups.pick(features), groups, published_order=True)
    assert abs(shifted.item() - found.item()) > 1e-3


def test_at_most_so_many_groups():
    labels = torch.ones(2, 12, 12, dtype=torch.int64)
    few, all_of_them = drawn(labels, 3, max_groups=2), drawn(labels, 3)
    assert len(few.labels) == 2
    assert torch.equal(few.places, all_of_them.places[:, : 2 * 9])
    with_foreground = drawn(labelled((0, 0, 0), (1, 5, 5), (2, 9, 0)), 2, max_groups=2)
    assert with_foreground.labels.flatten(1).any(dim=1).all()


@pytest.mark.parametrize(("block", "published"), [(11, False), (0, False), (6, True)])
def test_blocks_that_do_not_fit(block, published):
    with pytest.raises(ValueError, match="do not fit a map with a side of 10"):
        draw_groups(labelled(), block, published_tiling=published)
