"""The interface of a training: what :func:`.loop.train` needs to know about a system.

An *epoch* of the loop is the time between two validations: it ends with a checkpoint and a row of metrics. It need not
be one pass over the images: a recipe that counts in iterations chooses the number of iterations per epoch.

No random state lasts longer than an epoch. The loop seeds torch by (seed, epoch, process) at the start of each epoch,
and a recipe draws its batches from (seed, epoch, step) alone. So a resumed run gives the same results as an
uninterrupted one.
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
        """The part of ``items`` for this process; every item belongs to one process."""
        return items[self.rank :: self.world]


@dataclass(frozen=True)
class Learner:
    """An optimiser and the schedule of its learning rates.

    Attributes:
        optimiser: optimiser of parameters of the recipe's modules. ``factor`` multiplies the ``lr`` of each group. The
            metrics show a group under its entry ``name``, if it has one.
        factor: function of the epoch and of the iteration in the whole run, both from 0, of an update. It may change
            by epoch or by iteration, and has no state.
    """

    optimiser: Optimizer
    factor: Callable[[int, int], float]


class Losses(NamedTuple):
    """The minimised total and its parts, which are only shown; all are scalars."""

    total: Tensor
    parts: Mapping[str, Tensor]


class Kept(NamedTuple):
    """Weights of a module that are kept: those with the largest score, and the last ones."""

    module: str
    score: str


class Recipe(ABC):
    """The training of one system.

    Attributes:
        epochs: number of epochs of the run.
        steps: number of updates in an epoch.
        seed: seed of all random draws.
        record: plain data that must be equal in a resumed run: ``system``, ``settings`` and ``data``.
        scores: names of the scores of :meth:`validate`; empty for no validation.
        kept: kept weights by the suffix of their files: ``""`` gives ``best.safetensors`` and ``last.safetensors``,
            ``"cnn"`` gives ``best-cnn.safetensors`` and ``last-cnn.safetensors``.
    """

    epochs: int
    steps: int
    seed: int
    record: Mapping[str, Any]
    scores: Sequence[str]
    kept: Mapping[str, Kept]

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """The modules that learn, by name, on the CPU, newly initialised. Called once, after torch was seeded."""

    @abstractmethod
    def learners(self, modules: Mapping[str, nn.Module]) -> dict[str, Learner]:
        """The optimisers of these modules, by name."""

    def prepare(self, device: torch.device) -> None:  # noqa: B027 - most recipes have nothing to prepare
        """Move modules that do not learn to the device. Called once."""

    @abstractmethod
    def batch(self, epoch: int, step: int, place: Place) -> Any:
        """This process's share of the batch of a step: tensors on the CPU, in tuples, lists or dicts.

        Called in threads, ahead of the training, in any order.

        Raises:
            ImageError: a file can no longer be read.
        """

    @abstractmethod
    def losses(self, modules: Mapping[str, nn.Module], batch: Any, epoch: int, iteration: int) -> Losses:
        """The losses of a batch on the device, always with the same parts.

        Args:
            modules: the modules of :meth:`modules`, wrapped for device, precision and processes. Call them only as
                functions: another method bypasses the wrapper. They are in training mode when an epoch begins.
            batch: a result of :meth:`batch`.
            epoch, iteration: counted over the whole run, from 0.
        """

    @abstractmethod
    def validate(self, modules: Mapping[str, nn.Module], epoch: int, place: Place) -> Iterable[Mapping[str, float]]:
        """The scores of each image or volume in this process's share; a larger score is better.

        The loop takes the mean of each score over the items that have it. No items at all mean no validation.

        Args:
            modules: the modules of :meth:`modules`, not wrapped, in evaluation mode, without gradients; with autocast
                if the precision needs it.
            epoch: the epoch that has just ended, from 0.
            place: the process.
        """

    @abstractmethod
    def metadata(self, kept: str) -> dict[str, str]:
        """Metadata of a file of weights.

        Args:
            kept: the key of the weights in :attr:`kept`.
        """
