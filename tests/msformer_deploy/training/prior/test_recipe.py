"""The recipe of the prior: it learns, goes on as if never interrupted, and draws the same in other processes."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from msformer_deploy.errors import UsageError
from msformer_deploy.training.loop import loop
from msformer_deploy.training.loop.devices import open_fabric
from msformer_deploy.training.loop.loop import train
from msformer_deploy.training.loop.recipe import Losses, Place
from msformer_deploy.training.prior import recipe
from msformer_deploy.training.prior.__main__ import call, main
from msformer_deploy.training.prior.recipe import (
    AVERAGE,
    NETWORK,
    Batch,
    PriorRecipe,
    PriorSettings,
    dice_loss,
    draw,
    one_cycle,
)

SMALL = PriorSettings(scenes=16, batch=2, sides=(32, 64))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of two updates, validation of one batch, a checkpoint after each."""
    monkeypatch.setattr(recipe, "STEPS", 2)
    monkeypatch.setattr(recipe, "VALIDATED", 1)
    monkeypatch.setattr(loop, "BETWEEN", 0.0)


class Interrupted(PriorRecipe):
    """Stops before an update."""

    def losses(self, modules: Any, batch: Batch, epoch: int, iteration: int) -> Losses:
        if iteration == 5:
            raise KeyboardInterrupt
        return super().losses(modules, batch, epoch, iteration)


def test_the_loss_falls_on_a_handful_of_scenes() -> None:
    torch.manual_seed(0)
    made = PriorRecipe(PriorSettings(scenes=1000, batch=4, sides=(64,)))
    modules = made.modules()
    optimiser = torch.optim.AdamW(modules[NETWORK].parameters(), 3e-3)
    batch, seen = made.batch(0, 0, Place()), []
    for iteration in range(25):
        optimiser.zero_grad()
        losses = made.losses(modules, batch, 0, iteration)
        losses.total.backward()
        optimiser.step()
        seen.append(float(losses.total.detach()))
    assert seen[-1] < 0.6 * seen[0]


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for folder in (whole, parted):
        folder.mkdir()
    train(PriorRecipe(SMALL), whole, open_fabric("cpu"), quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train(Interrupted(SMALL), parted, open_fabric("cpu"), quiet=True)
    train(PriorRecipe(SMALL), parted, open_fabric("cpu"), quiet=True, resume=True)
    assert (whole / "metrics.csv").read_text() == (parted / "metrics.csv").read_text()
    one, other = (load_file(folder / "last.safetensors") for folder in (whole, parted))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_scenes_drawn_by_others_are_the_same() -> None:
    with ThreadPoolExecutor(1) as pool:
        there = PriorRecipe(SMALL, pool).batch(1, 1, Place())
    here = PriorRecipe(SMALL).batch(1, 1, Place())
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))
    assert pickle.loads(pickle.dumps(draw)) is draw  # as processes are given it


def test_the_command_draws_in_processes_that_it_opens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = []

    def open_threads(count: int) -> ThreadPoolExecutor:
        opened.append(count)
        return ThreadPoolExecutor(count)

    monkeypatch.setattr("msformer_deploy.training.prior.__main__.open_pool", open_threads)
    given = ["--output", str(tmp_path / "run"), "--scenes", "2", "--workers", "3"]
    assert CliRunner().invoke(main, given, catch_exceptions=False).exit_code == 0
    assert opened == [3]


def test_scenes_are_seen_once_small_ones_first() -> None:
    made = PriorRecipe(SMALL)
    batches = [made.batch(epoch, step, Place()) for epoch in range(made.epochs) for step in range(made.steps)]
    assert [batch.images.shape[-1] for batch in batches] == [32] * 4 + [64] * 4
    figures = [figure.numpy().tobytes() for batch in batches for figure in batch.figures]
    assert len(set(figures)) == SMALL.scenes


def test_the_average_is_what_is_validated_and_kept() -> None:
    made = PriorRecipe(SMALL)
    assert [kept.module for kept in made.kept.values()] == [AVERAGE]
    modules = {name: each.eval() for name, each in made.modules().items()}
    before = list(made.validate(modules, 0, Place()))
    with torch.no_grad():
        for each in modules[NETWORK].parameters():
            each.fill_(float("nan"))
    assert list(made.validate(modules, 0, Place())) == before
    for each in modules[AVERAGE].parameters():
        each.fill_(float("nan"))  # no gradients here
    assert all(each["dice"] == 0 for each in made.validate(modules, 0, Place()))


@pytest.mark.parametrize(("iteration", "moved"), [(0, 0.9), (10**6, 0.002)])  # 1 - 1 / 10 of the way, 1 - decay
def test_the_average_follows_the_network(iteration: int, moved: float) -> None:
    torch.manual_seed(0)
    made = PriorRecipe(SMALL)
    modules = made.modules()
    with torch.no_grad():
        for each in modules[NETWORK].parameters():
            each.add_(1)
    weight = next(modules[AVERAGE].parameters())
    before = weight.clone()
    made.losses(modules, made.batch(0, 0, Place()), 0, iteration)
    torch.testing.assert_close(weight, before + moved)
    assert not weight.requires_grad


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [one_cycle(step / 100) for step in range(101)]
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates.index(max(rates)) == 4
    assert rates[0] < 0.01 and rates[-1] == pytest.approx(0.01)


def test_dice_loss_is_0_where_all_is_right_and_1_where_nothing_is() -> None:
    figure = torch.zeros(1, 1, 8, 8)
    figure[..., :4] = 1
    assert float(dice_loss(40 * (2 * figure - 1), figure)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(40 * (1 - 2 * figure), figure)) == pytest.approx(64 / 65)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sides": (64, 100)}, "multiples of 32 from 32 to 100"),
        ({"sides": (64, 128)}, "multiples of 32 from 32 to 100"),
        ({"scenes": 0}, "scenes and batch must be 1 or more"),
        ({"batch": 0}, "scenes and batch must be 1 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PriorRecipe(PriorSettings(**wrong))


def test_the_command_leaves_weights_of_half_precision(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    given = ["--output", str(folder), "--scenes", "4", "--workers", "0"]
    result = CliRunner().invoke(main, given, catch_exceptions=False)
    assert result.exit_code == 0
    assert "sha256" in result.stdout
    found, last = load_file(folder / "prior.safetensors"), load_file(folder / "last.safetensors")
    assert found.keys() == last.keys()
    assert all(each.dtype in (torch.float16, torch.int64) for each in found.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--scenes", "0"], "Invalid value for '--scenes': 0 is not in the range x>=1."),
        (["--sceens", "9"], "No such option '--sceens'."),
        (["--resume"], "there is no run to resume"),
    ],
)
def test_what_is_wrong_is_one_line(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["--output", str(tmp_path / "run"), *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said
    assert said.count("\n") == 1


def test_a_folder_that_exists_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert call(["--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: exists already")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("msformer_deploy.training.prior.__main__.PriorRecipe", Interrupted)
    monkeypatch.setattr(recipe, "STEPS", 6)
    assert call(["--output", str(tmp_path / "run"), "--scenes", "96", "--workers", "0"]) == 130
    assert "error: interrupted; run the same command with --resume to continue\n" in capsys.readouterr().err
