from __future__ import annotations

import json
from typing import Any

from msformer_deploy.registry import SYSTEMS


def test_text_says_of_every_system_what_it_is_and_can(invoke: Any) -> None:
    outcome = invoke("list")
    assert (outcome.code, outcome.err) == (0, "")
    for system in SYSTEMS.values():
        assert f"{system.name:<10} {system.regime}; input {system.side} x {system.side}" in outcome.out
        assert f"{system.paper} ({system.code}, {system.licence})" in outcome.out
        assert f"commands {', '.join(system.commands)}\n" in outcome.out
        assert all(f"preset {name}: " in outcome.out for name in system.presets)


def test_json_holds_everything(invoke: Any) -> None:
    outcome = invoke("list", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    systems = {system["name"]: system for system in json.loads(outcome.out)}
    assert systems == json.loads(json.dumps({name: system.as_dict() for name, system in SYSTEMS.items()}))
    assert [name for name, system in systems.items() if not system["trained"]] == ["msformer", "s3net"]
    settings = systems["msformer"]["presets"]["balanced"]["refinement"]
    assert settings["mode"] == "head"
    assert {"steps", "lr", "momentum", "stop_labels", "stride"} <= settings.keys()
