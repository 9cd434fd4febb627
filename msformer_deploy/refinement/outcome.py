"""What learning on one image gives, and how it reports on its way. No torch is imported here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from numpy.typing import NDArray

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


ArrayT = TypeVar("ArrayT", bound="Tensor | NDArray[Any]")


@dataclass(frozen=True, eq=False)
class Refinement(Generic[ArrayT]):
    """The outcome for one image: tensors where torch learned, arrays once they are on the host.

    Attributes:
        labels: (S, S), uint8 (uint16 over 256 clusters), cluster ids.
        counts: (K,) int64, pixels per cluster.
        trace: one entry per update made.
        collapsed: whether the guard against a single label acted.
        scores: (C, S, S) float32, of a network that was trained before or on the image; None where a head is learned,
            and where a graph gives labels.
        figure: (S, S) float32, the probability that a pixel is figure (:mod:`.models.figure`), or of a trained system
            not background; None of a trained system in torch, which has scores.
        unprompted: the same without prompts; None if there are none.
        features: (C, S, S) float32, from which the figure was found; where the strategy has them, and only if they are
            to be kept.
    """

    labels: ArrayT
    counts: ArrayT
    trace: list[Step] = field(default_factory=list)
    collapsed: bool = False
    scores: ArrayT | None = None
    figure: ArrayT | None = None
    unprompted: ArrayT | None = None
    features: Any = None

    @property
    def label_count(self) -> int:
        """Distinct labels in the map."""
        return int((self.counts > 0).sum())


def all_on_host(found: Sequence[Refinement[Tensor]]) -> list[Refinement[NDArray[Any]]]:
    """Outcomes of a batch as arrays of NumPy, without features; from a GPU they come as one copy."""
    from ..backends.transfers import downloaded

    names = ("labels", "counts", "scores", "figure")
    places = [(index, name) for index, each in enumerate(found) for name in names if getattr(each, name) is not None]
    arrays = dict(zip(places, downloaded([getattr(found[index], name) for index, name in places]), strict=True))
    return [
        Refinement(
            arrays[index, "labels"],
            arrays[index, "counts"],
            each.trace,
            each.collapsed,
            arrays.get((index, "scores")),
            arrays.get((index, "figure")),
        )
        for index, each in enumerate(found)
    ]
