"""Fixtures for tests of the command line: called in this process, and judged like a shell would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from msformer_deploy import cli
from msformer_deploy.bundle.folder import Bundle


@dataclass(frozen=True)
class Outcome:
    """What a call left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def error(self, code: int, *parts: object) -> str:
        """Return the message of a failure, after checking that it is one clear line that holds ``parts``."""
        assert self.code == code, self.err
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        assert "internal error" not in line
        assert [str(part) for part in parts if str(part) not in line] == [], line
        return line


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the command line in this process."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = cli.call([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return call


@pytest.fixture
def segment(invoke: Callable[..., Outcome], tiny_bundle: Bundle, tmp_path: Path) -> Callable[..., Outcome]:
    """Call ``run`` with the small bundle; results go to ``tmp_path / "out"`` unless --output is among the arguments."""

    def call(*arguments: object) -> Outcome:
        output = () if "--output" in arguments else ("--output", tmp_path / "out")
        return invoke("run", "--bundle", tiny_bundle.path, *output, *arguments)

    return call
