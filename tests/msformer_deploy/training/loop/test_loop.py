"""The loop on a toy recipe: what it writes, that it goes on as if never interrupted, and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from toy_recipe import SAMPLES, VALIDATED, Toy

from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.training.loop import checkpoint, loop
from msformer_deploy.training.loop.devices import open_fabric
from msformer_deploy.training.loop.loop import CHECKPOINT, METRICS, train
from msformer_deploy.training.loop.metrics_log import read
from msformer_deploy.training.loop.recipe import Losses, Place
from msformer_deploy.training.loop.state import State

WEIGHTS = ("best-one", "best-two", "last-one", "last-two")


def run(folder: Path, recipe: Toy | None = None, **given: Any) -> State:
    folder.mkdir(exist_ok=True)
    return train(recipe or Toy(), folder, open_fabric("cpu"), quiet=given.pop("quiet", True), **given)


def made(folder: Path) -> dict[str, Any]:
    """Everything that a run has written, for comparison."""
    weights = {name: {k: v.tolist() for k, v in load_file(folder / f"{name}.safetensors").items()} for name in WEIGHTS}
    return {"metrics": (folder / METRICS).read_text(), **weights}


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


class Stops(Toy):
    """A recipe that is interrupted in the middle of an epoch."""

    def __init__(self, at: int, error: BaseException, **given: Any) -> None:
        super().__init__(**given)
        self.at, self.error = at, error

    def losses(self, modules: Any, batch: Any, epoch: int, iteration: int) -> Losses:
        if iteration == self.at:
            raise self.error
        return super().losses(modules, batch, epoch, iteration)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch, however short."""
    monkeypatch.setattr(loop, "BETWEEN", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


class TestHowOften:
    def epochs(self, folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
        """After which of ten epochs there was a checkpoint, and the last weights with it."""
        now, found = iter(range(10**6)), []
        monkeypatch.setattr(loop.time, "monotonic", lambda: seconds * next(now))
        write = State.write

        def told(state: State, path: Path, record: Any) -> None:
            assert metadata(folder / "last-one.safetensors")["epoch"] == str(state.epoch)
            found.append(state.epoch)
            write(state, path, record)

        monkeypatch.setattr(State, "write", told)
        run(folder, Toy(epochs=10))
        assert [row["epoch"] for row in read(folder / METRICS)] == list(range(1, 11))
        return found

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(0.0, [1, 10]), (10.0, [1, 4, 7, 10]), (15.0, [1, 3, 5, 7, 9, 10]), (30.0, range(1, 11))],
    )
    def test_checkpoints_are_half_a_minute_apart(self, tmp_path, monkeypatch, seconds, expected):
        """The clock is looked at once after an epoch, and once more when a checkpoint was written."""
        monkeypatch.setattr(loop, "BETWEEN", 30.0)
        assert self.epochs(tmp_path, monkeypatch, seconds) == list(expected)

    def test_what_is_between_them_is_learned_again(self, tmp_path, monkeypatch, whole):
        monkeypatch.setattr(loop, "BETWEEN", 30.0)
        with pytest.raises(RuntimeError, match="power"):
            run(tmp_path, Stops(7, RuntimeError("power")))
        assert checkpoint.read(tmp_path / CHECKPOINT)["epoch"] == 1
        assert len(read(tmp_path / METRICS)) == 2
        run(tmp_path, resume=True)
        assert made(tmp_path) == made(whole)


