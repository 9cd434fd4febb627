"""``pretrain``: a bundle only if the adapted encoder is better, and what each slip and each bad image costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from msformer_deploy.bundle.folder import HEAD, MANIFEST, WEIGHTS, Bundle, load_bundle
from msformer_deploy.errors import DeployError
from msformer_deploy.export import graphs
from msformer_deploy.pretraining import images as pretraining_images
from msformer_deploy.pretraining import judging, training
from msformer_deploy.pretraining.judging import Judged
from msformer_deploy.registry import SYSTEMS, Preset
from msformer_deploy.weights.network import initial_head

COMMAND = "msformer_deploy.commands.pretrain"
ROWS, COLUMNS = np.mgrid[:60, :80]
DISC = (ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 15**2


@pytest.fixture(autouse=True)
def small(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command adapt a network as small as that of the small bundle."""
    sizes = tiny_bundle.sizes
    presets = SYSTEMS["msformer"].presets | {"balanced": Preset(replace(tiny_bundle.refinement, regions=2))}
    system = replace(
        SYSTEMS["msformer"],
        side=sizes.side,
        width=sizes.width,
        clusters=sizes.clusters,
        blocks=sizes.blocks,
        presets=presets,
    )
    monkeypatch.setattr(f"{COMMAND}.find_system", lambda _: system)


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Decide what the judge finds of every image: scores and DSC of the random encoder, then of the adapted one."""

    def decide(*scores: tuple[float, float, float | None]) -> None:
        waiting = list(scores)

        def judge(bundle: Bundle, held_out: Any, threads: Any, step: Any) -> tuple[Judged, ...]:
            found = waiting.pop(0)
            return tuple(Judged(item.relative.as_posix(), *found) for item in held_out)

        monkeypatch.setattr(judging, "judge", judge)

    return decide


@pytest.fixture
def pretrain(invoke: Callable[..., Any], images: Path, tmp_path: Path) -> Callable[..., Any]:
    """Call the command on the three small images for two steps; the bundle goes to ``tmp_path / "adapted"``."""

    def call(*arguments: object, folders: tuple[object, ...] = (images,), steps: bool = True) -> Any:
        short = ("--side", 33, *(("--steps", 2) if steps else ()))
        return invoke("pretrain", *folders, "--output", tmp_path / "adapted", *short, "--threads", 1, *arguments)

    return call


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """The disc that is on all three images, under the names of two of them."""
    (tmp_path / "masks").mkdir()
    for name in ("a", "c"):
        Image.fromarray(DISC).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path / "masks"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked to be built, in place of seconds to build it."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("msformer_deploy.export.build.build_bundle", lambda *_, **given: asked.append(given))
    return asked


BETTER = ((1.5, 0.6, None), (1.7, 0.7, None))


def test_a_better_encoder_becomes_a_bundle_like_any_other(pretrain, verdict, invoke, images, tmp_path):
    verdict(*BETTER)
    outcome = pretrain("--seed", 3)
    assert outcome.code == 0, outcome.err
    told = outcome.err.splitlines()
    assert told[0].startswith("images to learn from: 1, held out: 2 (")
    assert told[1:] == ["exporting the encoder", "exporting the whole method", "validating against torch"]
    assert outcome.out.splitlines() == [
        "2 images held out: contrast 1.5000 before and 1.7000 after, explained variance 0.6000 before and 0.7000 after",
        f"{tmp_path / 'adapted'}: MS-Former bundle, adapted in 2 steps",
    ]
    made = load_bundle(tmp_path / "adapted")
    record = made.manifest["pretraining"]
    assert (made.seed, record["seed"], record["images"], record["settings"]["steps"]) == (3, 3, 1, 2)
    assert record["settings"]["side"] == 33
    assert len(record["held_out"]) == 2
    assert record["scores"]["decided_by"] == ["contrast", "explained"]
    assert [record["scores"][each]["contrast"] for each in ("random", "adapted")] == [1.5, 1.7]
    assert len(record["images_sha256"]) == 64
    assert str(tmp_path) not in (made.path / MANIFEST).read_text(), "no paths of this machine"
    weights = load_file(made.file(WEIGHTS))
    assert torch.equal(load_file(made.file(HEAD))["head"], weights["linear_down.weight"])
    assert not torch.equal(weights["linear_down.weight"], initial_head(made.sizes, 3))
    quarter = weights["linear_up.weight"][: made.sizes.width]
    assert torch.equal(weights["linear_up.weight"], quarter.repeat(4, 1))
    assert invoke("inspect", made.path).code == 0
    assert invoke("run", images / "a.png", "--bundle", made.path, "--output", tmp_path / "out", "-q").code == 0
    whole = ("--whole-graph", "--output", tmp_path / "whole", "-q")
    assert invoke("run", images / "a.png", "--bundle", made.path, *whole).code == 0
    ours, graph = (np.asarray(Image.open(tmp_path / each / "a.png.mask.png")) for each in ("out", "whole"))
    assert (ours == graph).mean() > 0.999


def test_the_same_seed_gives_the_same_weights(pretrain, verdict, built):
    for _ in range(2):
        verdict(*BETTER)
        assert pretrain("-q").code == 0
    made = [each["pretrained"] for each in built]
    first, second = (each.network.state_dict() for each in made)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert made[0].provenance == made[1].provenance


@pytest.mark.parametrize(
    ("scores", "parts"),
    [
        (((1.5, 0.6, None), (1.5, 0.7, None)), ("contrast 1.5000 before and 1.5000 after",)),
        (((1.5, 0.7, None), (1.9, 0.6, None)), ("explained variance 0.7000 before and 0.6000 after; both must rise",)),
    ],
)
def test_one_that_is_not_better_leaves_nothing(pretrain, verdict, tmp_path, images, scores, parts):
    verdict(*scores)
    outcome = pretrain("-q")
    assert outcome.out.startswith("2 images held out: contrast ")
    outcome.error(3, "is not better than the random one on 2 images held out", "nothing is written", *parts)
    assert set(tmp_path.iterdir()) == {images}


def test_really_judged_it_says_both_numbers_either_way(pretrain, masks, tmp_path):
    outcome = pretrain("-q", "--masks", masks)
    assert outcome.code in (0, 3), outcome.err
    assert outcome.out.startswith("1 image held out: contrast ")
    assert " before and " in outcome.out.split(", DSC ")[1]
    assert (tmp_path / "adapted").exists() == (outcome.code == 0)


@pytest.mark.parametrize(("dsc", "code"), [((0.8, 0.81), 0), ((0.8, 0.8), 3), ((0.8, 0.7), 3)])
def test_with_masks_the_dsc_decides(pretrain, verdict, masks, built, dsc, code):
    verdict((1.5, 0.6, dsc[0]), (1.4 if code == 0 else 1.9, 0.6, dsc[1]))
    outcome = pretrain("-q", "--masks", masks)
    assert outcome.code == code, outcome.err
    assert f", DSC {dsc[0]:.4f} before and {dsc[1]:.4f} after" in outcome.out
    assert len(built) == (code == 0)


def test_only_images_with_a_mask_judge(pretrain, verdict, masks, built):
    for seed in range(4):
        verdict((1.0, 0.5, 0.1), (1.0, 0.5, 0.2))
        assert pretrain("-q", "--masks", masks, "--holdout", 0.6, "--seed", seed).code == 0
    made = [each["pretrained"].provenance for each in built]
    assert [record["held_out"] for record in made] == [["a.png", "more/c.tif"]] * 4
    assert [record["images"] for record in made] == [1] * 4


def test_epochs_are_passes_over_what_is_learned_from(pretrain, verdict, built):
    verdict(*BETTER)
    assert pretrain("-q", "--epochs", 3, steps=False).code == 0
    assert built[0]["pretrained"].provenance["settings"]["steps"] == 3


class TestBadImages:
    def test_one_that_cannot_be_read_is_told_and_left_out(self, pretrain, verdict, built, images):
        (images / "d.png").write_text("no picture")
        verdict(*BETTER)
        outcome = pretrain("-q")
        assert outcome.code == 5
        (line,) = outcome.err.splitlines()
        assert line.startswith(f"error: {images / 'd.png'}: not a PNG")
        assert built[0]["pretrained"].provenance["images"] == 1

    @pytest.mark.parametrize(
        ("left", "code", "part"),
        [(0, 1, "none of the 3 images can be read"), (1, 2, "too few images, 1"), (2, 2, "too few images, 2")],
    )
    def test_too_few_that_can_be_read(self, pretrain, images, tmp_path, left, code, part):
        for name in ("b.jpg", "more/c.tif", "a.png")[: 3 - left]:
            (images / name).write_text("no picture")
        outcome = pretrain("-q")
        assert outcome.code == code
        assert outcome.err.splitlines()[-1].startswith(f"error: {part}")
        assert set(tmp_path.iterdir()) == {images}

    def test_a_single_image(self, pretrain, images):
        pretrain("-q", folders=(images / "a.png",)).error(2, "too few images, 1: at least 3 are needed")

    def test_none(self, pretrain, tmp_path):
        (tmp_path / "empty").mkdir()
        pretrain("-q", folders=(tmp_path / "empty",)).error(2, "no images")

    def test_a_folder_that_is_not_there(self, pretrain, tmp_path):
        outcome = pretrain("-q", folders=(tmp_path / "nowhere",))
        assert outcome.code == 1
        assert "no such file" in outcome.err.splitlines()[0]

    def test_one_that_is_gone_when_its_turn_comes(self, pretrain, images, tmp_path, monkeypatch):
        real = pretraining_images.split

        def split(*arguments: Any, **given: Any) -> Any:
            (images / "a.png").unlink()
            return real(*arguments, **given)

        monkeypatch.setattr(pretraining_images, "split", split)
        pretrain("-q").error(1, "a.png: no such file")
        assert set(tmp_path.iterdir()) == {images}


class TestBadMasks:
    def test_one_that_cannot_be_used_is_told_and_does_not_judge(self, pretrain, verdict, built, masks):
        Image.fromarray(DISC & False).save(masks / "a.png")
        verdict((1.0, 0.5, 0.1), (1.0, 0.5, 0.2))
        outcome = pretrain("-q", "--masks", masks)
        assert outcome.code == 5
        assert "a.png: an empty mask cannot judge" in outcome.err

    def test_none_that_can_be_used(self, pretrain, masks):
        for name in ("a", "c"):
            (masks / f"{name}.png").write_text("no picture")
        outcome = pretrain("-q", "--masks", masks)
        assert outcome.code == 2
        assert "none of the images has a mask that can be used" in outcome.err.splitlines()[-1]

    def test_no_such_folder(self, pretrain, tmp_path):
        pretrain("-q", "--masks", tmp_path / "nowhere").error(2, "no such folder")


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (("--side", 96), ("side 96 does not fit", "97")),
        (("--holdout", "nan"), ("--holdout nan is no share",)),
        (("--holdout", 1), ("--holdout",)),
        (("--holdout", 0), ("--holdout",)),
        (("--epochs", 2), ("--steps and --epochs",)),
        (("--steps", 0), ("--steps",)),
        (("--preset", "paper"), ("mode full",)),
    ],
)
def test_slips_are_told_before_anything_is_read(pretrain, monkeypatch, images, tmp_path, given, parts):
    monkeypatch.setattr(pretraining_images, "readable", lambda *_: pytest.fail("an image was read"))
    pretrain(*given, "-q").error(2, *parts)
    assert set(tmp_path.iterdir()) == {images}


def test_an_output_that_exists_is_told_before_anything_is_read(pretrain, monkeypatch, tmp_path):
    monkeypatch.setattr(pretraining_images, "readable", lambda *_: pytest.fail("an image was read"))
    (tmp_path / "adapted").mkdir()
    (tmp_path / "adapted" / "notes.txt").write_text("mine")
    pretrain("-q").error(2, "exists already")
    pretrain("-q", "--force").error(2, "is not a bundle, so --force will not replace it")
    below_a_file = tmp_path / "adapted" / "notes.txt" / "bundle"
    pretrain("-q", "--output", below_a_file).error(2, "notes.txt/bundle: cannot be written")


def test_force_replaces_a_bundle(pretrain, verdict, built, bundle_copy):
    verdict(*BETTER)
    assert pretrain("-q", "--force", "--output", bundle_copy).code == 0
    assert built[0]["force"] is True


def raising(error: BaseException) -> Callable[..., None]:
    def stage(*_: object, **__: object) -> None:
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [(KeyboardInterrupt(), 130, "interrupted"), (DeployError("the loss is no number any more"), 1, "no number")],
)
@pytest.mark.parametrize(
    "place", [(training, "adapt"), (judging, "judge"), (graphs, "export_encoder")], ids=lambda each: each[1]
)
def test_what_ends_it_leaves_what_was_there(
    pretrain, verdict, bundle_copy, monkeypatch, error, code, part, place, tmp_path
):
    if place[1] != "judge":
        verdict(*BETTER)
    before = (bundle_copy / MANIFEST).read_bytes(), set(tmp_path.iterdir())
    monkeypatch.setattr(*place, raising(error))
    outcome = pretrain("-q", "--force", "--output", bundle_copy)
    assert outcome.code == code
    assert part in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert ((bundle_copy / MANIFEST).read_bytes(), set(tmp_path.iterdir())) == before


def test_a_loss_that_is_no_number_is_one_line(pretrain, monkeypatch, tmp_path, images):
    monkeypatch.setattr(training, "imbalance", lambda logits: logits.mean() * float("nan"))
    pretrain("-q").error(1, "the loss is no number any more in step 1 (nan)", "nothing is written")
    assert set(tmp_path.iterdir()) == {images}
