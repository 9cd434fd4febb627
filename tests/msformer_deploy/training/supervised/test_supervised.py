"""The recipe of MSNet and M2SNet on small networks: what it draws, optimises, measures and writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled import write_pairs
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from msformer_deploy.errors import UsageError
from msformer_deploy.losses.structure import weighted_bce, weighted_iou
from msformer_deploy.models.normalise import IMAGENET_MEAN, IMAGENET_STD
from msformer_deploy.models.subtraction import M2SNet, MSNet
from msformer_deploy.training.loop.devices import open_fabric
from msformer_deploy.training.loop.loop import METRICS, train
from msformer_deploy.training.loop.metrics_log import read
from msformer_deploy.training.loop.recipe import Losses, Place
from msformer_deploy.training.supervised import supervised
from msformer_deploy.training.supervised.augment import Views, warp
from msformer_deploy.training.supervised.pairs import Split, check, find_pairs, read_pair, split
from msformer_deploy.training.supervised.settings import SupervisedSettings
from msformer_deploy.training.supervised.supervised import NETWORK, Batch, Start, Supervised, overlap

SETTINGS = SupervisedSettings(epochs=4, batch=4, side=64, scales=(64, 96), validation=0.2)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of the real structure and few channels."""
    monkeypatch.setattr(
        supervised, "new_network", lambda system: {"msnet": MSNet, "m2snet": M2SNet}[system](4, (1, 1, 1, 1))
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, str]:
    """Ten pairs, two of them for validation."""
    pairs = find_pairs(*write_pairs(tmp_path_factory.mktemp("data"), 10))
    return split(pairs, 0.2, 0), check(pairs, int)


@pytest.fixture
def recipe(data: tuple[Split, str]) -> Callable[..., Supervised]:
    def make(system: Any = "m2snet", **changed: Any) -> Supervised:
        others = {name: changed.pop(name) for name in ("start", "lossnet") if name in changed}
        return Supervised(system, replace(SETTINGS, **changed), *data, **others)

    return make


def run(recipe: Supervised, folder: Path, **given: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return train(recipe, folder, open_fabric("cpu"), quiet=True, **given)


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [batch.images, batch.masks, *batch.views]


class TestBatches:
    def test_an_epoch_has_every_image_once_in_batches_of_nearly_one_size(self, recipe, data):
        for size, expected in ((4, [4, 4]), (3, [3, 3, 2]), (5, [4, 4]), (7, [4, 4]), (16, [8])):
            made = recipe(batch=size, flip=0.0, rotation=0.0)
            batches = [made.batch(0, step, Place()) for step in range(made.steps)]
            assert [len(each.images) for each in batches] == expected
            seen = torch.cat([each.masks for each in batches])
            every = torch.from_numpy(np.stack([read_pair(each, 64)[1] for each in data[0].training]))
            assert sorted(seen.sum(dim=(1, 2, 3)).tolist()) == pytest.approx(sorted(every.sum(dim=(1, 2, 3)).tolist()))

    @pytest.mark.slow
    def test_the_same_is_drawn_again_and_other_things_in_other_epochs(self, recipe):
        first, again, later = (recipe(batch=8).batch(epoch, 0, Place()) for epoch in (0, 0, 1))
        assert all(map(torch.equal, tensors(first), tensors(again)))
        assert not torch.equal(first.images, later.images)
        assert not torch.equal(first.views.degrees.sort().values, later.views.degrees.sort().values)
        sides = {recipe(batch=8).batch(epoch, 0, Place()).side for epoch in range(10)}
        assert sides == {64, 96}

    def test_processes_share_a_batch_and_draw_what_one_alone_would(self, recipe):
        whole = recipe().batch(2, 1, Place())
        shares = [recipe().batch(2, 1, Place(rank, 2)) for rank in range(2)]
        for *parts, expected in zip(*map(tensors, shares), tensors(whole), strict=True):
            assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), expected)
        assert {each.side for each in shares} == {whole.side}

    def test_images_are_rgb_normalised_with_imagenets_numbers(self, recipe, data):
        made = recipe(batch=8).batch(0, 0, Place())
        mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
        std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
        pixels, _ = read_pair(data[0].training[0], 64)
        assert any(torch.allclose(each * std + mean, torch.from_numpy(pixels), atol=1e-6) for each in made.images)
        assert pixels[0].mean() > pixels[2].mean(), "the discs are drawn reddish"

    def test_flips_and_turns_are_within_what_is_asked(self, recipe):
        draws = [recipe(batch=8).batch(epoch, 0, Place()) for epoch in range(12)]
        views = Views(*(torch.cat(each) for each in zip(*(draw.views for draw in draws), strict=True)))
        assert views.degrees.min() < -7 and views.degrees.max() > 7 and views.degrees.abs().max() <= 10
        assert 0.3 < views.flips.float().mean() < 0.7
        assert (views.zooms == 1).all()
        none = recipe(batch=8, flip=0.0, rotation=0.0).batch(0, 0, Place())
        assert not none.views.flips.any() and not none.views.degrees.any()

    def test_zooms_are_even_in_their_logarithm_and_anywhere(self, recipe):
        draws = [recipe(batch=8, zoom=2.0).batch(epoch, 0, Place()).views for epoch in range(12)]
        zooms = torch.cat([each.zooms for each in draws]).log2()
        assert -1 <= zooms.min() < -0.8 and 0.8 < zooms.max() <= 1 and zooms.mean().abs() < 0.2
        for shifts in torch.cat([each.shifts for each in draws]).unbind(dim=1):
            assert -1 <= shifts.min() < -0.8 and 0.8 < shifts.max() <= 1

    def test_light_changes_before_the_norm_and_within_what_is_asked(self, recipe):
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        same, other = (recipe(batch=8, colour=colour).batch(0, 0, Place()) for colour in (0.0, 0.3))
        assert torch.equal(same.masks, other.masks)
        assert torch.equal(same.views.degrees, other.views.degrees)
        before, after = ((each.images * std + mean).clamp(1e-3, 1) for each in (same, other))
        assert after.max() <= 1
        assert (before - after).abs().mean(dim=(1, 2, 3)).min() > 1e-3, "every image is changed"
        # log(after) = gamma log(before) + gain, where nothing was cut
        gammas, gains = ((low, high) for low, high in ((-0.3, 0.3), (-0.45, 0.45)))
        inside = (after < 0.999) & (before > 2e-3)
        slack = 1e-3
        least = before.log() * math.exp(gammas[1]) + gains[0] - slack
        most = before.log() * math.exp(gammas[0]) + gains[1] + slack
        assert ((after.log() >= least) & (after.log() <= most))[inside].all()


