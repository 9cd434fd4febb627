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
    assert (outcome.code, outcome.err) == (0, "")
    systems = {system["name"]: system for system in json.loads(outcome.out)}
    assert systems == {name: system.as_dict() for name, system in SYSTEMS.items()}
    assert [name for name, system in systems.items() if system["state"] == "ready"] == list(READY)
    settings = systems["msformer"]["presets"]["balanced"]["refinement"]
    assert settings["mode"] == "head"
    assert {"steps", "lr", "momentum", "stop_labels", "stride"} <= settings.keys()
