from __future__ import annotations

import json
from typing import Any

import pytest

from msformer_deploy.doctor import diagnosis
from msformer_deploy.doctor.probes import Outcome

LONG = "a library of many words is not found where anybody would look for it, " * 4


@pytest.fixture(autouse=True)
def outcomes(monkeypatch: Any) -> None:
    """The driver fails at length, everything else works."""
    monkeypatch.setattr(diagnosis, "find_jetson", lambda: None)
    monkeypatch.setattr(
        diagnosis,
        "probe",
        lambda name: Outcome(False, LONG, LONG) if name == "nvidia_driver" else Outcome(True, "ran", ""),
    )
    monkeypatch.setattr(diagnosis, "installed_versions", lambda: {"torch": "2.0"})
    monkeypatch.setattr(diagnosis, "is_installed", lambda _: False)


def test_text_says_what_works_and_what_to_install(invoke: Any) -> None:
    outcome = invoke("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert "works  silence: ran" in lines
    assert "works  torch: ran" in lines
    assert "no     onnxruntime: not installed" in lines
    assert "       -> install msformer-deploy[cpu] or msformer-deploy[gpu]" in lines


def test_text_stays_within_100_columns(invoke: Any) -> None:
    lines = invoke("doctor").out.splitlines()[1:]
    assert max(map(len, lines)) <= 100
    assert " ".join(" ".join(lines).split()).count(" ".join(LONG.split())) == 2


def test_json(invoke: Any) -> None:
    outcome = invoke("doctor", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert found.keys() == {"machine", "versions", "checks"}
    checks = {check["name"]: check for check in found["checks"]}
    expected = "silence, nvidia driver, torch, torch cuda, onnxruntime, openvino, tensorrt, tensorrt-rtx, cuda kernels"
    assert ", ".join(checks) == expected
    assert all(check.keys() == {"name", "works", "detail", "advice"} for check in found["checks"])
    assert all(bool(check["advice"]) != check["works"] for check in found["checks"])
