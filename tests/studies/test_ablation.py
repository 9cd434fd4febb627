"""The ablation: what its variations are and share, and that its default is what the library does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scripts
import torch

from msformer_deploy import Segmenter
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.evaluation import PROTOCOLS
from msformer_deploy.registry import SYSTEMS, RefineSettings

SETTINGS = RefineSettings(steps=3, stride=4, regions=2)


@pytest.fixture
def real() -> ModuleType:
    return scripts.load("ablation")


@pytest.fixture
def script(real: ModuleType, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script whose default is of the tests' bundle's size."""
    monkeypatch.setattr(real, "SIZES", tiny_bundle.sizes)
    monkeypatch.setattr(real, "PRESET", SimpleNamespace(refinement=SETTINGS))
    return real


@pytest.fixture
def data(picture: np.ndarray, tmp_path: Path) -> Path:
    """Two images with masks."""
    images = {str(index): np.roll(picture, index, axis=1) for index in range(2)}
    return scripts.data_set(tmp_path / "data", images, dict.fromkeys(images, scripts.disc()))


@pytest.fixture
def case(script: ModuleType, data: Path) -> Any:
    (task, _) = script.tasks_of([data], [0], None)["data"]
    return script.Case(script.read_image(task.image), script.published_truth(task.mask, None), 0)


def test_the_default_is_the_first_preset_and_has_one_name(real: ModuleType) -> None:
    known = real.variations()
    assert next(iter(known)) == real.DEFAULT
    default = known[real.DEFAULT]
    system = SYSTEMS["msformer"].sized()
    assert default.settings == system.preset().refinement
    assert (default.encoding.sizes.side, default.encoding.sizes.blocks) == (system.side, system.blocks)
    for side in (97, 129, 193, 257):
        assert (f"side {side}" in known) == (side != default.encoding.sizes.side)
    assert "regions 2" not in known
    assert {"regions all", "3 heads", "k-means++ head", "upsampling not tied"} <= known.keys()


def test_the_default_is_what_the_segmenter_does(script: ModuleType, case: Any, tiny_bundle: Bundle) -> None:
    theirs = Segmenter(tiny_bundle, backend="torch", settings=SETTINGS).segment(case.image)
    ours = script.variations()[script.DEFAULT].segment(case)
    assert (ours.network_labels == theirs.network_labels).all()
    assert (ours.labels == theirs.labels).all()
    assert (ours.mask == theirs.mask).all()


def test_all_regions_are_as_the_segmenter_leaves_them(script: ModuleType, case: Any, tiny_bundle: Bundle) -> None:
    settings = RefineSettings(steps=3, stride=4)
    theirs = Segmenter(tiny_bundle, backend="torch", settings=settings).segment(case.image)
    assert (script.variations()["regions all"].segment(case).labels == theirs.labels).all()


def test_one_label_everywhere_shows_what_cropping_with_the_truth_gives(script: ModuleType, case: Any) -> None:
    scores = script.scored(script.variations()["one label everywhere"].segment(case), case.truth)
    assert scores["label-free"] == 0
    assert scores["published"] > 0.7


def test_the_mask_can_stand_for_the_regions(script: ModuleType, case: Any) -> None:
    known = script.variations()
    mask = known[script.DEFAULT].segment(case).mask
    assert (known["regions from the mask"].segment(case).labels == mask).all()


def test_features_are_computed_once_for_an_encoder_and_what_it_sees(
    script: ModuleType, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []

    def encode(frozen: Any, pixels: torch.Tensor) -> Any:
        encoded.append(pixels)
        return script_encode(frozen, pixels)

    script_encode = script.encode_in_strips
    monkeypatch.setattr(script, "encode_in_strips", encode)
    known = script.variations()
    # This image has no frame, so that there is nothing to fill.
    for name in (script.DEFAULT, "steps 0", "regions all", "3 heads", "k-means++ head", "frame not filled"):
        known[name].segment(case)
    assert len(encoded) == 1
    known["3 flips"].segment(case)
    assert len(encoded) == 3
    known["blocks 1"].segment(case)
    known["upsampling not tied"].segment(case)
    assert len(encoded) == 5
    case.forget()
    known[script.DEFAULT].segment(case)
    assert len(encoded) == 6


def test_maps_of_two_regions_vote_whatever_their_ids(script: ModuleType) -> None:
    object_ = np.zeros((4, 4), np.uint8)
    object_[1:3, 1:3] = 1
    other, wrong = object_.copy(), object_.copy()
    other[0, 0], wrong[3, 3] = 1, 1
    voted = script.majority([np.where(object_ == 1, 7, 2), np.where(other == 1, 3, 9), np.where(wrong == 1, 5, 4)])
    assert (voted == object_).all()


def test_centres_are_drawn_far_apart(script: ModuleType) -> None:
    groups = torch.eye(5).repeat_interleave(20, dim=0)
    centres = script.plus_plus(groups, 5, np.random.default_rng(0))
    assert sorted(centres.argmax(dim=1).tolist()) == [0, 1, 2, 3, 4]
    more = script.plus_plus(groups, 7, np.random.default_rng(0))  # more than there are different pixels
    assert more.shape == (7, 5)


def test_a_mean_is_over_images_and_its_spread_over_seeds(script: ModuleType) -> None:
    scores = {0: (0.2, 0.4), 1: (0.6, 0.8)}
    rows = [
        {"source": "a", "image": str(image), "seed": seed, "dsc": {"default": {"published": value}}}
        for seed, values in scores.items()
        for image, value in enumerate(values)
    ]
    found = script.summarise(rows, "a", "default", "published")
    assert found == pytest.approx((0.5, np.std([0.3, 0.7], ddof=1)))
    assert str(found) == "0.500 ± 0.283"
    assert str(script.summarise(rows[:2], "a", "default", "published")) == "0.300"


def test_what_is_asked_is_measured_and_told(
    script: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--data", data, "--seeds", 0, 1, "--only", "3 flips", "borders not drawn", "k-means++ head of 8"]
    given += ["--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *map(str, given)])
    assert script.main() == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["image"], row["seed"]) for row in rows] == [
        (f"{image}.png", seed) for seed in (0, 1) for image in (0, 1)
    ]
    for row in rows:
        assert row["dsc"].keys() == {"default", "3 flips", "borders not drawn", "k-means++ head of 8"}
        assert all(scores.keys() == set(PROTOCOLS) for scores in row["dsc"].values())
    told = (tmp_path / "out.md").read_text()
    assert told.count("| head | 3 flips |") == 2
    assert "2 of data" in told


@pytest.mark.parametrize(
    ("given", "told"), [(["--only", "nothing"], "variation 'nothing' is unknown"), (["--data", "."], "has no images/")]
)
def test_what_cannot_be_measured_is_one_line(
    script: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, given: list[str], told: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--data", str(data), *given])
    assert script.main() == UsageError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
