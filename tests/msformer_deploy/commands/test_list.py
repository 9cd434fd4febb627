from __future__ import annotations

import json
from typing import Any

from msformer_deploy.registry import READY, SYSTEMS


def test_text_names_every_system_its_state_and_presets(invoke: Any) -> None:
    outcome = invoke("list")
    assert (outcome.code, outcome.err) == (0, "")
    for system in SYSTEMS.values():
        assert f"{system.name:<10} {system.state}" in outcome.out
        assert system.paper in outcome.out
        assert all(f"preset {name}: " in outcome.out for name in system.presets)


def test_json_holds_everything(invoke: Any) -> None:
    outcome = invoke("list", "--json")
    systems = {system["name"]: system for system in json.loads(outcome.out)}
    assert systems.keys() == SYSTEMS.keys()
    assert [name for name, system in systems.items() if system["state"] == "ready"] == list(READY)
    assert systems["msformer"]["presets"]["fast"] == {
        "mode": "head",
        "steps": 15,
        "lr": 0.5,
        "momentum": 0.9,
        "stop_labels": 3,
        "stride": 8,
        "inter_weight": 1.5,
        "intra_weight": 1.3,
    }
