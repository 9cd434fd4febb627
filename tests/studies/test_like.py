"""The study of corrected images: a run on two small data sets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scripts
from PIL import Image

from msformer_deploy.bundle.folder import Bundle


def test_a_run(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = scripts.load("like")
    rng = np.random.default_rng(0)
    for seed in range(3):
        picture = rng.integers(0, 99, (40, 50), np.uint8)
        truth = np.zeros((40, 50), bool)
        truth[10:30, 15 + seed : 30 + seed] = True
        for name, pixels in (("images", picture + 100 * truth), ("masks", 255 * truth)):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "set" / name / f"{seed}.png")
    facts = tmp_path / "facts.json"
    given = ["--data", tmp_path / "set", "--bundle", tiny_bundle.path, "--json", facts, "--corrected", 1, 10]
    monkeypatch.setattr(sys, "argv", ["like.py", *map(str, given)])
    assert script.main() == 0
    (found,) = json.loads(facts.read_text())["data"]
    assert (found["images"], found["by_count"]["10"]["corrected"]) == (3, 2)
    assert "| set | 3 |" in capsys.readouterr().out
