"""The timing of mode ``head``, on a small bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import scripts
import torch
from PIL import Image

from msformer_deploy.registry import RefineSettings

SCRIPT = scripts.STUDIES / "refinement.py"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_stages_products_and_scaling_are_measured(tiny_bundle, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "image.png")
    arguments = (tiny_bundle.path, tmp_path / "image.png", "--repeats", 2, "--batch", 3, "--threads", 1)
    command = [sys.executable, SCRIPT, *arguments, "--json", tmp_path / "out.json"]
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out.json").read_text())
    assert set(facts["ms"]) == {"reference", "channels first", "channels last", "batch of 3", "products alone"}
    assert all(set(stages) == {"sample", "step", "argmax"} for stages in facts["stages_ms"].values())
    assert facts["speedup"] > 0
    assert facts["scaling"] > 0


@pytest.mark.parametrize("regions", [0, 2])
def test_a_refinement_that_learns_something_else_is_an_error(monkeypatch, regions):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import refinement

    generator = torch.Generator().manual_seed(0)
    features, head = torch.randn(1, 8, 12, 12, generator=generator), torch.randn(6, 8, generator=generator)
    settings = RefineSettings(steps=4, stride=2, stop_labels=0, regions=regions)
    assert refinement.measure(features, head, settings, batch=2, repeats=1)["steps"] == 4
    other = replace(settings, lr=0.02)
    monkeypatch.setattr(
        refinement, "by_reference", lambda *each, known=refinement.by_reference: known(*each[:2], other)
    )
    with pytest.raises(SystemExit, match="from the reference"):
        refinement.measure(features, head, settings, batch=2, repeats=1)
