"""How an encoder is adapted, as plain data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..errors import UsageError

PATCH = 32  # a side is a multiple of this plus 1, see :class:`.models.msformer.MSFormer`
LARGEST_SIDE = 1025


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of :func:`.training.adapt`. Recorded in the bundle.

    Attributes:
        side: of the square on which the network trains, pixels; the bundle's own may be another.
        steps: updates made.
        batch: most images in one update.
        lr, momentum: of SGD.
        inter_weight, intra_weight: of the two consistency losses beside a cross-entropy of 1, as published.
        balance_weight: of :func:`.balance.imbalance`, the term against collapse; 0 leaves it out.
    """

    side: int = 97
    steps: int = 24
    batch: int = 2
    lr: float = 0.01
    momentum: float = 0.9
    inter_weight: float = 1.5
    intra_weight: float = 1.3
    balance_weight: float = 2.0

    def __post_init__(self) -> None:
        if not PATCH < self.side <= LARGEST_SIDE or (self.side - 1) % PATCH:
            raise UsageError(
                f"side {self.side} does not fit the network; choose a multiple of {PATCH} plus 1 from {PATCH + 1} to"
                f" {LARGEST_SIDE}, such as 97, 129 or 193"
            )


def steps_of(epochs: int, images: int, batch: int) -> int:
    """Updates that show each of the images so many times, the last batch of each pass being what is left."""
    return epochs * ceil(images / batch)