class TestWhatIsWritten:
    def test_a_row_an_epoch_with_losses_rates_and_scores(self, whole):
        rows = read(whole / METRICS)
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
        assert list(rows[0]) == [
            "epoch", "lr/body", "lr/rest", "lr/adamw", "loss/total", "loss/first", "loss/second", "score/first",
            "score/second",
        ]  # fmt: skip
        assert [row["lr/body"] for row in rows] == pytest.approx([0.001 * share for share in (0.25, 0.5, 0.75, 1)])
        assert [row["lr/rest"] for row in rows] == pytest.approx([0.01 * share for share in (0.25, 0.5, 0.75, 1)])
        last_steps = [0.01 * (1 - (3 * epoch - 1) / 12) for epoch in (1, 2, 3, 4)]
        assert [row["lr/adamw"] for row in rows] == pytest.approx(last_steps), "stepped every iteration"
        for row in rows:
            assert row["loss/total"] == pytest.approx(row["loss/first"] + 0.5 * row["loss/second"])

    def test_a_score_is_the_mean_of_what_has_it(self, whole):
        rows = read(whole / METRICS)
        assert ["score/rare" in row for row in rows] == [False, False, True, True]
        assert rows[3]["score/rare"] == 0.25
        network = Toy().modules()["first"]
        network.load_state_dict(load_file(whole / "last-one.safetensors"))
        toy = Toy()
        error = (network.eval()(toy.numbers) - toy.sums)[:VALIDATED].abs().mean().item()
        assert rows[3]["score/first"] == pytest.approx(-error)

    def test_it_learns(self, whole):
        rows = read(whole / METRICS)
        assert rows[-1]["loss/total"] < rows[0]["loss/total"]

    def test_the_best_weights_of_each_network_are_kept_and_the_last(self, whole):
        rows = read(whole / METRICS)
        for name, score in (("one", "first"), ("two", "second")):
            best = max(rows, key=lambda row: row[f"score/{score}"])
            assert metadata(whole / f"best-{name}.safetensors") == {
                "system": "toy",
                "which": name,
                "epoch": str(best["epoch"]),
                score: str(best[f"score/{score}"]),
            }
            assert metadata(whole / f"last-{name}.safetensors")["epoch"] == "4"

    def test_nothing_else(self, whole):
        names = {CHECKPOINT, METRICS, *(f"{name}.safetensors" for name in WEIGHTS)}
        assert {each.name for each in whole.iterdir()} == names

    def test_the_end_is_returned(self, tmp_path):
        state = run(tmp_path)
        assert state.epoch == 4
        rows = read(tmp_path / METRICS)
        assert state.best == {
            name: max((row[f"score/{score}"], row["epoch"]) for row in rows)
            for name, score in (("one", "first"), ("two", "second"))
        }


