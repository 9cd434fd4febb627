"""Adapting a small network: what stays as it must, and what the term against collapse does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.errors import DeployError
from msformer_deploy.losses.self_guided import self_guided_losses
from msformer_deploy.pretraining.balance import imbalance
from msformer_deploy.pretraining.settings import PretrainSettings
from msformer_deploy.pretraining.training import adapt, start
from msformer_deploy.weights.network import new_network

SIZES = ModelSizes(side=33, width=8, clusters=6, blocks=2)
SETTINGS = PretrainSettings(side=33)


def shown(steps: int, side: int = 33) -> list[np.ndarray]:
    """Noisy images with a darker square."""
    rng = np.random.default_rng(0)
    images = rng.random((steps, 2, 3, side, side), dtype=np.float32) * 0.3 + 0.6
    images[..., 8:24, 8:24] -= 0.5
    return list(images)


def test_it_is_deterministic_and_leaves_the_network_alone():
    network = start(SIZES, 0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(1)
    first = adapt(network, shown(3), SETTINGS).state_dict()
    torch.manual_seed(2)
    second = adapt(network, shown(3), SETTINGS).state_dict()
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
    assert all(torch.equal(first[name], second[name]) for name in before)
    assert not torch.equal(first["block_s.0.mlp.fc1.weight"], before["block_s.0.mlp.fc1.weight"])
    assert not torch.equal(first["linear_down.weight"], before["linear_down.weight"])


def test_the_upsampling_learns_and_stays_tied():
    network = start(SIZES, 0)
    before, after = (each.linear_up.weight.detach().chunk(4) for each in (network, adapt(network, shown(4), SETTINGS)))
    assert all(torch.equal(after[0], each) for each in after[1:])
    assert not torch.equal(before[0], after[0])


def test_the_gradient_of_the_tied_upsampling_is_that_of_one_shared_kernel():
    """One step of plain SGD on a shared kernel, written out, moves it by the sum of its four gradients."""
    network, settings = start(SIZES, 0), replace(SETTINGS, momentum=0.0)
    moved = adapt(network, shown(1), settings).linear_up.weight[: SIZES.width] - network.linear_up.weight[: SIZES.width]
    learner = start(SIZES, 0)
    kernel = learner.linear_up.weight[: SIZES.width].detach().clone().requires_grad_()
    del learner.linear_up.weight
    learner.linear_up.weight = kernel.repeat(4, 1)
    output = learner(torch.from_numpy(shown(1)[0]))
    losses = self_guided_losses(output.logits, output.logits.argmax(dim=1), output.attention, output.consistency)
    total = losses.total(settings.inter_weight, settings.intra_weight)
    (total + settings.balance_weight * imbalance(output.logits)).backward()
    torch.testing.assert_close(moved.detach(), -settings.lr * kernel.grad, rtol=1e-3, atol=1e-7)


def test_the_side_it_trains_on_is_not_that_of_the_result():
    adapted = adapt(start(SIZES, 0), shown(1, side=65), replace(SETTINGS, side=65))
    assert adapted.side == SIZES.side


@pytest.mark.slow
def test_the_term_keeps_labels_that_are_lost_without_it():
    def labels_left(weight: float) -> float:
        updates = []
        settings = replace(SETTINGS, lr=0.1, balance_weight=weight)
        adapt(start(SIZES, 0), shown(10), settings, updates.append)
        assert len(updates) == 10
        return updates[-1].label_count

    assert labels_left(0.0) <= 4
    assert labels_left(4.0) >= 5.5


def test_a_loss_that_is_no_number_ends_it():
    images = [*shown(2), np.full((2, 3, 33, 33), np.nan, np.float32)]
    with pytest.raises(DeployError, match=r"no number any more in step 3 \(nan\)"):
        adapt(start(SIZES, 0), images, SETTINGS)


def test_it_starts_from_the_network_of_the_seed():
    drawn, tied = new_network(SIZES, 3).state_dict(), start(SIZES, 3).state_dict()
    assert [name for name in drawn if not torch.equal(drawn[name], tied[name])] == ["linear_up.weight"]
