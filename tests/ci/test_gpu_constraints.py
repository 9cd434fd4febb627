"""What ``make gpu-check`` pins: nothing that its environment sees already, such as the system's torch."""

from __future__ import annotations

import runpy
from typing import Any

from locations import ROOT

script = runpy.run_path(str(ROOT / ".ci" / "gpu_constraints.py"))


def test_what_is_there_is_not_pinned() -> None:
    lines = ["# a comment", "numpy==0.0.1", "no-such-package==1.2", "no-such-package==1; python_version < '3.11'"]
    found = dict(script["kept"](lines))
    assert found.pop("numpy==0.0.1") is not None
    assert set(found.values()) == {None}


def test_the_versions_that_are_kept_are_named(capsys: Any) -> None:
    script["main"]()
    printed = capsys.readouterr()
    assert "# " in printed.out
    assert "numpy==" not in printed.out
    assert all(line.startswith("kept: ") for line in printed.err.splitlines())
