"""The training loop: any recipe, on one or more devices, in any precision. An interrupted run can be resumed."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from ...errors import DeployError
from ...weights.checkpoint_import import write_weights
from .ahead import ahead
from .metrics_log import MetricsLog
from .recipe import Learner, Losses, Place, Recipe
from .state import State

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor, nn

METRICS, CHECKPOINT = "metrics.csv", "checkpoint.safetensors"
BETWEEN = 30.0  # seconds between two checkpoints: writing one of a large network can take longer than an epoch


def train(recipe: Recipe, folder: Path, fabric: Fabric, *, resume: bool = False, quiet: bool = False) -> State:
    """Train, from the beginning or from the folder's checkpoint. Every process of a run calls this function.

    After each epoch the folder holds ``metrics.csv`` and the best weights (``best*.safetensors``). After the first and
    the last epoch, and otherwise at most every :data:`BETWEEN` seconds, the loop also writes ``last*.safetensors`` and
    then ``checkpoint.safetensors``, so that the checkpoint is never newer than the other files.

    Args:
        recipe: the training to run.
        folder: folder of the run; it exists, and every process can access it.
        fabric: a launched Fabric.
        resume: continue after the epoch of the checkpoint, if there is one.
        quiet: print no progress on stderr.

    Returns:
        the state at the end of the run.

    Raises:
        UsageError: the checkpoint belongs to other settings or data.
        DeployError: a loss became NaN or infinite, the checkpoint is damaged, or a file cannot be written.
        ImageError: a file of the data can no longer be read.
    """
    place = Place(fabric.global_rank, fabric.world_size)
    with _own_randomness(fabric):
        torch.manual_seed(recipe.seed)
        networks = recipe.modules()
        learners = recipe.learners(networks)
        modules = {name: fabric.setup_module(each) for name, each in networks.items()}
        recipe.prepare(fabric.device)
        state, log = State(networks, learners, _scaler(fabric)), MetricsLog(folder / METRICS)
        if resume and (folder / CHECKPOINT).exists():
            state.read(folder / CHECKPOINT, recipe.record)
            log.resume(state.epoch)
        written = -math.inf
        with _bar(recipe, state, quiet=quiet or place.rank > 0) as bar:
            for epoch in range(state.epoch, recipe.epochs):
                torch.manual_seed(_seed(recipe.seed, epoch, place.rank))
                means = _learn(recipe, modules, learners, fabric, epoch, place, bar)
                scores = _judge(recipe, networks, fabric, epoch, place)
                state.epoch += 1
                best = [name for name, each in recipe.kept.items() if state.improved(name, scores.get(each.score))]
                if place.rank == 0:
                    log.append({"epoch": state.epoch, **means, **{f"score/{name}": scores[name] for name in scores}})
                    _keep(recipe, networks, best, folder, "best", state.epoch, scores)
                    if state.epoch == recipe.epochs or time.monotonic() - written >= BETWEEN:
                        _keep(recipe, networks, recipe.kept, folder, "last", state.epoch, scores)
                        state.write(folder / CHECKPOINT, recipe.record)
                        written = time.monotonic()
                    if not quiet:
                        tqdm.write(_line(recipe, state.epoch, means, scores), file=sys.stderr)
                fabric.barrier()
    return state


def _learn(
    recipe: Recipe,
    modules: Mapping[str, nn.Module],
    learners: Mapping[str, Learner],
    fabric: Fabric,
    epoch: int,
    place: Place,
    bar: tqdm[None],
) -> dict[str, float]:
    """Run one epoch of updates; return the mean of every loss and the learning rates of the last update."""
    for module in modules.values():
        module.train()
    rates: dict[str, float] = {}
    seen: list[dict[str, float]] = []
    for step, batch in enumerate(ahead(lambda step: recipe.batch(epoch, step, place), recipe.steps)):
        iteration = epoch * recipe.steps + step
        rates = _set_rates(learners, epoch, iteration)
        for learner in learners.values():
            learner.optimiser.zero_grad()
        losses = recipe.losses(modules, fabric.to_device(batch), epoch, iteration)
        values = _values(losses, fabric)
        _check_finite(values, epoch, iteration)
        fabric.backward(losses.total)
        _update(learners, fabric)
        seen.append(values)
        bar.set_postfix_str(f"epoch {epoch + 1}, loss {values['loss/total']:.4f}", refresh=False)
        bar.update()
    return {**rates, **{name: sum(values[name] for values in seen) / len(seen) for name in seen[0]}}


def _set_rates(learners: Mapping[str, Learner], epoch: int, iteration: int) -> dict[str, float]:
    rates = {}
    for name, learner in learners.items():
        factor = learner.factor(epoch, iteration)
        for group in learner.optimiser.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
            rates[f"lr/{group.get('name', name)}"] = group["lr"]
    return rates


def _values(losses: Losses, fabric: Fabric) -> dict[str, float]:
    """The losses as numbers, averaged over all processes, so that every process sees a NaN."""
    named = {"loss/total": losses.total, **{f"loss/{name}": each for name, each in losses.parts.items()}}
    means = _reduced(torch.stack([each.detach().double() for each in named.values()]), "mean", fabric)
    return dict(zip(named, means, strict=True))


def _reduced(values: Tensor, how: str, fabric: Fabric) -> list[Any]:
    """Sum or mean of values on the device over all processes; the same in each process."""
    reduced = fabric.all_reduce(values, reduce_op=how)
    assert isinstance(reduced, torch.Tensor)
    return reduced.tolist()


def _check_finite(values: Mapping[str, float], epoch: int, iteration: int) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        name = bad[-1]  # a part is more informative than the total
        raise DeployError(
            f"the {name.removeprefix('loss/')} loss became {values[name]} in epoch {epoch + 1}, iteration"
            f" {iteration + 1}; start again with --precision fp32, or with a lower --lr if the system has that option"
        )


def _update(learners: Mapping[str, Learner], fabric: Fabric) -> None:
    """Make one step of every optimiser.

    Fabric's own step changes the gradient scale after each optimiser. The gradients of a second optimiser would then be
    unscaled by another number than they were scaled with.
    """
    scaler = _scaler(fabric)
    if scaler is None:
        for learner in learners.values():
            learner.optimiser.step()
    else:
        for learner in learners.values():
            scaler.step(learner.optimiser)
        scaler.update()


def _scaler(fabric: Fabric) -> torch.amp.GradScaler | None:
    """The scaler that keeps fp16 gradients within their range; None if the precision does not need one."""
    return getattr(fabric.strategy.precision, "scaler", None)


@torch.no_grad()
def _judge(
    recipe: Recipe, networks: Mapping[str, nn.Module], fabric: Fabric, epoch: int, place: Place
) -> dict[str, float]:
    """The mean of every score over the results of all processes; a score without results is left out.

    The networks are used without Fabric's wrappers: those make processes wait for one another at every call, but some
    processes validate more images than others.
    """
    for network in networks.values():
        network.eval()
        if place.world > 1:
            _share_statistics(network, fabric)
    if not recipe.scores:
        return {}
    with fabric.autocast():
        found = list(recipe.validate(networks, epoch, place))
    values = [[each[name] for each in found if name in each] for name in recipe.scores]
    table = torch.tensor([[sum(each), len(each)] for each in values], dtype=torch.float64)
    totals = _reduced(fabric.to_device(table), "sum", fabric)
    return {name: total / count for name, (total, count) in zip(recipe.scores, totals, strict=True) if count}


def _share_statistics(network: nn.Module, fabric: Fabric) -> None:
    """Give all processes the mean of their running statistics, because each saw only its share of the images."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.as_tensor(fabric.all_reduce(buffer, reduce_op="mean")))


