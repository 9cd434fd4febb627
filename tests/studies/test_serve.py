"""The study of the service under load: that its client counts right, and one small run of each kind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import scripts

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

from msformer_deploy.bundle.folder import Bundle


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("serve")


def run(script: ModuleType, monkeypatch: Any, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["serve.py", *map(str, arguments)])
    return int(script.main())


def test_percentiles_are_of_those_that_got_a_mask(script: ModuleType) -> None:
    found = [script.Answered(200, number / 1000) for number in range(101)] + [script.Answered(429, 9)] * 50
    assert script.percentiles(found) == pytest.approx([50, 95, 99])
    assert script.percentiles([script.Answered(429, 1)]) != script.percentiles(found)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_and_load_of_a_small_service(
    script: ModuleType, tiny_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    given = (images, "--bundle", tiny_bundle.path, "--json", tmp_path / "facts.json")
    monkeypatch.setattr(script, "OPENED", 10)
    assert run(script, monkeypatch, "soak", *given, "--requests", 30, "--every", 10) == 0
    facts = json.loads((tmp_path / "facts.json").read_text(encoding="utf-8"))
    assert facts["statuses"] == {"200": 30}
    assert [point["requests"] for point in facts["points"]] == [10, 20, 30]
    assert "growth after 10 requests" in capsys.readouterr().out
    monkeypatch.setattr(script, "PARTS", (0.5, 20.0))
    assert run(script, monkeypatch, "load", *given, "--seconds", 1, "--warm-up", 12) == 0
    facts = json.loads((tmp_path / "facts.json").read_text(encoding="utf-8"))
    calm, beyond = facts["rows"]
    assert calm["statuses"].keys() == {"200"}
    assert beyond["statuses"]["429"] > 0
    assert beyond["requests"] == sum(beyond["statuses"].values())