class TestOptimiser:
    @pytest.mark.parametrize(("factor", "expected"), [(0.1, 0.005), (1.0, 0.05)])
    def test_the_backbone_has_a_rate_of_its_own(self, recipe, factor, expected):
        made = recipe(backbone_lr_factor=factor)
        modules = made.modules()
        backbone, decoder = made.learners(modules)["sgd"].optimiser.param_groups
        assert (backbone["name"], backbone["lr"]) == ("backbone", pytest.approx(expected))
        assert (decoder["name"], decoder["lr"]) == ("decoder", 0.05)
        assert set(map(id, backbone["params"])) == set(map(id, modules[NETWORK].resnet.parameters()))
        count = len(list(modules[NETWORK].parameters()))
        assert len(backbone["params"]) + len(decoder["params"]) == count
        for group in (backbone, decoder):
            assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, True)

    def test_without_momentum_there_is_nothing_to_look_ahead_of(self, recipe):
        made = recipe(momentum=0.0)
        assert not made.learners(made.modules())["sgd"].optimiser.defaults["nesterov"]

    def test_rates_change_by_epoch(self, recipe):
        made = recipe()
        factor = made.learners(made.modules())["sgd"].factor
        assert [factor(epoch, 99) for epoch in range(4)] == pytest.approx([0.4, 0.8, 0.8, 0.4])


