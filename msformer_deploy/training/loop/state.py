"""The state of a run: everything that the next epoch depends on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DeployError, UsageError, printable
from . import checkpoint

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .recipe import Learner


class State:
    """Networks, optimisers, gradient scaling, the number of finished epochs and the best scores so far.

    Learning rates depend on the epoch, random numbers on seed and epoch: neither needs a state.

    Attributes:
        epoch: number of finished epochs.
        best: score and epoch, from 1, of each of the recipe's kept weights.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        learners: Mapping[str, Learner],
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self._parts: dict[str, Any] = {f"module/{name}": each for name, each in modules.items()}
        self._parts |= {f"optimiser/{name}": each.optimiser for name, each in learners.items()}
        self._parts |= {} if scaler is None else {"scaler": scaler}
        self.epoch = 0
        self.best: dict[str, tuple[float, int]] = {}

    def improved(self, kept: str, score: float | None) -> bool:
        """Whether the score of the epoch that has just ended is the best so far; if so, it is stored as the best."""
        if score is None or not score > self.best.get(kept, (float("-inf"), 0))[0]:
            return False
        self.best[kept] = (score, self.epoch)
        return True

    def write(self, path: Path, record: Mapping[str, Any]) -> None:
        """Write a checkpoint.

        Raises:
            DeployError: as :func:`.checkpoint.write`.
        """
        parts = {name: each.state_dict() for name, each in self._parts.items()}
        checkpoint.write(path, {"epoch": self.epoch, "best": self.best, "record": record, "parts": parts})

    def read(self, path: Path, record: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint.

        Raises:
            UsageError: the checkpoint belongs to other settings or data.
            DeployError: as :func:`.checkpoint.read`, or the checkpoint does not fit the networks.
        """
        found = checkpoint.read(path)
        _check_record(path, found["record"], record)
        if found["parts"].keys() != self._parts.keys():
            raise UsageError(f"{printable(path)}: the run began with another --precision; resume with the same one")
        try:
            for name, each in self._parts.items():
                each.load_state_dict(found["parts"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise DeployError(f"{printable(path)}: does not fit the networks ({reason}); start again") from error
        self.epoch, self.best = found["epoch"], found["best"]


def _check_record(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    before, now = _flat(found), _flat(wanted)
    for name in dict.fromkeys([*now, *before]):
        if before.get(name) != now.get(name):
            raise UsageError(
                f"{printable(path)}: the run began with {name} {before.get(name)}, but now it is {now.get(name)};"
                " resume with the same value, or start a new run"
            )


def _flat(record: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """The values of a nested record by the names on the path to them, such as ``settings lr``."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        found |= _flat(value, f"{within}{name} ") if isinstance(value, Mapping) else {within + name: value}
    return found
