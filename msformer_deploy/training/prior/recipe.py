"""How the prior learns from synthetic scenes: AdamW, one cosine cycle, and a moving average of the weights.

The loss is binary cross-entropy plus one minus the soft Dice of each scene. The moving average (Polyak & Juditsky 1992)
is what is kept.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from ...errors import UsageError
from ...models.prior import MULTIPLE, SIDE, Prior
from ..loop.recipe import Kept, Learner, Losses, Place, Recipe
from .scenes import FAMILIES, LATE, SIDES, scene

NETWORK, AVERAGE = "network", "average"
STEPS = 200  # updates of an epoch
VALIDATED = 6  # batches of scenes to validate on
_HELD = 10**9  # first index of the scenes to validate on; none that is learned from comes near
_WARM = 0.04  # share of the run in which the learning rate rises
_LATE = 0.6  # share of the run after which the families have their late weights
_LAST = 0.01  # factor of the learning rate at the end
_SMOOTH = 1.0  # pixel; added to both sides of the fraction in soft Dice, so that it is never 0 / 0


@dataclass(frozen=True)
class PriorSettings:
    """Settings of a run.

    Attributes:
        scenes: number of scenes to learn from, each seen once. It is rounded to whole epochs.
        batch: number of scenes of one update.
        lr: maximum learning rate.
        weight_decay: weight decay of AdamW.
        decay: share of the moving average that remains at each update; lower in the first updates.
        sides: sides of the scenes in pixels, one after the other, each for an equal part of the run.
        seed: seed of the first weights and of the scenes.
    """

    scenes: int = 320_000
    batch: int = 16
    lr: float = 2e-3
    weight_decay: float = 0.01
    decay: float = 0.998
    sides: tuple[int, ...] = (64, 64, SIDE)
    seed: int = 0


class Batch(NamedTuple):
    """Scenes, float32: images (B, 3, S, S) in 0..1, prompts (B, 3, S, S), figures (B, 1, S, S)."""

    images: Tensor
    prompts: Tensor
    figures: Tensor


Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]


def draw(seed: int, indices: Sequence[int], side: int, late: bool = False) -> Arrays:
    """Scenes of these indices: images and prompts (N, 3, S, S), figures (N, S, S); ``late`` as for :func:`scene`."""
    images, prompts, figures = zip(*(scene(seed, index, side, late=late) for index in indices), strict=True)
    return np.stack(images), np.stack(prompts), np.stack(figures)


class PriorRecipe(Recipe):
    """Training of the prior.

    Args:
        settings: settings of the run.
        pool: processes or threads that draw scenes; None draws them in the threads of the loop.

    Raises:
        UsageError: a setting is out of range.
    """

    def __init__(self, settings: PriorSettings, pool: Executor | None = None) -> None:
        epoch = STEPS * settings.batch
        if min(settings.scenes, settings.batch) < 1:
            raise UsageError("scenes and batch must be 1 or more")
        if any(side % MULTIPLE or not SIDES[0] <= side <= SIDES[1] for side in settings.sides):
            raise UsageError(f"sides must be multiples of {MULTIPLE} from {SIDES[0]} to {SIDES[1]}")
        self._settings, self._pool = settings, pool
        self.steps = min(STEPS, -(-settings.scenes // settings.batch))
        self.epochs = max(1, round(settings.scenes / epoch))
        self.seed = settings.seed
        self.scores = ("dice",)
        self.kept = {"": Kept(AVERAGE, "dice")}
        self.record = {
            "system": "prior",
            "settings": asdict(settings) | {"sides": list(settings.sides)},
            "data": {"families": {name: weight for name, (_, weight) in FAMILIES.items()}, "late": LATE},
        }

    def modules(self) -> dict[str, nn.Module]:
        network, average = Prior(), Prior()
        average.load_state_dict(network.state_dict())
        average.requires_grad_(False)
        for each in (network, average):  # convolutions on a CPU are a quarter faster with channels last
            convert_conv2d_weight_memory_format(each, torch.channels_last)
        return {NETWORK: network, AVERAGE: average}

    def learners(self, modules: Mapping[str, nn.Module]) -> dict[str, Learner]:
        settings = self._settings
        # Not fused: that pairs weights and moments by their place in memory, which a resumed run has in another order.
        adam = torch.optim.AdamW(modules[NETWORK].parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        total = self.epochs * self.steps
        return {"adam": Learner(adam, lambda _, iteration: one_cycle(iteration / total))}

    def batch(self, epoch: int, step: int, place: Place) -> Batch:
        settings, iteration = self._settings, epoch * self.steps + step
        side = settings.sides[iteration * len(settings.sides) // (self.epochs * self.steps)]
        first = iteration * settings.batch
        late = iteration >= _LATE * self.epochs * self.steps
        return self._drawn(place.share(range(first, first + settings.batch)), side, late)

    def _drawn(self, indices: Sequence[int], side: int, late: bool = True) -> Batch:
        request, pool = (self.seed, indices, side, late), self._pool
        arrays = draw(*request) if pool is None else pool.submit(draw, *request).result()
        images, prompts, figures = (torch.from_numpy(each) for each in arrays)
        return Batch(images, prompts, figures[:, None].float())

    def losses(self, modules: Mapping[str, nn.Module], batch: Batch, epoch: int, iteration: int) -> Losses:
        _follow(modules[AVERAGE], modules[NETWORK], min(self._settings.decay, (1 + iteration) / (10 + iteration)))
        logits = modules[NETWORK](batch.images, batch.prompts)
        parts = {
            "bce": F.binary_cross_entropy_with_logits(logits, batch.figures),
            "dice": dice_loss(logits, batch.figures),
        }
        return Losses(parts["bce"] + parts["dice"], parts)

    def validate(self, modules: Mapping[str, nn.Module], epoch: int, place: Place) -> Iterator[Mapping[str, float]]:
        device = next(modules[AVERAGE].parameters()).device
        for number in place.share(range(VALIDATED)):
            first = _HELD + number * self._settings.batch
            batch = self._drawn(range(first, first + self._settings.batch), self._settings.sides[-1])
            logits = modules[AVERAGE](batch.images.to(device), batch.prompts.to(device))
            for found, figure in zip((logits > 0).cpu(), batch.figures > 0.5, strict=True):
                yield {"dice": 2 * int((found & figure).sum()) / int(found.sum() + figure.sum())}

    def metadata(self, kept: str) -> dict[str, str]:
        # The loop adds the epoch, so that weights say how many scenes they have seen.
        return {
            "system": "prior",
            "side": str(self._settings.sides[-1]),
            "seed": str(self.seed),
            "epochs": str(self.epochs),
            "scenes of an epoch": str(self.steps * self._settings.batch),
        }


def one_cycle(done: float) -> float:
    """The factor of the learning rate after a share 0..1 of the run: a linear rise, then half a cosine."""
    if done < _WARM:
        return max(done / _WARM, 1e-3)
    return _LAST + (1 - _LAST) * (1 + math.cos(math.pi * (done - _WARM) / (1 - _WARM))) / 2


def dice_loss(logits: Tensor, figures: Tensor) -> Tensor:
    """One minus soft Dice of each image, then the mean over the batch.

    Args:
        logits, figures: (B, 1, H, W), figures in 0..1.

    Returns:
        scalar, float32.
    """
    inside = logits.float().sigmoid()
    common = (inside * figures).sum(dim=(1, 2, 3))
    sizes = (inside + figures).sum(dim=(1, 2, 3))
    return (1 - (2 * common + _SMOOTH) / (sizes + _SMOOTH)).mean()


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move every number of the average a little towards the network's."""
    for kept, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(now, 1 - decay)
        else:
            kept.copy_(now)


def open_pool(processes: int) -> ProcessPoolExecutor:
    """Open processes that draw scenes beside the one that trains; they leave Ctrl-C to it."""
    return ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