class TestGoingOn:
    @pytest.mark.parametrize("at", [0, 1, 6, 8, 11])
    def test_an_interrupted_run_ends_as_if_it_had_not_been(self, whole, tmp_path, at):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Stops(at, KeyboardInterrupt()))
        assert (tmp_path / CHECKPOINT).exists() == (at >= 3)
        run(tmp_path, resume=True)
        assert made(tmp_path) == made(whole)

    def test_also_when_what_was_written_is_newer_than_the_checkpoint(self, whole, tmp_path, monkeypatch):
        real = checkpoint.write

        def stop(path: Path, state: dict[str, Any]) -> None:
            if state["epoch"] == 3:
                raise KeyboardInterrupt
            real(path, state)

        monkeypatch.setattr(checkpoint, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
        assert len(read(tmp_path / METRICS)) == 3
        monkeypatch.undo()
        run(tmp_path, resume=True)
        assert made(tmp_path) == made(whole)

    def test_what_the_caller_draws_in_between_does_not_matter(self, whole, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Stops(6, KeyboardInterrupt()))
        torch.rand(5)
        run(tmp_path, resume=True)
        assert made(tmp_path) == made(whole)

    def test_a_run_that_has_ended_is_left_as_it_is(self, tmp_path):
        ended = run(tmp_path)
        before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
        again = run(tmp_path, resume=True)
        assert (again.epoch, again.best) == (4, ended.best)
        assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before

    @pytest.mark.parametrize(
        ("changed", "part"),
        [({"lr": 0.02}, "began with settings lr 0.01, but now it is 0.02"), ({"epochs": 5}, "settings epochs 4")],
    )
    def test_other_settings_are_told(self, tmp_path, changed, part):
        run(tmp_path)
        with pytest.raises(UsageError, match=part):
            run(tmp_path, Toy(**changed), resume=True)

    def test_other_data_are_told(self, tmp_path):
        run(tmp_path)
        other = Toy()
        other.record["data"] = {"sha256": "1"}
        with pytest.raises(UsageError, match="began with data sha256 0, but now it is 1"):
            run(tmp_path, other, resume=True)

    def test_networks_of_another_shape_are_told(self, tmp_path):
        class Larger(Toy):
            def modules(self) -> dict[str, torch.nn.Module]:
                return super().modules() | {"second": torch.nn.Sequential(*[torch.nn.Linear(1, 1)] * 3)}

        run(tmp_path)
        with pytest.raises(DeployError, match="does not fit the networks"):
            run(tmp_path, Larger(), resume=True)

    def test_another_precision_is_told(self, tmp_path, monkeypatch):
        run(tmp_path)
        monkeypatch.setattr(loop, "_scaler", lambda _: torch.amp.GradScaler("cpu"))
        with pytest.raises(UsageError, match="another --precision"):
            run(tmp_path, resume=True)

    def test_a_damaged_checkpoint_is_told_and_stays(self, tmp_path):
        run(tmp_path)
        content = (tmp_path / CHECKPOINT).read_bytes()[:-9]
        (tmp_path / CHECKPOINT).write_bytes(content)
        with pytest.raises(DeployError, match="cut short or damaged"):
            run(tmp_path, resume=True)
        assert (tmp_path / CHECKPOINT).read_bytes() == content


class TestEpochs:
    def test_networks_learn_in_training_mode_and_are_judged_in_the_other(self, tmp_path):
        toy = Toy(epochs=2)
        run(tmp_path, toy)
        assert toy.modes == 2 * [True, True, True, False]

    def test_every_sample_is_seen_once_in_each(self, tmp_path):
        toy = Toy(epochs=2)
        run(tmp_path, toy)
        epochs = [[index for batch in toy.seen[start : start + 3] for index in batch] for start in (0, 3)]
        assert [sorted(each) for each in epochs] == 2 * [list(range(SAMPLES))]
        assert epochs[0] != epochs[1]

    def test_the_seed_decides(self, whole, tmp_path):
        run(tmp_path, Toy(seed=1))
        assert made(tmp_path)["metrics"] != made(whole)["metrics"]

    def test_dropout_differs_between_epochs(self):
        seeds = [loop._seed(0, epoch, rank) for epoch in range(5) for rank in range(3)]
        assert len(set(seeds)) == 15

    def test_the_random_numbers_of_the_caller_are_left_alone(self, tmp_path):
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        run(tmp_path)
        assert torch.equal(torch.rand(2), expected)

    def test_without_scores_there_is_no_validation_and_no_best(self, tmp_path):
        toy = Toy()
        toy.scores = ()
        assert run(tmp_path, toy).best == {}
        assert toy.modes == 12 * [True]
        assert not list(tmp_path.glob("best*"))
        assert "score" not in (tmp_path / METRICS).read_text()


class TestScaling:
    class Recorder:
        """A stand-in for the scaler of fp16 gradients."""

        def __init__(self) -> None:
            self.calls: list[str] = []

        def step(self, optimiser: torch.optim.Optimizer) -> None:
            self.calls.append(type(optimiser).__name__)
            optimiser.step()

        def update(self) -> None:
            self.calls.append("update")

        def state_dict(self) -> dict[str, Any]:
            return {"calls": list(self.calls)}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.calls = state["calls"]

    def test_the_scale_changes_after_all_optimisers(self, tmp_path, monkeypatch):
        scaler = self.Recorder()
        monkeypatch.setattr(loop, "_scaler", lambda _: scaler)
        run(tmp_path, Toy(epochs=1))
        assert scaler.calls == 3 * ["SGD", "AdamW", "update"]

    def test_it_is_part_of_the_state(self, tmp_path, monkeypatch):
        first, again = self.Recorder(), self.Recorder()
        monkeypatch.setattr(loop, "_scaler", lambda _: first)
        run(tmp_path)
        monkeypatch.setattr(loop, "_scaler", lambda _: again)
        run(tmp_path, resume=True)
        assert len(first.calls) == 4 * 3 * 3
        assert again.calls == first.calls


class TestFailures:
    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_a_loss_that_is_no_number(self, tmp_path, value):
        class Breaks(Toy):
            def losses(self, modules: Any, batch: Any, epoch: int, iteration: int) -> Losses:
                total, parts = super().losses(modules, batch, epoch, iteration)
                bad = parts["second"] * (float(value) if iteration == 7 else 1)
                return Losses(total + bad, {**parts, "second": bad})

        with pytest.raises(DeployError) as caught:
            run(tmp_path, Breaks())
        assert str(caught.value).startswith(f"the second loss became {value} in epoch 3, iteration 8;")
        assert "lower --lr" in str(caught.value)
        assert checkpoint.read(tmp_path / CHECKPOINT)["epoch"] == 2
        run(tmp_path, resume=True)

    def test_the_weights_are_those_before_it(self, tmp_path):
        class Breaks(Toy):
            def losses(self, modules: Any, batch: Any, epoch: int, iteration: int) -> Losses:
                self.networks = modules
                total, parts = super().losses(modules, batch, epoch, iteration)
                return Losses(total * float("nan"), parts)

        toy = Breaks()
        with pytest.raises(DeployError, match="total loss became nan"):
            run(tmp_path, toy)
        assert all(each.isfinite().all() for each in toy.networks["first"].parameters())

    def test_no_room(self, tmp_path, monkeypatch):
        def full(path: Path, state: Any) -> None:
            raise DeployError("no room")

        monkeypatch.setattr(checkpoint, "write", full)
        with pytest.raises(DeployError, match="no room"):
            run(tmp_path)

    def test_a_batch_that_cannot_be_read(self, tmp_path):
        class Breaks(Toy):
            def batch(self, epoch: int, step: int, place: Place) -> Any:
                if (epoch, step) == (1, 1):
                    raise DeployError("a.png: no such file")
                return super().batch(epoch, step, place)

        with pytest.raises(DeployError, match="no such file"):
            run(tmp_path, Breaks())
        assert checkpoint.read(tmp_path / CHECKPOINT)["epoch"] == 1


def test_progress_is_a_line_an_epoch(tmp_path, capfd):
    run(tmp_path, quiet=False)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 4
    assert lines[1].startswith("epoch 2 of 4: loss ")
    assert ", first -" in lines[1]
    run(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_shares_are_disjoint_and_whole():
    shares = [Place(rank, 3).share(range(8)) for rank in range(3)]
    assert sorted(index for share in shares for index in share) == list(range(8))
    assert list(Place().share("abc")) == ["a", "b", "c"]


SCRIPT = """
import sys
from pathlib import Path
import torch
from toy_recipe import Toy
from msformer_deploy.training.loop.devices import open_fabric
from msformer_deploy.training.loop.loop import train

class Mean(torch.nn.Module):
    "A running statistic, of the share of a batch that a process has; it changes nothing."
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
    def forward(self, x):
        if self.training:
            self.mean.copy_(x.mean())
        return x

class Still(Toy):
    "Without what is random or is normalised by batch, so that two processes do what one does."
    def modules(self):
        return {name: torch.nn.Sequential(each[0], Mean(), each[-1]) for name, each in super().modules().items()}

torch.set_num_threads(1)
fabric = open_fabric("cpu", devices=int(sys.argv[2]))
fabric.launch()
train(Still(), Path(sys.argv[1]), fabric, quiet=True, resume=True)
"""


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        command = [sys.executable, "script.py", str(processes), str(processes)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    alone, together = (read(tmp_path / str(processes) / METRICS) for processes in (1, 2))
    assert len(alone) == len(together) == 4
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    for name in WEIGHTS:
        one, other = (load_file(tmp_path / each / f"{name}.safetensors") for each in "12")
        assert one.keys() == other.keys(), "names are those of the networks, not of their wrappers"
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-5)
