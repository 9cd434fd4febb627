"""The script for a lent GPU, where there is none: every step is started, says what it lacks, and stops no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import scripts
import torch
from locations import ROOT
from PIL import Image

posix = pytest.mark.skipif(os.name != "posix", reason="the script is one of bash")


def load() -> ModuleType:
    return scripts.load("gpu_steps", ROOT / "scripts")


gpu_steps = load()


@posix
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_dry_run_starts_every_step(tiny_bundle, tmp_path):
    parts, output = tmp_path / "parts", tmp_path / "output"
    (parts / "pictures").mkdir(parents=True)
    (parts / "bundle").symlink_to(tiny_bundle.path)
    Image.linear_gradient("L").save(parts / "pictures" / "one.png")
    command = [ROOT / "scripts" / "gpu_hour.sh", "--dry-run", "--parts", parts, "--output", output]
    calls = [word for call in (1, 2) for word in ("--call", str(call))]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([*command, *calls], capture_output=True, text=True, env=environment, check=False)
    steps = {each["name"]: each for each in json.loads((output / "summary.json").read_text())["steps"]}
    assert list(steps) == [step.name for step in gpu_steps.STEPS if step.call in (1, 2)]
    assert steps.pop("doctor")["status"] == "passed"
    for each in steps.values():
        assert each["status"] == "skipped", each
        assert any(word in each["reason"] for word in ("GPU", "CUDA", "cuda")), each
        assert (output / f"{each['name']}.log").stat().st_size > 0
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"{len(steps)} skipped, 1 passed; see {output / 'summary.json'}\n")


@pytest.fixture
def stepped(tmp_path, monkeypatch):
    """Run made-up commands as steps; the results by name."""

    def run(**commands: str) -> dict[str, object]:
        steps = tuple(gpu_steps.Step(name, 1, 5, ("-c", code)) for name, code in commands.items())
        monkeypatch.setattr(gpu_steps, "STEPS", steps)
        return {each.name: each for each in gpu_steps.run(steps, {"out": str(tmp_path)}, tmp_path)}

    return run


def test_no_step_stops_the_next(stepped, tmp_path):
    found = stepped(
        good="print('fine')",
        lacking="import sys; print('error: no CUDA GPU', file=sys.stderr); sys.exit(4)",
        bad="raise SystemExit('error: wrong')",
        dead="import os; os.abort()",
        last="print(1)",
    )
    assert [each.status for each in found.values()] == ["passed", "skipped", "failed", "failed", "passed"]
    assert found["lacking"].reason == "no CUDA GPU"
    assert found["bad"].reason == "wrong (exit code 1)"
    assert (tmp_path / "good.log").read_text() == "fine\n"
    assert [each["name"] for each in json.loads((tmp_path / "summary.json").read_text())["steps"]] == list(found)


def test_a_step_that_takes_too_long_ends_with_all_that_it_started(tmp_path):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    step = gpu_steps.Step("long", 1, 1, ("-c", code))
    start = time.monotonic()
    result = gpu_steps.run_step(step, {}, tmp_path / "long.log")
    assert (result.status, result.reason) == ("no time", "more than 1 s")
    assert time.monotonic() - start < 30


def test_results_of_an_earlier_call_are_kept(stepped, tmp_path, monkeypatch):
    stepped(first="print(1)", second="print(2)")
    steps = gpu_steps.STEPS
    again = (gpu_steps.Step("second", 1, 5, ("-c", "raise SystemExit(3)")),)
    list(gpu_steps.run(again, {"out": str(tmp_path)}, tmp_path))
    kept = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert [(each["name"], each["status"]) for each in kept] == [("first", "passed"), ("second", "failed")]
    assert [step.name for step in steps] == ["first", "second"]


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (0, "SKIPPED [3] a.py:1: no CUDA GPU\n3 skipped in 0.1s", ("skipped", "3 tests: no CUDA GPU")),
        (0, "SKIPPED [1] a.py:1: no TensorRT\n5 passed, 1 skipped in 0.1s", ("passed", "")),
        (1, "FAILED a.py\n1 failed, 3 skipped in 0.1s", ("failed", "1 failed, 3 skipped in 0.1s (exit code 1)")),
        (5, "no tests ran in 0.1s", ("failed", "no tests ran in 0.1s (exit code 5)")),
        (0, "", ("passed", "")),
        (139, "", ("failed", "it said nothing (exit code 139)")),
        (4, "warning: one\nerror: device cuda was asked for", ("skipped", "device cuda was asked for")),
        (None, "half", ("no time", "")),
    ],
)
def test_a_step_is_judged_by_its_code_and_its_words(code, said, expected):
    assert gpu_steps.judge(code, said) == expected


def test_the_calls_of_a_lent_machine_last_ten_minutes():
    for call in (1, 2, 3):
        assert sum(step.seconds for step in gpu_steps.STEPS if step.call == call) <= 600
    assert len({step.name for step in gpu_steps.STEPS}) == len(gpu_steps.STEPS)


def test_every_test_that_needs_a_gpu_is_run():
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu" in path.read_text(encoding="utf-8") and path != Path(__file__)
    }
    assert marked == set(gpu_steps.GPU_TESTS)


def test_the_wheels_are_pinned():
    def names(path: Path) -> set[str]:
        lines = [line.partition("==")[0] for line in path.read_text().splitlines() if line[:1].isalpha()]
        return {line.lower().replace("_", "-") for line in lines}

    builders = {"setuptools", "wheel"}
    assert names(ROOT / "scripts" / "gpu-wheels.txt") - builders <= names(ROOT / "constraints.txt")
