"""Fixtures for tests of the command line: called in this process, and judged like a shell would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msformer_deploy import cli
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.images import draw


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


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def good(picture: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "good.png"
    Image.fromarray(picture).save(path)
    return path


@pytest.fixture
def seven(picture: np.ndarray, tmp_path: Path) -> Path:
    """A folder of images a.png to g.png."""
    folder = tmp_path / "seven"
    folder.mkdir()
    for index, name in enumerate("abcdefg"):
        Image.fromarray(np.roll(picture, 3 * index, axis=1)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def writers(request: pytest.FixtureRequest, monkeypatch: Any) -> int:
    """Threads that write: one on every machine, so that what is written first is known; or as parametrised."""
    count: int = getattr(request, "param", 1)
    monkeypatch.setattr("msformer_deploy.commands.here.writing_threads", lambda: count)
    return count


@pytest.fixture
def fail_at_b(monkeypatch: Any) -> Callable[[Exception], None]:
    """Have the mask of b.png fail to be written."""
    real = draw.write_mask

    def arrange(error: Exception) -> None:
        def write(path: Path, mask: np.ndarray) -> None:
            if path.name.startswith("b.png"):
                raise error
            real(path, mask)

        monkeypatch.setattr(draw, "write_mask", write)

    return arrange
