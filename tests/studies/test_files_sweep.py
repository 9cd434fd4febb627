"""The sweep over image files finds what it is for."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts
from pictures import GREY, RGB, deep, png


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, whose second decoder gives what a test sets."""
    script = scripts.load("files_sweep")
    monkeypatch.setattr(script, "second", lambda path: (None, "") if "none" in path.name else (RGB, "another"))
    return script


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.png", png(RGB), "same"),
        ("b.png", png(RGB[:, ::-1].copy()), "different"),
        ("c.png", png(RGB[:20]), "different"),
        ("none.png", png(RGB), "read, other refuses"),
        ("d.png", png(RGB)[:300], "refused as damaged, other reads it"),
        ("none2.png", png(RGB)[:300], "refused, other refuses too"),
        ("e.png", b"%PDF-1.7", "refused as not supported"),
        ("f.png", png(np.zeros_like(RGB)), "different"),
    ],
)
def test_verdicts(sweep: ModuleType, tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "stderr").touch()
    assert sweep.judge(tmp_path / name, tmp_path / "stderr").what == what


def test_lines_on_stderr_are_a_fault(sweep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(RGB))
    (tmp_path / "stderr").touch()
    monkeypatch.setattr(sweep, "read_image", lambda _: (tmp_path / "stderr").write_text("libtiff: oh"))
    assert sweep.judge(tmp_path / "a.png", tmp_path / "stderr") == ("lines on stderr", "libtiff: oh")


@pytest.mark.parametrize(
    ("ours", "other", "white_is_zero", "off"),
    [
        (RGB, RGB, False, 0),
        (GREY, np.dstack([GREY] * 3), False, 0),
        (GREY > 9, np.where(GREY > 9, 255, 0).astype(np.uint8), False, 0),
        (deep(RGB, 16), deep(RGB, 16), False, 0),
        (GREY, 255 - GREY, False, float(np.abs(255 - 2.0 * GREY).mean())),
        (GREY.astype(np.float32) * 7 - 90, GREY, False, 0),
        (GREY.astype(np.uint16), (GREY.max() - GREY + GREY.min()).astype(np.uint8), True, 0),
    ],
)
def test_differences(sweep: ModuleType, ours: Any, other: Any, white_is_zero: bool, off: float) -> None:
    assert sweep.difference(ours, other, white_is_zero) == pytest.approx(off, abs=1e-3)


def test_a_process_that_dies_is_a_crash(sweep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        """A process that is over as soon as it starts."""

        def __init__(self, *_: object, **__: object) -> None: ...
        def start(self) -> None: ...
        def kill(self) -> None: ...
        def join(self) -> None: ...

    class Silent:
        """Its pipe: it answers that it is there, then never."""

        def __init__(self, ends: bool) -> None:
            self._answers, self._ends = ["there"], ends

        def send(self, _: object) -> None: ...
        def close(self) -> None: ...

        def poll(self, _: float) -> bool:
            return self._ends

        def recv(self) -> object:
            if not self._answers:
                raise EOFError
            return self._answers.pop()

    for ends, what in ((True, "crash"), (False, "hang")):

        class Context:
            Process = Gone

            @staticmethod
            def Pipe(ends: bool = ends) -> tuple[Silent, Silent]:  # noqa: N802
                return Silent(ends), Silent(ends)

        monkeypatch.setattr(sweep.multiprocessing, "get_context", lambda _, context=Context: context)
        assert [verdict.what for _, verdict in sweep.judged([tmp_path / "a.png"], 1)] == [what]
