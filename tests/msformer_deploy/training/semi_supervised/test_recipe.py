"""The recipe of MCSC on small networks: what it draws, what each loss is of, what it validates and writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cardiac
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from msformer_deploy.errors import UsageError
from msformer_deploy.losses.overlap import soft_dice_loss
from msformer_deploy.measures.volumes import score_volume
from msformer_deploy.training.loop.devices import open_fabric
from msformer_deploy.training.loop.loop import METRICS, train
from msformer_deploy.training.loop.metrics_log import read
from msformer_deploy.training.loop.recipe import Place
from msformer_deploy.training.semi_supervised import recipe as semi_supervised
from msformer_deploy.training.semi_supervised.recipe import Batch, SemiSupervised, new_swin, new_unet, predict_volume
from msformer_deploy.training.semi_supervised.settings import SemiSupervisedSettings
from msformer_deploy.training.semi_supervised.slices import Split, find_slices, read_labels, read_slice, split, volumes

h5py = pytest.importorskip("h5py")

SETTINGS = SemiSupervisedSettings(
    iterations=4, validation_interval=2, classes=3, contrastive_start=20_000, seed=0, **cardiac.SIZES
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients with two volumes of two slices: a disc in a ring on a noisy ground, of another size in each."""
    made = tmp_path_factory.mktemp("slices")
    rows, columns = np.mgrid[:60, :50]
    for patient in range(4):
        for frame in range(2):
            for index in range(2):
                squared = (rows - 30 - patient) ** 2 + (columns - 25 + index) ** 2
                labels = np.where(squared < 100, 2, np.where(squared < 225, 1, 0)).astype(np.uint8)
                noise = np.random.default_rng((patient, frame, index)).random(labels.shape)
                with h5py.File(made / f"patient{patient}_frame{frame}_slice_{index}.h5", "w") as file:
                    file["image"] = (0.4 * labels + 0.2 * noise).astype(np.float32)
                    file["label"] = labels
    return made


@pytest.fixture(scope="module")
def data(folder: Path) -> Split:
    return split(find_slices(folder), 1, 1, 0)


@pytest.fixture
def recipe(data: Split) -> Callable[..., SemiSupervised]:
    return lambda **changed: SemiSupervised(replace(SETTINGS, **changed), data, "digest", range(3))


def modules(made: SemiSupervised) -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return made.modules()


