"""What a system has to say so that :func:`.loop.train` can train it.

An *epoch* of the loop is what lies between two validations: it ends with a checkpoint and a row of metrics. It need not
be one pass over the images: a recipe that counts in iterations makes it so many of them.

Nothing random outlives an epoch. The loop seeds torch by (seed, epoch, process) when one begins, and a recipe draws its
batches from (seed, epoch, step) alone; so a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

T = TypeVar("T")


class Place(NamedTuple):
    """One of the processes that train together; (0, 1) where there is only one."""

    rank: int = 0
    world: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Its part of what all processes do together; every item is one process's."""
        return items[self.rank :: self.world]


@dataclass(frozen=True)
class Learner:
    """An optimiser, and how its learning rates go.

    Attributes:
        optimiser: of parameters of the recipe's modules; each group's ``lr`` is what the factor multiplies. A group
            with an entry ``name`` is called so in the metrics.
        factor: from the epoch and the iteration of the whole run, both from 0, at which an update is made. Stepped by
            epoch or by iteration, as it pleases; it has no state of its own.
    """

    optimiser: Optimizer
    factor: Callable[[int, int], float]


class Losses(NamedTuple):
    """What is minimised, and what it is made of, for people to look at; all scalars."""

    total: Tensor
    parts: Mapping[str, Tensor]


class Kept(NamedTuple):
    """Weights that are kept for use: a module's, as they were when a score was largest, and the last."""

    module: str
    score: str


class Recipe(ABC):
    """How one system is trained.

    Attributes:
        epochs: of the run.
        steps: updates of an epoch.
        seed: of all that is random.
        record: plain data that a resumed run must agree with: ``system``, ``settings`` and ``data``.
        scores: names of what :meth:`validate` gives; none, and there is no validation.
        kept: by file name, which is ``best.safetensors`` and ``last.safetensors`` for ``""``, and
            ``best-cnn.safetensors`` and so on for ``"cnn"``.
    """

    epochs: int
    steps: int
    seed: int
    record: Mapping[str, Any]
    scores: Sequence[str]
    kept: Mapping[str, Kept]

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """What learns, by name, on the CPU, in a fresh state. Called once, with torch seeded."""

    @abstractmethod
    def learners(self, modules: Mapping[str, nn.Module]) -> dict[str, Learner]:
        """The optimisers of these modules, by name."""

    def prepare(self, device: torch.device) -> None:  # noqa: B027 - most recipes have nothing to prepare
        """Move what does not learn to the device. Called once."""

    @abstractmethod
    def batch(self, epoch: int, step: int, place: Place) -> Any:
        """This process's share of the batch of a step: tensors on the CPU, in tuples, lists or dicts.

        Called in threads ahead of the training, in no certain order.

        Raises:
            ImageError: a file cannot be read any more.
        """

    @abstractmethod
    def losses(self, modules: Mapping[str, nn.Module], batch: Any, epoch: int, iteration: int) -> Losses:
        """The losses of a batch on the device; always of the same parts.

        Args:
            modules: those of :meth:`modules`, wrapped for device, precision and processes: call them only as
                functions, for another method passes the wrapper by. In training mode when an epoch begins.
            batch: of :meth:`batch`.
            epoch, iteration: of the whole run, from 0.
        """

    @abstractmethod
    def validate(self, modules: Mapping[str, nn.Module], epoch: int, place: Place) -> Iterable[Mapping[str, float]]:
        """The scores of each validated thing in this process's share, larger being better.

        The loop takes the mean of each score over the things that have it; nothing at all is a validation left out.

        Args:
            modules: those of :meth:`modules` themselves, in evaluation mode, without gradients; autocast is on where
                the precision asks for it.
            epoch: that has just ended, from 0.
            place: whose share.
        """

    @abstractmethod
    def metadata(self, kept: str) -> dict[str, str]:
        """What a file of weights says of itself.

        Args:
            kept: its name in :attr:`kept`.
        """
