"""The comparison with the published arrangement, on a small network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import scripts
import torch
from PIL import Image

from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.refinement.full import refine_full
from msformer_deploy.registry import RefineSettings
from msformer_deploy.weights.network import new_network

SCRIPT = scripts.STUDIES / "full_refinement.py"


def compare(picture, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    Image.fromarray(picture).save(folder / "image.png")
    command = [sys.executable, SCRIPT, folder / "image.png", "--side", 33, "--width", 6, "--steps", 2, *arguments]
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_both_sides_make_the_same_numbers(picture, tmp_path):
    done = compare(picture, tmp_path, "--json", tmp_path / "out.json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "the same losses to 0.0001 and label counts, 3 steps" in done.stdout
    facts = json.loads((tmp_path / "out.json").read_text())
    for side in ("published", "ours"):
        assert facts["peak_memory_mb"][side] > 0
        assert all(len(seconds) == 3 for seconds in facts["seconds"][side].values())
    assert facts["ratio"]["cpu"] > 0
    for theirs, ours in zip(facts["losses"]["published"], facts["losses"]["ours"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_other_numbers_are_an_error(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import full_refinement

    same = {"published": [(1.0, 0.5, 0.1, 6)], "ours": [(1.00005, 0.5, 0.1, 6)]}
    assert full_refinement.differences(same) == []
    for ours in ((1.0002, 0.5, 0.1, 6), (1.0, 0.5, 0.1, 5)):
        assert full_refinement.differences(same | {"ours": [ours]}) == [
            f"step 0: published (1.0, 0.5, 0.1, 6), ours {ours}"
        ]


def test_the_published_loop_ends_where_ours_does(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import published

    # One that loses a label early, as a step of the published loop takes a second.
    sizes, image = ModelSizes(33, 6, 6, 2), torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(6))
    settings = RefineSettings(mode="full", steps=30, lr=0.3, stop_labels=5)
    network = published.PublishedMSFormer(33, 6, 6, 2)
    network.load_state_dict(new_network(sizes, 0).state_dict())
    labels, steps = published.refine_as_published(network, image, settings)
    ours = refine_full(new_network(sizes, 0), image, settings)
    assert steps == len(ours.trace) < 30
    assert torch.equal(labels, ours.labels.long())


def test_what_a_gpu_would_measure(monkeypatch, capsys):
    """Eagerly, in fp32 and on the CPU, whose sides are equal."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import full_refinement

    monkeypatch.setattr(full_refinement, "VARIANTS", (("fp32", False), ("fp32", True)))
    monkeypatch.setenv("CXX", "no-such-compiler")
    image = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    facts = full_refinement.report_on_gpu(image, ModelSizes(33, 6, 6, 2), 4)
    assert list(facts) == ["published", "ours fp32"]
    for told in facts.values():
        assert len(told["seconds"]) == len(told["losses"]) == full_refinement.WARM_UP + 4
        assert told["label_agreement"] > 0.99
    assert facts["published"]["ratio"] == 1
    printed = capsys.readouterr().out
    assert "ours fp32 compiled: --compile needs a C++ compiler, and no-such-compiler is not found" in printed
