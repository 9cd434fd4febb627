"""What learning on one image gives, and how it reports on its way. No torch is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]  # steps done, maximum number of steps
Lap = Callable[[str], None]  # the stage that has just ended


def no_lap(stage: str) -> None:
    """Do nothing: nobody measures the stages."""


@dataclass(frozen=True)
class Step:
    """One update: losses and label count before it; the others only in mode ``full`` of the system that has them."""

    cross_entropy: float
    label_count: int
    inter_scale: float | None = None
    intra_scale: float | None = None
    affine: float | None = None
    spatial: float | None = None


@dataclass(frozen=True, eq=False)
class Refinement:
    """The outcome for one image.

    Attributes:
        labels: (S, S), uint8 (uint16 over 256 clusters), cluster ids.
        counts: (K,) int64, pixels per cluster.
        trace: one entry per update made.
        collapsed: whether the guard against a single label acted.
    """

    labels: Tensor
    counts: Tensor
    trace: list[Step] = field(default_factory=list)
    collapsed: bool = False

    @property
    def label_count(self) -> int:
        """Distinct labels in the map."""
        return int((self.counts > 0).sum())
