"""``train --system mcsc``: from HDF5 slices to weights, and those to a bundle that segments slices."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cardiac
import numpy as np
import pytest
from PIL import Image

from msformer_deploy.commands import train as module
from msformer_deploy.registry import find_system
from msformer_deploy.training.loop.metrics_log import read
from msformer_deploy.training.semi_supervised.settings import SemiSupervisedSettings
from msformer_deploy.weights.trained import read_trained

h5py = pytest.importorskip("h5py")

TINY = SemiSupervisedSettings(validation_start=1, **cardiac.SIZES)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``--small`` be smaller still."""
    monkeypatch.setattr(module, "SMALL", TINY)


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """Four patients of two slices: a disc in a ring on a noisy ground."""
    folder = tmp_path / "slices"
    folder.mkdir()
    rows, columns = np.mgrid[:60, :50]
    for patient in range(4):
        for index in range(2):
            squared = (rows - 30 - patient) ** 2 + (columns - 25 + index) ** 2
            labels = np.select([squared < 60, squared < 120, squared < 225], [3, 2, 1], 0).astype(np.uint8)
            noise = np.random.default_rng((patient, index)).random(labels.shape)
            with h5py.File(folder / f"patient{patient}_frame01_slice_{index}.h5", "w") as file:
                file["image"] = (0.25 * labels + 0.2 * noise).astype(np.float32)
                file["label"] = labels
    return folder


