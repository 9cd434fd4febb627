"""The self-guided objective of MS-Former, continued over many images, and kept from collapsing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..errors import DeployError
from ..losses.self_guided import self_guided_losses
from ..models.msformer import MSFormer
from ..weights.network import at_side, new_network, tie_upsampling
from .balance import imbalance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..bundle.folder import ModelSizes
    from .settings import PretrainSettings


class Update(NamedTuple):
    """The losses before one update, unweighted, and how many labels the maps of its images had, on average."""

    cross_entropy: float
    inter_scale: float
    intra_scale: float
    imbalance: float
    label_count: float


def start(sizes: ModelSizes, seed: int) -> MSFormer:
    """The network that is adapted, and that the result is judged against: that of the seed, its upsampling tied."""
    network = new_network(sizes, seed)
    assert isinstance(network, MSFormer)
    return tie_upsampling(network)


def adapt(
    network: MSFormer,
    batches: Iterable[NDArray[np.float32]],
    settings: PretrainSettings,
    progress: Callable[[Update], None] = lambda _: None,
) -> MSFormer:
    """Train a copy of a network on images, one update a batch; encoder, head and patch attention all learn.

    The four sub-pixels of the upsampling keep one kernel: they get the sum of their gradients, which is the gradient of
    a kernel that is shared. So what is frozen afterwards is what learned, and costs no more than before.

    Args:
        network: with a tied upsampling, of any side.
        batches: float32 (B, 3, S, S) of the side of the settings, BGR in 0..1.
        settings: lr, momentum, side and weights are used; there are as many steps as batches.
        progress: called after every update.

    Returns:
        a network of the same side as ``network``.

    Raises:
        DeployError: the loss is no longer a number.
    """
    learner = at_side(network, settings.side)
    width = learner.width
    learner.linear_up.weight.register_hook(lambda grad: grad.view(4, width, width).sum(dim=0).repeat(4, 1))
    optimiser = torch.optim.SGD(learner.parameters(), lr=settings.lr, momentum=settings.momentum)
    for step, images in enumerate(batches, start=1):
        optimiser.zero_grad()  # before the pass, which then need not keep its memory from the last gradients
        output = learner(torch.from_numpy(images))
        labels = output.logits.detach().argmax(dim=1)
        losses = self_guided_losses(output.logits, labels, output.attention, output.consistency)
        uneven = imbalance(output.logits)
        total = losses.total(settings.inter_weight, settings.intra_weight) + settings.balance_weight * uneven
        if not math.isfinite(total.item()):
            raise DeployError(
                f"the loss is no number any more in step {step} ({total.item()}); nothing is written; try fewer"
                " --steps, or another --seed"
            )
        torch.autograd.backward(total)
        optimiser.step()
        progress(
            Update(
                cross_entropy=losses.cross_entropy.item(),
                inter_scale=losses.inter_scale.item(),
                intra_scale=losses.intra_scale.item(),
                imbalance=uneven.item(),
                label_count=_label_count(labels),
            )
        )
    return at_side(learner, network.side)


def _label_count(labels: Tensor) -> float:
    """Distinct labels of a map, the mean over maps (B, S, S)."""
    return sum(each.unique().numel() for each in labels) / len(labels)
