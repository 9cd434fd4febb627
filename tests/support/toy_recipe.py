"""A training recipe that takes milliseconds: two networks, two optimisers, dropout, schedules of both kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from msformer_deploy.training.loop.recipe import Kept, Learner, Losses, Place, Recipe

SAMPLES, BATCH = 12, 4
VALIDATED = 11  # of the samples: two processes have not equally many


class Toy(Recipe):
    """Two networks learn the sum of five numbers; the second one through what the first one says."""

    def __init__(self, epochs: int = 4, seed: int = 0, lr: float = 0.01) -> None:
        self.epochs, self.steps, self.seed, self.lr = epochs, SAMPLES // BATCH, seed, lr
        self.scores = ("first", "second", "rare")
        self.kept = {"one": Kept("first", "first"), "two": Kept("second", "second")}
        self.record = {"system": "toy", "settings": {"lr": lr, "epochs": epochs}, "data": {"sha256": "0"}}
        self.modes: list[bool] = []
        self.seen: list[list[int]] = []
        numbers = torch.randn(SAMPLES, 5, generator=torch.Generator().manual_seed(7))
        self.numbers, self.sums = numbers, numbers.sum(dim=1, keepdim=True)

    def modules(self) -> dict[str, nn.Module]:
        return {
            "first": nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1)),
            "second": nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.2), nn.Linear(4, 1)),
        }

    def learners(self, modules: Mapping[str, nn.Module]) -> dict[str, Learner]:
        first = torch.optim.SGD(
            [
                {"name": "body", "params": modules["first"][0].parameters(), "lr": self.lr / 10},
                {"name": "rest", "params": modules["first"][1:].parameters()},
            ],
            lr=self.lr,
            momentum=0.9,
        )
        second = torch.optim.AdamW(modules["second"].parameters(), lr=self.lr)
        total = self.epochs * self.steps
        return {
            "sgd": Learner(first, lambda epoch, _: (epoch + 1) / self.epochs),
            "adamw": Learner(second, lambda _, iteration: 1 - iteration / total),
        }

    def batch(self, epoch: int, step: int, place: Place) -> Any:
        order = np.random.default_rng((self.seed, epoch)).permutation(SAMPLES)
        indices = place.share(order[step * BATCH : (step + 1) * BATCH].tolist())
        self.seen.append(indices)
        return {"numbers": self.numbers[indices], "sums": self.sums[indices]}

    def losses(self, modules: Mapping[str, nn.Module], batch: Any, epoch: int, iteration: int) -> Losses:
        self.modes.append(modules["first"].training)
        said = modules["first"](batch["numbers"])
        parts = {
            "first": nn.functional.mse_loss(said, batch["sums"]),
            "second": nn.functional.mse_loss(modules["second"](said), batch["sums"]),
        }
        return Losses(parts["first"] + 0.5 * parts["second"], parts)

    def validate(self, modules: Mapping[str, nn.Module], epoch: int, place: Place) -> Iterable[Mapping[str, float]]:
        self.modes.append(modules["second"].training)
        for index in place.share(range(VALIDATED)):
            said = modules["first"](self.numbers[index : index + 1])
            scores = {
                "first": -float((said - self.sums[index]).abs()),
                "second": -float((modules["second"](said) - self.sums[index]).abs()),
            }
            yield scores if index or epoch < 2 else {**scores, "rare": 0.25}

    def metadata(self, kept: str) -> dict[str, str]:
        return {"system": "toy", "which": kept}
