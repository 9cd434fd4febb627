"""``train``: a folder with weights, metrics and curves; what is interrupted goes on; what each slip costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vgg
from labelled import write_pairs
from PIL import Image
from safetensors.torch import load_file, save_file

from msformer_deploy.bundle.folder import sha256
from msformer_deploy.models.subtraction import M2SNet, MSNet
from msformer_deploy.training.loop.metrics_log import read
from msformer_deploy.training.supervised import pairs, supervised
from msformer_deploy.training.supervised.supervised import Supervised

FILES = {"run.json", "metrics.csv", "curves.png", "best.safetensors", "last.safetensors", "checkpoint.safetensors"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command train networks of few channels."""
    monkeypatch.setattr(
        supervised, "new_network", lambda system: {"msnet": MSNet, "m2snet": M2SNet}[system](4, (1, 1, 1, 1))
    )


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_pairs(tmp_path, 6)


@pytest.fixture
def start(invoke: Callable[..., Any], folders: tuple[Path, Path], tmp_path: Path) -> Callable[..., Any]:
    """Call the command on six images for two epochs; the run goes to ``tmp_path / "run"``."""

    def call(*arguments: object, images: Path = folders[0], masks: Path = folders[1]) -> Any:
        short = ("--side", 64, "--epochs", 2, "--batch", 3, "--threads", 1, "--device", "cpu")
        paths = ("--images", images, "--masks", masks, "--output", tmp_path / "run")
        return invoke("train", "--system", "m2snet", *paths, *short, *arguments)

    return call


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let Ctrl-C come at an iteration."""
    real = Supervised.losses

    def losses(self: Supervised, modules: Any, batch: Any, epoch: int, iteration: int) -> Any:
        if iteration == at:
            raise KeyboardInterrupt
        return real(self, modules, batch, epoch, iteration)

    monkeypatch.setattr(Supervised, "losses", losses)


@pytest.mark.slow
def test_a_run_has_weights_metrics_curves_and_a_record(start, tmp_path, folders):
    outcome = start("--validation", 0.3, "--seed", 5)
    assert outcome.code == 0, outcome.err
    told = outcome.err.splitlines()
    assert told[:3] == [
        "training images: 4, validation images: 2",
        "no --weights and no --backbone: the network starts with random weights",
        "no --lossnet: the loss on features is left out",
    ]
    assert [line.split(":")[0] for line in told[3:]] == ["epoch 1 of 2", "epoch 2 of 2"]
    rows = read(tmp_path / "run" / "metrics.csv")
    best = max(rows, key=lambda row: row["score/dice"])
    assert outcome.out == (
        f"{tmp_path / 'run'}: 2 epochs, best dice {best['score/dice']:.4f} in epoch {best['epoch']}\n"
    )
    assert {each.name for each in (tmp_path / "run").iterdir()} == FILES
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.width == 1200
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["system"] == "m2snet"
    assert record["settings"] | {"scales": [64], "seed": 5, "side": 64, "lr": 0.05} == record["settings"]
    assert record["data"] == {
        "training": 4,
        "validation": 2,
        "sha256": pairs.check(pairs.find_pairs(*folders), int),
    }
    assert str(tmp_path) not in json.dumps(record), "no paths of this machine"
    supervised.new_network("m2snet").load_state_dict(load_file(tmp_path / "run" / "best.safetensors"))


def test_options_reach_the_settings(start, tmp_path):
    given = (
        "--side",
        96,
        "--scales",
        "64,96",
        "--lr",
        0.01,
        "--rotation",
        90,
        "--zoom",
        1.3,
        "--colour",
        0.2,
        "--weight-decay",
        0.005,
        "--validation",
        0,
    )
    assert start(*given, "-q", "--epochs", 1, "--precision", "bf16").code == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    expected = {
        "side": 96,
        "scales": [64, 96],
        "lr": 0.01,
        "rotation": 90.0,
        "zoom": 1.3,
        "colour": 0.2,
        "weight_decay": 0.005,
    }
    assert record["settings"] | expected | {"validation": 0.0, "epochs": 1} == record["settings"]
    assert record["starts"][0]["precision"] == "bf16"
    row = read(tmp_path / "run" / "metrics.csv")[0]
    assert row["lr/decoder"] == 0.01
    assert row["lr/backbone"] == pytest.approx(0.001)
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.slow
def test_the_loss_on_features_of_a_file_is_learned_from(start, tmp_path):
    """With VGG-16 as it is, if of random weights."""
    save_file(vgg.weights(), tmp_path / "vgg16.safetensors")
    outcome = start("--lossnet", tmp_path / "vgg16.safetensors", "--epochs", 1)
    assert outcome.code == 0, outcome.err
    assert "left out" not in outcome.err.split("random weights")[1]
    (row,) = read(tmp_path / "run" / "metrics.csv")
    parts = {name: float(row[f"loss/{name}"]) for name in ("wbce", "wiou", "lossnet", "total")}
    assert parts["lossnet"] > 0
    assert parts["total"] == pytest.approx(parts["wbce"] + parts["wiou"] + 0.1 * parts["lossnet"], rel=1e-4)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["lossnet"] is True


@pytest.mark.slow
@pytest.mark.parametrize(("given", "expected"), [((), [64, 96]), (("--scales", 96), [96])])
def test_scales_follow_the_side(start, tmp_path, given, expected):
    assert start("-q", "--side", 96, "--epochs", 1, *given).code == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["scales"] == expected


class TestGoingOn:
    @pytest.mark.slow
    def test_ctrl_c_says_how_and_the_result_is_the_same(self, start, tmp_path, monkeypatch):
        assert start("-q").code == 0
        (tmp_path / "run").rename(tmp_path / "whole")
        with monkeypatch.context() as patch:
            interrupted(patch, 3)
            start("-q").error(130, "interrupted; run the same command with --resume to continue", tmp_path / "run")
        assert start("-q", "--resume").code == 0
        whole, parts = tmp_path / "whole", tmp_path / "run"
        assert (whole / "metrics.csv").read_bytes() == (parts / "metrics.csv").read_bytes()
        one, other = (load_file(each / "last.safetensors") for each in (whole, parts))
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert len(json.loads((parts / "run.json").read_text())["starts"]) == 2

    @pytest.mark.slow
    def test_interrupted_in_the_first_epoch_it_begins_again(self, start, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            interrupted(patch, 0)
            assert start("-q").code == 130
        assert start("-q", "--resume").code == 0
        assert {each.name for each in (tmp_path / "run").iterdir()} == FILES

    @pytest.mark.slow
    def test_one_that_has_ended_says_so_again(self, start):
        first = start("-q")
        assert start("-q", "--resume").out == first.out

    @pytest.mark.slow
    def test_another_setting_is_told(self, start):
        start("-q")
        start("-q", "--resume", "--lr", 0.01).error(2, "settings lr 0.05, but now it is 0.01")

    @pytest.mark.slow
    def test_another_image_is_told(self, start, folders):
        start("-q")
        for each in folders:
            (each / "06.png").write_bytes((each / "05.png").read_bytes())
        start("-q", "--resume").error(2, "began with data training 5, but now it is 6")

    @pytest.mark.slow
    def test_a_damaged_checkpoint_is_told(self, start, tmp_path):
        start("-q")
        path = tmp_path / "run" / "checkpoint.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        start("-q", "--resume").error(1, path, "cut short or damaged")

    def test_there_must_be_one(self, start, tmp_path):
        start("-q", "--resume").error(2, tmp_path / "run", "there is no run to resume")


class TestPlace:
    @pytest.mark.slow
    def test_a_run_is_replaced_only_if_asked(self, start, tmp_path):
        start("-q", "--epochs", 1)
        start("-q").error(2, "exists already")
        assert start("-q", "--force").code == 0
        assert len(read(tmp_path / "run" / "metrics.csv")) == 2

    def test_another_folder_is_not(self, start, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "notes.txt").write_text("mine")
        start("-q", "--force").error(2, "is not a run")
        assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


class TestStart:
    @pytest.mark.slow
    @pytest.mark.parametrize(("option", "network"), [("--weights", "m2snet"), ("--backbone", "res2net")])
    def test_weights_are_read_and_on_record(self, start, tmp_path, monkeypatch, option, network):
        torch.manual_seed(3)
        weights = supervised.new_network("m2snet").state_dict()
        if network == "res2net":
            weights = {name: each for name, each in weights.items() if name.startswith("resnet.")}
        save_file(weights, tmp_path / "a.safetensors")
        asked = []

        def import_weights(path: Path, kind: str) -> dict[str, torch.Tensor]:
            asked.append((path, kind))
            return load_file(path)

        monkeypatch.setattr("msformer_deploy.weights.checkpoint_import.import_weights", import_weights)
        outcome = start("--epochs", 1, option, tmp_path / "a.safetensors")
        assert outcome.code == 0, outcome.err
        assert "random weights" not in outcome.err
        assert asked == [(tmp_path / "a.safetensors", network)]
        origin = f"{option.removeprefix('--')} {sha256(tmp_path / 'a.safetensors')}"
        assert json.loads((tmp_path / "run" / "run.json").read_text())["start"] == origin

    @pytest.mark.parametrize("option", ["--weights", "--backbone", "--lossnet"])
    def test_files_that_are_none_are_told_before_images_are_read(self, start, tmp_path, monkeypatch, option):
        monkeypatch.setattr(pairs, "check", lambda *_: pytest.fail("an image was read"))
        (tmp_path / "a.pth").write_bytes(b"no weights")
        start("-q", option, tmp_path / "a.pth").error(2, tmp_path / "a.pth")
        start("-q", option, tmp_path / "absent.pth").error(2, tmp_path / "absent.pth")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (("--side", 100), ("side 100 does not fit", "multiple of 32")),
        (("--scales", "64,65"), ("side 65 does not fit",)),
        (("--scales", "64;96"), ("--scales", "not a list of whole numbers")),
        (("--weights", "a", "--backbone", "b"), ("--weights and --backbone",)),
        (("--resume", "--force"), ("--resume and --force",)),
        (("--lr", "nan"), ("learning rate nan",)),
        (("--lr", 0), ("learning rate 0.0",)),
        (("--epochs", 0), ("epochs 0",)),
        (("--batch", 0), ("batch 0",)),
        (("--validation", 1), ("share of validation images 1.0",)),
        (("--precision", "fp16"), ("training in fp16 needs a GPU",)),
        (("--devices", 0), ("--devices",)),
        (("--devices", 9), ("a batch of 2 images is too small for 9 processes",)),
        (("--system", "msformer"), ("--system",)),
    ],
)
def test_slips_are_told(start, tmp_path, given, parts):
    start("-q", *given).error(2, *parts)
    assert not (tmp_path / "run").exists()


class TestBadData:
    def test_a_single_image(self, invoke, start, tmp_path):
        images, masks = write_pairs(tmp_path / "one", 1)
        start("-q", images=images, masks=masks).error(2, "too few images, 1")

    def test_an_image_without_a_mask(self, start, folders):
        (folders[1] / "03.png").unlink()
        start("-q").error(2, "images without a mask", "1 (03.png)")

    def test_no_such_folder(self, start, tmp_path):
        start("-q", images=tmp_path / "absent").error(2, tmp_path / "absent", "no such folder")
        start("-q", masks=tmp_path / "absent").error(2, tmp_path / "absent", "no such folder")

    @pytest.mark.parametrize(
        ("mask", "part"),
        [
            (np.zeros((72, 60), np.uint8), "a mask of 60 x 72 for an image of 80 x 72"),
            (np.arange(72 * 80, dtype=np.uint8).reshape(72, 80) % 4, "the values 0, 1, 2, 3"),
        ],
    )
    def test_a_mask_that_does_not_fit(self, start, folders, tmp_path, mask, part):
        Image.fromarray(mask).save(folders[1] / "02.png")
        start("-q").error(1, folders[1] / "02.png", part)
        assert not (tmp_path / "run").exists()

    def test_a_file_that_is_no_image(self, start, folders, tmp_path):
        (folders[0] / "02.png").write_text("no picture")
        start("-q").error(1, folders[0] / "02.png")
        assert not (tmp_path / "run").exists()


class TestFailures:
    def test_a_loss_that_is_no_number(self, start, monkeypatch):
        monkeypatch.setattr(supervised, "weighted_iou", lambda logits, _: logits.mean() * float("nan"))
        start("-q").error(1, "wiou loss became nan in epoch 1, iteration 1", "--lr", "--precision")

    def test_a_device_that_is_too_small(self, start, monkeypatch):
        def full(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        monkeypatch.setattr(supervised, "weighted_iou", full)
        start("-q").error(1, "the device does not have enough memory", "--batch")

    def test_fabric_that_is_missing(self, start, monkeypatch):
        monkeypatch.setitem(sys.modules, "lightning_fabric", None)
        start("-q").error(4, 'pip install "msformer-deploy[train]"')

    def test_no_gpu(self, start, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        start("-q", "--device", "cuda").error(4, "--device cuda needs a CUDA device, but torch finds none")

    @pytest.mark.slow
    def test_without_matplotlib_there_are_no_curves(self, start, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        outcome = start("-q")
        assert outcome.code == 0
        assert 'pip install "msformer-deploy[plot]"' in outcome.err
        assert {each.name for each in (tmp_path / "run").iterdir()} == FILES - {"curves.png"}

    def test_another_process_ends_silently(self, start, monkeypatch, capfd, tmp_path):
        monkeypatch.setattr("msformer_deploy.training.loop.devices.is_first_process", lambda: False)
        monkeypatch.setattr(supervised, "weighted_iou", lambda logits, _: logits.mean() * float("nan"))
        with pytest.raises(SystemExit):
            start()
        assert capfd.readouterr() == ("", "")
        assert not (tmp_path / "run").exists()
