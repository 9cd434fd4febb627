"""A module in another process: the same as ``python -m``, but for what lies in the current folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from msformer_deploy.machine.interpreter import command_of


@pytest.fixture
def module(tmp_path: Path) -> dict[str, str]:
    """A package whose module prints its arguments, outside the current folder; an environment that finds it."""
    package = tmp_path / "there" / "asked_for"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "worker.py").write_text("import sys, json\nprint(__name__, __package__, sys.argv[1:])\n")
    return os.environ | {"PYTHONPATH": str(package.parent)}


@pytest.mark.parametrize("safe", [{}, {"PYTHONSAFEPATH": "1"}], ids=["usual", "safe path"])
def test_it_runs_as_the_main_module_with_its_arguments(
    module: dict[str, str], tmp_path: Path, safe: dict[str, str]
) -> None:
    command = [*command_of("asked_for.worker"), "one", "two words"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=module | safe)
    assert printed.stdout == "__main__ asked_for ['one', 'two words']\n"


@pytest.mark.parametrize("name", ["json", "runpy", "asked_for"])
def test_a_file_in_the_current_folder_is_not_imported(module: dict[str, str], tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file')\n")
    command = command_of("asked_for.worker")
    printed = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=module)
    assert (printed.returncode, printed.stderr) == (0, "")