class Flat(nn.Module):
    """Stands for a network: its logits are one number everywhere but in a stripe."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.25))  # above 0, not above 0.5

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.images = images
        logits = self.weight * torch.ones_like(images[:, :1])
        logits[..., : images.shape[-1] // 4] = -1.0
        return logits


class TestLosses:
    def both(self, made: Supervised) -> tuple[Losses, torch.Tensor, torch.Tensor, Flat]:
        network, batch = Flat(), made.batch(0, 0, Place())
        losses = made.losses({NETWORK: network}, batch, 0, 0)
        masks = warp(batch.masks, batch.views, batch.side)
        assert torch.equal(network.images, warp(batch.images, batch.views, batch.side))
        return losses, network(network.images), masks, network

    @pytest.mark.parametrize("published", [False, True])
    def test_weighted_entropy_and_iou_are_added(self, recipe, published):
        losses, logits, masks, _ = self.both(recipe(published_bce=published))
        torch.testing.assert_close(losses.parts["wbce"], weighted_bce(logits, masks, published=published))
        torch.testing.assert_close(losses.parts["wiou"], weighted_iou(logits, masks))
        torch.testing.assert_close(losses.total, losses.parts["wbce"] + losses.parts["wiou"])
        assert list(losses.parts) == ["wbce", "wiou"]

    def test_the_loss_on_features_is_a_tenth_where_it_is_given(self, recipe):
        class Features(nn.Module):
            def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
                return (logits.sigmoid() - masks).square().mean() * 7

        made = recipe(lossnet=Features())
        made.prepare(torch.device("cpu"))
        losses, logits, masks, _ = self.both(made)
        torch.testing.assert_close(losses.parts["lossnet"], 7 * (logits.sigmoid() - masks).square().mean())
        parts = losses.parts
        torch.testing.assert_close(losses.total, parts["wbce"] + parts["wiou"] + 0.1 * parts["lossnet"])
        assert made.record["lossnet"] is True
        assert recipe().record["lossnet"] is False


class TestValidation:
    def test_scores_are_at_a_probability_of_a_half_and_at_the_network_side(self, recipe, data):
        network = Flat()
        found = list(recipe(batch=1).validate({NETWORK: network}, 0, Place()))
        assert network.images.shape == (1, 3, 64, 64)
        predicted = np.zeros((64, 64), bool)
        predicted[:, 16:] = True
        for scores, pair in zip(found, data[0].validation, strict=True):
            truth = read_pair(pair, 64)[1][0] >= 0.5
            both = (predicted & truth).sum()
            assert scores["dice"] == pytest.approx(2 * both / (predicted.sum() + truth.sum()))
            assert scores["iou"] == pytest.approx(both / (predicted | truth).sum())

    def test_each_process_has_its_share(self, recipe):
        whole = list(recipe().validate({NETWORK: Flat()}, 0, Place()))
        shares = [list(recipe().validate({NETWORK: Flat()}, 0, Place(rank, 3))) for rank in range(3)]
        assert [len(each) for each in shares] == [1, 1, 0]
        assert shares[0] + shares[1] == whole

    @pytest.mark.parametrize(
        ("predicted", "truth", "dice", "iou"),
        [("1100", "0110", 0.5, 1 / 3), ("0000", "0000", 1, 1), ("0000", "1000", 0, 0), ("1000", "0000", 0, 0)],
    )
    def test_overlap_is_defined_also_for_empty_masks(self, predicted, truth, dice, iou):
        masks = [torch.tensor([each == "1" for each in text]) for text in (predicted, truth)]
        assert overlap(*masks) == pytest.approx({"dice": dice, "iou": iou})


class TestStart:
    def test_the_seed_gives_the_weights_and_a_start_replaces_them(self, recipe):
        def made(recipe: Supervised, seed: int) -> dict[str, torch.Tensor]:
            torch.manual_seed(seed)
            return recipe.modules()[NETWORK].state_dict()

        random, other = made(recipe(), 0), made(recipe(), 1)
        backbone = {name: each for name, each in other.items() if name.startswith("resnet.")}
        from_backbone = made(recipe(start=Start(backbone, "backbone 1")), 0)
        from_all = made(recipe(start=Start(other, "weights 1")), 0)
        for name in random:
            assert torch.equal(from_all[name], other[name])
            expected = other if name.startswith("resnet.") else random
            assert torch.equal(from_backbone[name], expected[name]), name

    def test_weights_of_another_network_are_told(self, recipe):
        torch.manual_seed(0)
        weights = recipe("m2snet").modules()[NETWORK].state_dict()
        with pytest.raises(UsageError, match=r"not those of msnet: conv_3\."):
            recipe("msnet", start=Start(weights, "weights 1")).modules()

    def test_it_is_on_record(self, recipe):
        assert recipe(start=Start({}, "weights 1")).record["start"] == "weights 1"


@pytest.mark.slow
@pytest.mark.parametrize("system", ["msnet", "m2snet"])
def test_it_learns_and_writes_weights_by_their_published_names(recipe, tmp_path, system):
    made = recipe(system, epochs=8, lr=0.02)
    state = run(made, tmp_path)
    rows = read(tmp_path / METRICS)
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["loss/total"] < 0.8 * rows[0]["loss/total"]
    best = max(rows, key=lambda row: row["score/dice"])
    assert state.best[""] == (best["score/dice"], best["epoch"])
    network = supervised.new_network(system)
    network.load_state_dict(load_file(tmp_path / "best.safetensors"))
    with safe_open(tmp_path / "best.safetensors", framework="pt") as file:
        assert file.metadata() == {
            "system": system,
            "side": "64",
            "channels": "RGB",
            "mean": "0.485, 0.456, 0.406",
            "std": "0.229, 0.224, 0.225",
            "epoch": str(best["epoch"]),
            "dice": str(best["score/dice"]),
        }
    scores = [each["dice"] for each in made.validate({NETWORK: network.eval()}, 0, Place())]
    assert np.mean(scores) == pytest.approx(best["score/dice"]), "these are the weights that had the score"


@pytest.mark.slow
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(recipe, tmp_path, monkeypatch):
    run(recipe(), tmp_path / "whole")
    made = recipe()
    losses = made.losses

    def stop(modules: Any, batch: Any, epoch: int, iteration: int) -> Losses:
        if iteration == 5:
            raise KeyboardInterrupt
        return losses(modules, batch, epoch, iteration)

    monkeypatch.setattr(made, "losses", stop)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "parts")
    assert len(read(tmp_path / "parts" / METRICS)) == 2
    run(recipe(), tmp_path / "parts", resume=True)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert (parts / METRICS).read_text() == (whole / METRICS).read_text()
    for name in ("best.safetensors", "last.safetensors", "checkpoint.safetensors"):
        one, other = load_file(whole / name), load_file(parts / name)
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == [], name


@pytest.mark.slow
def test_without_validation_images_there_are_no_scores(recipe, data, tmp_path):
    everything = Split(data[0].training + data[0].validation, ())
    made = Supervised("msnet", replace(SETTINGS, epochs=1, validation=0.0), everything, data[1])
    assert run(made, tmp_path).best == {}
    assert {each.name for each in tmp_path.glob("*.safetensors")} == {"last.safetensors", "checkpoint.safetensors"}
