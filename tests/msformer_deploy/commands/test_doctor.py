from __future__ import annotations

import json
from typing import Any

from msformer_deploy import diagnosis


def test_text_says_what_works_and_what_to_install(invoke: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(diagnosis, "installed_versions", lambda: {"torch": "2.0"})
    outcome = invoke("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["torch", "works", "2.0"] in lines
    assert ["onnxruntime", "no", "not", "installed"] in lines
    assert "install msformer-deploy[cpu] or msformer-deploy[gpu]" in outcome.out


def test_json(invoke: Any) -> None:
    outcome = invoke("doctor", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert found.keys() == {"machine", "versions", "checks"}
    checks = {check["name"]: check for check in found["checks"]}
    assert {"torch", "onnxruntime", "tensorrt", "tensorrt-rtx", "cuda kernels"} <= checks.keys()
    assert all(check.keys() == {"name", "works", "detail", "advice"} for check in found["checks"])
    assert all(bool(check["advice"]) != check["works"] for check in found["checks"])