def _keep(
    recipe: Recipe,
    networks: Mapping[str, nn.Module],
    which: Collection[str],
    folder: Path,
    what: str,
    epoch: int,
    scores: Mapping[str, float],
) -> None:
    for name in which:
        module, score = recipe.kept[name]
        metadata = recipe.metadata(name) | {"epoch": str(epoch)}
        metadata |= {score: str(scores[score])} if score in scores else {}
        path = folder / f"{what}{f'-{name}' if name else ''}.safetensors"
        weights = {key: each.detach().cpu().contiguous() for key, each in networks[module].state_dict().items()}
        write_weights(path, weights, metadata)


def _line(recipe: Recipe, epoch: int, means: Mapping[str, float], scores: Mapping[str, float]) -> str:
    shown = [f"loss {means['loss/total']:.4f}", *(f"{name} {score:.4f}" for name, score in scores.items())]
    return f"epoch {epoch} of {recipe.epochs}: {', '.join(shown)}"


@contextmanager
def _own_randomness(fabric: Fabric) -> Iterator[None]:
    """Restore the caller's random state at the end."""
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def _bar(recipe: Recipe, state: State, *, quiet: bool) -> Iterator[tqdm[None]]:
    total, done = recipe.epochs * recipe.steps, state.epoch * recipe.steps
    # disable=None switches the bar off if stderr is not a terminal.
    with tqdm(total=total, initial=done, desc="training", disable=True if quiet else None, leave=False) as bar:
        yield bar


def _seed(seed: int, epoch: int, rank: int) -> int:
    """Seed of torch for one process in one epoch: dropout differs between processes, and a resumed run repeats it."""
    return int(np.random.default_rng((seed, epoch, rank)).integers(2**63))