@pytest.fixture
def start(invoke: Callable[..., Any], slices: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:
        short = ("--small", "--iterations", 4, "--interval", 2, "--threads", 1, "--device", "cpu")
        who = ("--labelled", 1, "--held-out", 1)
        return invoke(
            "train", "--system", "mcsc", "--images", slices, "--output", tmp_path / "run", *short, *who, *arguments
        )

    return call


@pytest.mark.slow
def test_slices_become_weights_and_those_a_bundle_that_segments_slices(start, slices, tmp_path, invoke):
    outcome = start()
    assert outcome.code == 0, outcome.err
    assert "labelled slices: 2, unlabelled: 4, held out: 2" in outcome.err
    run = tmp_path / "run"
    weights = {f"{kind}-{network}.safetensors" for kind in ("best", "last") for network in ("unet", "swin")}
    assert weights <= {path.name for path in run.iterdir()}
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert (settings["iterations"], settings["labelled_batch"], settings["unlabelled_batch"]) == (4, 2, 2)
    # The swin network's weights are read; that it is exported is tried in test_trained_systems.py.
    assert read_trained(find_system("mcsc"), [run / "last-swin.safetensors"], "swin", None).sizes.variant == "swin"
    weights_of_unet = ("--weights", run / "last-unet.safetensors")
    made = invoke("export", "--system", "mcsc", *weights_of_unet, "--output", tmp_path / "bundle", "-q")
    assert made.code == 0, made.err
    output = tmp_path / "out"
    outcome = invoke("run", slices, "--bundle", tmp_path / "bundle", "--output", output, "--backend", "onnxruntime")
    assert outcome.code == 0, outcome.err
    labels = np.asarray(Image.open(output / "patient0_frame01_slice_0.h5.labels.png"))
    assert labels.shape == (60, 50)
    outcome = invoke(
        *("evaluate", "--images", slices, "--masks", slices, "--bundle", tmp_path / "bundle", "--baseline", "none"),
        *("--protocol", "label-free", "--class", 1, "--class", 3, "--json", tmp_path / "e.json"),
    )
    assert outcome.code == 0, outcome.err
    assert len(json.loads((tmp_path / "e.json").read_text())["rows"]) == 2 * 8


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_losses(start, tmp_path, monkeypatch):
    from msformer_deploy.training.semi_supervised.recipe import SemiSupervised

    assert start().code == 0
    expected = read(tmp_path / "run" / "metrics.csv")
    real = SemiSupervised.losses

    def losses(self: Any, modules: Any, batch: Any, epoch: int, iteration: int) -> Any:
        if iteration == 3:
            raise KeyboardInterrupt
        return real(self, modules, batch, epoch, iteration)

    with monkeypatch.context() as patch:
        patch.setattr(SemiSupervised, "losses", losses)
        outcome = start("--force")
    assert outcome.code == 130
    assert "--resume" in outcome.err
    assert start("--resume").code == 0
    assert read(tmp_path / "run" / "metrics.csv") == expected


@pytest.mark.slow
def test_labelled_slices_alone_have_no_unlabelled_losses(start, tmp_path):
    assert start("--supervised-only").code == 0
    assert not any("pseudo" in name or "contrastive" in name for name in read(tmp_path / "run" / "metrics.csv")[0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--batch", 6], {"labelled_batch": 3, "unlabelled_batch": 3}),
        (["--values", "0,85,170,255"], {"classes": 4}),
    ],
)
def test_options_are_settings(options, expected, start, tmp_path, monkeypatch):
    given = {}

    def recipe(folder: Path, settings: SemiSupervisedSettings, *_: object, **others: Any) -> None:
        given.update(vars(settings), values=others["values"])
        raise module.UsageError("enough")

    monkeypatch.setattr("msformer_deploy.training.semi_supervised.recipe.recipe", recipe)
    assert start(*options).code == 2
    assert expected.items() <= given.items()
    assert given["values"] == ((0, 85, 170, 255) if "--values" in options else None)


def test_without_small_the_sizes_are_the_published_ones(invoke, slices, tmp_path, monkeypatch):
    found = []

    def recipe(folder: Path, settings: SemiSupervisedSettings, *_: object, **__: object) -> None:
        found.append(settings)
        raise module.UsageError("enough")

    monkeypatch.setattr("msformer_deploy.training.semi_supervised.recipe.recipe", recipe)
    who = ("--labelled", 1, "--held-out", 1, "--seed", 1337)
    invoke("train", "--system", "mcsc", "--images", slices, "--output", tmp_path / "run", *who)
    assert found == [replace(SemiSupervisedSettings(), seed=1337)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--labelled", "x.txt"], ["x.txt", "is not a number"]),
        (["--labelled", 4], ["cannot draw 4 labelled patients"]),
        (["--batch", 3], ["--batch 3", "even"]),
        (["--iterations", 3], ["3 iterations", "multiple"]),
        (["--epochs", 3], ["system mcsc has no --epochs"]),
        (["--values", "0,1,2"], ["unknown class 3"]),
        (["--values", "0,a"], ["'0,a'"]),
    ],
)
def test_slips_are_told_in_one_line_and_leave_nothing(options, told, start, tmp_path):
    outcome = start(*options)
    assert outcome.code in (1, 2)
    assert all(each in outcome.err for each in told), outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--labelled", "--held-out"])
def test_both_kinds_of_patients_are_needed(option, invoke, slices, tmp_path):
    outcome = invoke("train", "--system", "mcsc", "--images", slices, "--output", tmp_path / "run", option, 1)
    assert outcome.code == 2
    assert "give --labelled and --held-out" in outcome.err


def test_options_of_mcsc_are_not_of_the_others(invoke, tmp_path):
    paths = ("--images", tmp_path, "--masks", tmp_path, "--output", tmp_path / "run")
    outcome = invoke("train", "--system", "m2snet", *paths, "--labelled", 2)
    assert outcome.code == 2
    assert "system m2snet has no --labelled" in outcome.err


def test_a_slice_that_is_none_fails_alone(slices, invoke, tmp_path, tiny_bundle):
    (slices / "broken.h5").write_bytes(b"no")
    output = tmp_path / "out"
    outcome = invoke("run", slices, "--bundle", tiny_bundle.path, "--output", output, "--backend", "onnxruntime")
    assert outcome.code == 5
    assert "broken.h5: cannot be read as HDF5" in outcome.err
