"""Systems: what is said of each is there, and holds together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from locations import ROOT

from msformer_deploy.cli import cli
from msformer_deploy.errors import UsageError
from msformer_deploy.registry import MODES, PRESETS, S3_PUBLISHED, SYSTEMS, RefineSettings, System, find_system

EVERY = pytest.mark.parametrize("system", SYSTEMS.values(), ids=list(SYSTEMS))
OF_SOME = {"classes", "variants"}  # what not every system has


@EVERY
def test_everything_is_said_of_it(system):
    empty = {field.name for field in fields(System) if not getattr(system, field.name)}
    assert empty <= OF_SOME
    assert SYSTEMS[system.name] is find_system(system.name) is system
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", system.code), "owner and repository"
    assert min(system.side, system.width, system.clusters, system.blocks) >= 1


@EVERY
def test_its_presets_can_be_run(system):
    for name, preset in system.presets.items():
        mode = preset.refinement.mode
        assert mode in MODES
        sized = system.sized(name)
        assert preset.fits(sized.side, sized.blocks)
        assert (preset.refinement.steps == 0) == (mode == "none")
    if system.trained:
        assert {preset.refinement.mode for preset in system.presets.values()} == {"none"}, "nothing is learned"
    else:
        assert system.preset().refinement.mode == "head", "which a graph can hold"
    assert set(system.presets) <= set(PRESETS)


@EVERY
def test_classes_are_those_of_a_trained_one(system):
    if system.trained:
        assert len(system.classes) == len(set(system.classes)) == system.clusters
    else:
        assert system.classes == ()


@EVERY
def test_its_commands_exist(system):
    assert set(system.commands) <= set(cli.commands)
    assert len(set(system.commands)) == len(system.commands)


@EVERY
def test_the_features_come_first(system):
    assert system.encoder_outputs[0] == "features"
    assert len(set(system.encoder_outputs)) == len(system.encoder_outputs)
    from msformer_deploy.backends.base import Encoded

    assert set(system.encoder_outputs) <= set(Encoded._fields)


@EVERY
def test_its_variants(system):
    assert len(set(system.variants)) == len(system.variants)
    assert system.variant() == next(iter(system.variants), "")
    assert [system.variant(name) for name in system.variants] == list(system.variants)
    with pytest.raises(UsageError, match=f"{system.name} has no variant 'other'; "):
        system.variant("other")


@EVERY
def test_it_survives_json(system):
    told = json.loads(json.dumps(system.as_dict()))
    assert told["trained"] == system.trained
    assert RefineSettings(**told["presets"][next(iter(system.presets))]["refinement"]) == system.preset().refinement


def test_outputs_of_the_encoders():
    assert SYSTEMS["msformer"].encoder_outputs == ("features", "context_small", "context_large")
    assert SYSTEMS["s3net"].encoder_outputs == ("features",)
    assert SYSTEMS["s3net"].variants == ("plain", "deformable")


def test_the_published_loop_of_s3net():
    assert (
        RefineSettings(
            mode="full",
            steps=50,
            lr=0.2,
            momentum=0.9,
            stop_labels=3,
            least_steps=6,
            cross_entropy_weight=3.5,
            affine_weight=0.2,
            spatial_weight=4.0,
            repaired=False,
        )
        == S3_PUBLISHED
    )
    paper = SYSTEMS["s3net"].presets["paper"]
    assert (paper.refinement, paper.side, paper.blocks) == (S3_PUBLISHED, 256, 2)


def test_unknown_names_are_told_with_the_known_ones():
    with pytest.raises(UsageError, match="system 'unet' is unknown; choose one of msformer, s3net"):
        find_system("unet")
    with pytest.raises(UsageError, match="s3net has no preset 'quick'; choose one of fast, balanced"):
        SYSTEMS["s3net"].preset("quick")
    with pytest.raises(UsageError, match="choose one of plain, deformable"):
        SYSTEMS["s3net"].variant("deformed")
    with pytest.raises(UsageError, match="msformer has no variant 'plain'; leave the variant out"):
        SYSTEMS["msformer"].variant("plain")


@pytest.mark.parametrize("least", [-1, 1.5, True])
def test_least_steps_are_a_whole_number(least):
    with pytest.raises(UsageError, match="least_steps"):
        RefineSettings(mode="full", least_steps=least)


def test_it_needs_no_torch():
    code = "import sys, msformer_deploy.registry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@EVERY
def test_its_page_says_what_the_registry_says(system):
    text = " ".join((ROOT / system.page).read_text(encoding="utf-8").split())
    assert system.title in text
    assert system.code in text
    assert system.paper.split(", ")[-1] in text, "where it was published"
    assert "## Measured" in text
    assert "## How it differs from the publication" in text
    assert f"--system {system.name}" in text
    for name in (*system.variants, *(each for each in system.commands if each != "benchmark")):
        assert name in text, name