class TestBatches:
    def test_labelled_slices_with_their_labels_and_unlabelled_ones(self, recipe):
        batch = recipe(labelled_batch=3).batch(0, 1, Place())
        assert (batch.labelled.shape, batch.labels.shape, batch.unlabelled.shape) == (
            (3, 1, 64, 64),
            (3, 64, 64),
            (2, 1, 64, 64),
        )
        assert (batch.labelled.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
        inside = batch.labelled[:, 0] > 0.25
        assert (inside == (batch.labels > 0)).float().mean() > 0.99

    def test_labels_are_read_of_labelled_slices_alone(self, recipe, data, monkeypatch):
        seen = []
        real = semi_supervised.read_labels
        monkeypatch.setattr(
            semi_supervised, "read_labels", lambda which, values: seen.append(which) or real(which, values)
        )
        made = recipe()
        for step in range(8):
            made.batch(0, step, Place())
        assert set(seen) == set(data.labelled)

    def test_each_stream_shows_every_slice_before_any_again(self, recipe, data, monkeypatch):
        seen: list[Any] = []
        real = semi_supervised.read_slice
        monkeypatch.setattr(semi_supervised, "read_slice", lambda which: seen.append(which) or real(which))
        made = recipe()
        for iteration in range(4):  # of two of each: twice the four labelled, once the eight unlabelled
            made.batch(*divmod(iteration, 2), Place())
        labelled, unlabelled = ([each for each in seen if each in part] for part in (data.labelled, data.unlabelled))
        assert len(seen) == 16
        assert set(labelled[:4]) == set(labelled[4:]) == set(data.labelled)
        assert set(unlabelled) == set(data.unlabelled)

    def test_the_same_is_drawn_again_and_other_things_later(self, recipe):
        one, again, later = (recipe().batch(epoch, 0, Place()) for epoch in (0, 0, 1))
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
        assert not torch.equal(one.labelled, later.labelled)

    def test_a_slice_is_varied_anew_each_time(self, data):
        single = Split(data.labelled[:1], data.unlabelled[:1], data.held_out)
        made = SemiSupervised(SETTINGS, single, "digest", range(3))
        batches = [made.batch(epoch, step, Place()) for epoch in range(4) for step in range(2)]
        for stream in ("labelled", "unlabelled"):
            assert len({each.numpy().tobytes() for batch in batches for each in getattr(batch, stream)}) > 4

    def test_processes_share_a_batch(self, recipe):
        whole, *parts = (recipe().batch(0, 0, Place(*each)) for each in ((0, 1), (0, 2), (1, 2)))
        for index in range(3):
            torch.testing.assert_close(torch.cat([each[index] for each in parts]), whole[index])
        with pytest.raises(UsageError, match="3 processes cannot share a batch with 2 slices of a kind"):
            recipe().batch(0, 0, Place(0, 3))

    def test_supervised_alone_sees_the_same_labelled_slices_and_no_others(self, recipe):
        alone, both = (recipe(supervised_only=each).batch(0, 0, Place()) for each in (True, False))
        assert torch.equal(alone.labelled, both.labelled)
        assert torch.equal(alone.labels, both.labels)
        assert alone.unlabelled.shape == (0, 1, 64, 64)


class TestLosses:
    @pytest.fixture
    def batch(self, recipe) -> Batch:
        return recipe().batch(0, 0, Place())

    def test_supervised_terms_are_half_of_cross_entropy_and_dice(self, recipe, batch):
        made = recipe(supervised_only=True)
        networks = modules(made)
        assert set(networks) == {"unet", "swin"}
        for each in networks.values():
            each.eval()
        losses = made.losses(networks, batch._replace(unlabelled=batch.unlabelled[:0]), 0, 0)
        assert set(losses.parts) == {"supervised_unet", "supervised_swin"}
        for name, each in networks.items():
            logits = each(batch.labelled).logits
            expected = (F.cross_entropy(logits, batch.labels) + soft_dice_loss(logits.softmax(1), batch.labels)) / 2
            torch.testing.assert_close(losses.parts[f"supervised_{name}"], expected)
        torch.testing.assert_close(losses.total, sum(losses.parts.values()))

    def test_each_network_learns_of_the_other_on_unlabelled_slices(self, recipe, batch):
        made = recipe()
        networks = modules(made)
        for each in networks.values():
            each.eval()
        parts = made.losses(networks, batch, 0, 0).parts
        images = torch.cat([batch.labelled, batch.unlabelled])
        logits = {name: networks[name](images).logits[2:] for name in ("unet", "swin")}
        for name, other in (("unet", "swin"), ("swin", "unet")):
            expected = soft_dice_loss(logits[name].softmax(1), logits[other].argmax(1))
            torch.testing.assert_close(parts[f"pseudo_{name}"], expected)

    def test_pseudo_labels_give_no_gradient_to_whose_they_are(self, recipe, batch):
        made = recipe(contrastive_weight=0.0)
        networks = modules(made)
        parts = made.losses(networks, batch, 0, 0).parts
        parts["pseudo_unet"].backward(retain_graph=True)
        assert all(each.grad is None for each in networks["swin"].parameters())
        assert any(each.grad is not None for each in networks["unet"].parameters())

    @pytest.mark.parametrize(("iteration", "weight"), [(0, 0.1 * np.exp(-5)), (3, 0.1)])
    def test_the_total_has_the_weights_of_the_iteration(self, recipe, batch, iteration, weight):
        made = recipe()
        total, parts = made.losses(modules(made), batch, 0, iteration)
        expected = (
            parts["supervised_unet"]
            + parts["supervised_swin"]
            + weight * (parts["pseudo_unet"] + parts["pseudo_swin"])
            + 0.002 * (parts["contrastive_full"] + parts["contrastive_coarse"])
        )
        torch.testing.assert_close(total, expected)

    def contrasted(self, made, batch, iteration, monkeypatch) -> list[tuple[torch.Tensor, int]]:
        """The labels that are cut into blocks, and the block."""
        seen = []
        real = semi_supervised.draw_groups
        monkeypatch.setattr(
            semi_supervised,
            "draw_groups",
            lambda labels, block, **options: seen.append((labels, block)) or real(labels, block, **options),
        )
        networks = modules(made)
        for each in networks.values():
            each.eval()
        made.losses(networks, batch, 0, iteration)
        answers = {name: networks[name](batch.unlabelled).logits.argmax(1) for name in ("unet", "swin")}
        self.expected = torch.cat([batch.labels, answers["swin"], batch.labels, answers["unet"]])
        return seen

    def test_at_first_labelled_slices_are_contrasted_at_both_scales(self, recipe, batch, monkeypatch):
        (full, block), (coarse, coarse_block) = self.contrasted(recipe(), batch, 1, monkeypatch)
        assert (block, coarse_block) == (16, 4)
        assert torch.equal(full, torch.cat([batch.labels, batch.labels]))
        assert torch.equal(coarse, full[:, 4::8, 4::8])

    def test_later_all_are_and_each_view_goes_by_the_other_networks_answer(self, recipe, batch, monkeypatch):
        (full, _), (coarse, _) = self.contrasted(recipe(), batch, 2, monkeypatch)
        assert torch.equal(full, self.expected)
        assert torch.equal(coarse, full[:, 4::8, 4::8])

    def test_every_pixel_is_contrasted_with_its_own_label(self, recipe, batch, monkeypatch):
        made = recipe(contrastive_start=0)
        networks = modules(made)
        picked = []
        real = semi_supervised.contrastive_loss
        monkeypatch.setattr(
            semi_supervised,
            "contrastive_loss",
            lambda features, groups, *each: picked.append((features, groups)) or real(features, groups, *each),
        )
        for each in networks.values():
            each.eval()
        made.losses(networks, batch, 0, 0)
        images = torch.cat([batch.labelled, batch.unlabelled])
        maps = [networks[name](images) for name in ("unet", "swin")]
        projected = networks["projectors"](*((each.full, each.coarse) for each in maps))
        for (features, groups), whole in zip(picked, projected, strict=True):
            torch.testing.assert_close(features, groups.pick(whole))

    def test_every_module_gets_a_gradient_even_without_foreground(self, recipe, batch):
        made = recipe()
        networks = modules(made)
        blank = batch._replace(labels=torch.zeros_like(batch.labels))
        total, parts = made.losses(networks, blank, 0, 0)
        total.backward()
        assert parts["contrastive_full"].item() == 0
        missing = [
            f"{name}.{key}"
            for name, each in networks.items()
            for key, parameter in each.named_parameters()
            if parameter.grad is None
        ]
        assert missing == []

    @pytest.mark.parametrize("switch", ["published_label_order", "published_tiling"])
    def test_published_switches_change_the_contrastive_loss_alone(self, recipe, batch, switch):
        found = []
        for value in (False, True):
            made = recipe(**{switch: value}, full_block=8, coarse_block=2)
            networks = modules(made)
            for each in networks.values():
                each.eval()
            torch.manual_seed(0)
            found.append({name: each.item() for name, each in made.losses(networks, batch, 0, 3).parts.items()})
        different = {name for name in found[0] if abs(found[0][name] - found[1][name]) > 1e-6}
        assert different == {"contrastive_full", "contrastive_coarse"}

    @pytest.mark.slow
    @pytest.mark.parametrize(("published", "modes"), [(False, [True] * 3), (True, [True, True, False])])
    def test_as_published_the_unet_stays_in_evaluation_mode_after_a_validation(self, recipe, batch, published, modes):
        made = recipe(published_eval_mode=published, iterations=6, validation_start=15_000)
        assert [made._settings.validates(epoch) for epoch in range(3)] == [False, True, True]
        networks = modules(made)
        found = []
        for epoch in range(3):
            for each in networks.values():
                each.train()  # as the loop does
            made.losses(networks, batch, epoch, 2 * epoch)
            found.append(networks["unet"].training)
            assert networks["swin"].training
        assert found == modes


def test_three_optimisers_with_their_learning_rates(recipe):
    made = recipe(iterations=100)
    learners = made.learners(modules(made))
    rates = {name: each.optimiser.param_groups[0]["lr"] for name, each in learners.items()}
    assert rates == {"unet": 5e-4, "swin": 1e-4, "projectors": 5e-4}
    for name, each in learners.items():
        assert isinstance(each.optimiser, torch.optim.AdamW)
        assert each.optimiser.param_groups[0]["weight_decay"] == 5e-4
        expected = (1e-3, 1) if name == "swin" else (1, 0.95**0.9)
        assert [each.factor(0, iteration) for iteration in (0, 5)] == pytest.approx(expected)


class TestValidation:
    def test_scores_are_those_of_the_volumes_in_their_own_size(self, recipe, data):
        made = recipe()
        networks = modules(made)
        for each in networks.values():
            each.eval()
        found = list(made.validate(networks, 1, Place()))
        held_out = list(volumes(data.held_out).values())
        assert len(found) == len(held_out) == 2
        assert all(set(each) <= set(made.scores) for each in found)
        for slices, scores in zip(held_out, found, strict=True):
            predicted = predict_volume(networks["swin"], slices, 64)
            assert predicted.shape == (2, 60, 50)
            truth = np.stack([read_labels(each, range(3)) for each in slices])
            dice = [each.dice for each in score_volume("v", predicted, truth, 3, distances=False)]
            assert scores["swin_dice"] == pytest.approx(np.mean(dice))
            assert scores["swin_dice_2"] == pytest.approx(dice[1])

    def test_a_perfect_network_scores_nearly_one(self, data):
        class Perfect(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.unused = torch.nn.Parameter(torch.zeros(1))

            def forward(self, images: torch.Tensor) -> Any:
                grey = images[:, 0]
                classes = (grey > 0.3).long() + (grey > 0.7)
                return semi_supervised.Segmented(F.one_hot(classes, 3).permute(0, 3, 1, 2), images, images)

        slices = next(iter(volumes(data.held_out).values()))
        predicted = predict_volume(Perfect(), slices, 64)
        image = np.stack([read_slice(each) for each in slices])
        np.testing.assert_array_equal(predicted, (image > 0.3) + (image > 0.7).astype(np.uint8))

    def test_processes_share_volumes_and_none_is_validated_too_early(self, recipe):
        made = recipe(iterations=400, validation_interval=2)
        networks = modules(made)
        for each in networks.values():
            each.eval()
        assert list(made.validate(networks, 0, Place())) == []
        shares = [list(made.validate(networks, 199, Place(rank, 2))) for rank in range(2)]
        assert shares[0] + shares[1] == list(made.validate(networks, 199, Place()))


def test_a_folder_becomes_a_recipe(folder, data):
    seen: list[int] = []
    made = semi_supervised.recipe(folder, SETTINGS, 1, 1, step=lambda: seen.append(1))
    assert len(seen) == 16
    assert made.record["data"]["labelled_patients"] == (data.labelled[0].patient,)
    assert made.record["data"]["held_out_patients"] == (data.held_out[0].patient,)
    assert (made.epochs, made.steps, made.seed) == (2, 2, 0)
    assert made.record["data"]["unlabelled_slices"] == 8


def test_what_cannot_be_trained(folder):
    with pytest.raises(UsageError, match="all patients are labelled or held out"):
        semi_supervised.recipe(folder, SETTINGS, 3, 1)
    assert semi_supervised.recipe(folder, replace(SETTINGS, supervised_only=True), 3, 1).epochs == 2
    for values in ((0, 1), (0, 1, 1)):
        with pytest.raises(UsageError, match="2 different values for 3 classes"):
            semi_supervised.recipe(folder, SETTINGS, 1, 1, values=values)


@pytest.mark.slow
def test_a_run_writes_both_networks_and_goes_on_as_if_never_interrupted(folder, tmp_path):
    def run(name: str, made: SemiSupervised, resume: bool = False) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        train(made, tmp_path / name, open_fabric("cpu"), resume=resume, quiet=True)
        return tmp_path / name

    class Stops(SemiSupervised):
        def losses(self, networks: Any, batch: Any, epoch: int, iteration: int) -> Any:
            if iteration == 3:
                raise KeyboardInterrupt
            return super().losses(networks, batch, epoch, iteration)

    made = semi_supervised.recipe(folder, SETTINGS, 1, 1)
    whole = run("whole", made)
    rows = read(whole / METRICS)
    assert len(rows) == 2
    assert {"loss/contrastive_full", "loss/pseudo_swin", "score/unet_dice", "score/swin_dice_2", "lr/swin"} <= set(
        rows[1]
    )
    stopped = Stops(SETTINGS, made._data, made.record["data"]["sha256"], range(3))
    with pytest.raises(KeyboardInterrupt):
        run("again", stopped)
    again = run("again", semi_supervised.recipe(folder, SETTINGS, 1, 1), resume=True)
    assert (again / METRICS).read_text() == (whole / METRICS).read_text()
    for name, network in (("unet", new_unet(SETTINGS)), ("swin", new_swin(SETTINGS))):
        weights = load_file(whole / f"last-{name}.safetensors")
        network.load_state_dict(weights)
        for key, value in load_file(again / f"last-{name}.safetensors").items():
            assert torch.equal(value, weights[key])
        with safe_open(whole / f"best-{name}.safetensors", framework="pt") as file:
            facts = file.metadata()
        assert (facts["system"], facts["network"], facts["side"], facts["classes"]) == ("mcsc", name, "64", "3")
        assert json.loads(facts["sizes"])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_it_learns(folder, tmp_path):
    settings = replace(SETTINGS, iterations=60, validation_interval=60, unet_lr=5e-3, swin_lr=2e-3)
    train(semi_supervised.recipe(folder, settings, 1, 1), tmp_path, open_fabric("cpu"), quiet=True)
    (row,) = read(tmp_path / METRICS)
    assert row["score/unet_dice"] > 0.6
    assert row["score/swin_dice"] > 0.6
