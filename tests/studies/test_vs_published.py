"""The published algorithm against ``run``, on small networks of both systems that learn on their image."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripts
import torch
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.images.read import network_input, read_image
from msformer_deploy.refinement.full import refine_full
from msformer_deploy.registry import SYSTEMS
from msformer_deploy.weights.network import load_network


@pytest.fixture(params=["msformer", "s3net"])
def made(request: pytest.FixtureRequest, tiny_bundle: Bundle, tiny_deformable_bundle: Bundle) -> Bundle:
    return {"msformer": tiny_bundle, "s3net": tiny_deformable_bundle}[request.param]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle, tiny_deformable_bundle: Bundle) -> Any:
    """The script, with published networks no larger than those of the small bundles."""
    module = scripts.load("vs_published")
    small = {}
    for each in (tiny_bundle, tiny_deformable_bundle):
        sizes, known = each.sizes, SYSTEMS[each.system]
        paper = known.presets["paper"]
        short = replace(paper, refinement=replace(paper.refinement, steps=8), side=sizes.side, blocks=sizes.blocks)
        small[each.system] = replace(
            known, width=sizes.width, clusters=sizes.clusters, presets=known.presets | {"paper": short}
        )
    monkeypatch.setattr(module, "SYSTEMS", small)
    monkeypatch.setattr(module, "diagnose", lambda: {"machine": {"cpu": "known"}})  # which takes seconds
    return module


@pytest.fixture
def call(script: Any, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run it on two images with masks; the JSON comes back."""
    disc = scripts.disc()
    folder = scripts.data_set(tmp_path / "set", {"a": picture, "b": picture[:, ::-1]}, {"a": disc, "b": disc[:, ::-1]})

    def run(*arguments: object) -> dict[str, Any]:
        images = sorted((folder / "images").iterdir())
        given = [*images, "--threads", 1, "--repeats", 1, "--json", tmp_path / "told.json", *arguments]
        monkeypatch.setattr(sys, "argv", ["vs_published.py", *map(str, given)])
        script.main()
        told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
        return told

    run.masks = folder / "masks"
    return run


def test_both_sides_are_timed_and_judged(call, made, capsys):
    told = call("--bundle", made.path, "--masks", call.masks)
    sides = ("published", made.path.name)
    assert [(row["image"], row["side"]) for row in told["rows"]] == [
        (image, side) for image in ("a.png", "b.png") for side in sides
    ]
    assert (told["machine"], told["threads"]) == ({"cpu": "known"}, 1)
    for row in told["rows"]:
        assert row["seconds"] > 0
        assert 1 <= row["steps"] <= 8
        assert 0 <= row["dsc"] <= 1
    assert told["means"].keys() == set(sides)
    for side in sides:
        rows = [row for row in told["rows"] if row["side"] == side]
        for key in ("seconds", "dsc"):
            assert told["means"][side][key] == pytest.approx(np.mean([row[key] for row in rows]))
    ratio = told["means"]["published"]["seconds"] / told["means"][made.path.name]["seconds"]
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"mean over 2 images: {made.path.name} ")
    assert f"ratio {ratio:.1f}, DSC {told['means'][made.path.name]['dsc']:.4f}" in last


def test_without_masks_there_is_no_dsc(call, made, capsys):
    told = call("--bundle", made.path)
    assert {row["dsc"] for row in told["rows"]} == {None}
    assert "DSC" not in capsys.readouterr().out


def test_the_published_side_starts_from_the_seed_of_the_bundle(script, made, picture, tmp_path):
    """And learns what mode full does."""
    Image.fromarray(picture).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    _, labels, steps = script.as_published(made, image)
    tensor = torch.from_numpy(network_input(image, made.sizes.side)[None])
    settings = script.SYSTEMS[made.system].presets["paper"].refinement
    ours = refine_full(load_network(made), tensor, settings)
    assert steps == len(ours.trace)
    assert (labels == ours.labels).float().mean() > 0.98, "they round otherwise"


def test_bundles_of_both_systems_are_refused(call, tiny_bundle, tiny_s3_bundle, capsys):
    with pytest.raises(SystemExit) as ended:
        call("--bundle", tiny_bundle.path, "--bundle", tiny_s3_bundle.path)
    assert ended.value.code == 2
    assert "error: bundles of several systems; give those of one" in capsys.readouterr().err
