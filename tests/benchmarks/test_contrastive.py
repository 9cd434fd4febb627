"""The timing of the contrastive loss, on a small group."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import scripts

SCRIPT = scripts.BENCHMARKS / "contrastive.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--threads", 1, "--repeats", 2, *arguments]
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)


def test_time_and_memory_of_both_are_told(tmp_path):
    done = run("--pixels", 512, "--channels", 16, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out.json").read_text())
    assert set(facts["ms"]) == set(facts["min_ms"]) == set(facts["peak_memory_mb"]) == {"published", "ours"}
    assert facts["ratio_range"][0] <= facts["ratio"] <= facts["ratio_range"][1]
    assert facts["ratio_range"][0] > 0
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")][2:] == [
        "published",
        "ours",
        "ratio",
    ]


@pytest.mark.parametrize("pixels", [8, 100, 520])
def test_a_group_has_square_blocks(pixels):
    done = run("--pixels", pixels)
    assert done.returncode == 2
    assert "give 8 times a square" in done.stderr


def test_other_numbers_are_an_error():
    script: Any = scripts.load("contrastive")
    features, labels = script.group(128, 8)
    theirs, ours = (script.run(side, features, labels) for side in ("published", "ours"))
    script.check(theirs, ours)
    with pytest.raises(SystemExit, match="losses differ by"):
        script.check(theirs, script.run("ours", features, labels.roll(1, 2)))
    with pytest.raises(SystemExit, match="gradients by"):
        script.check(theirs, (ours[0], ours[1], 1.01 * ours[2]))
