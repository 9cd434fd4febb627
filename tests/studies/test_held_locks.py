"""How long locks are held: that what is printed is what was measured."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import scripts

from msformer_deploy.bundle.folder import Bundle


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("held_locks")


def test_a_lock_remembers_how_long_it_was_held(script: ModuleType) -> None:
    lock = script.TimedLock()
    with lock:
        time.sleep(0.02)
    with lock:
        pass
    long, short = lock.held
    assert long >= 0.02
    assert short < long


def test_lateness_is_seen_where_a_thread_keeps_pythons_lock(script: ModuleType) -> None:
    ended, late = threading.Event(), list[float]()
    canary = threading.Thread(target=lambda: late.extend(script.lateness(ended)))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.05)  # seconds that a thread may keep it while others wait
    try:
        canary.start()
        until = time.perf_counter() + 0.4
        while time.perf_counter() < until:
            pass
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        canary.join()
    assert max(late) > 0.02


def test_a_row_says_the_percentiles_in_milliseconds(script: ModuleType) -> None:
    row = script.said("what", [0.0005] * 98 + [0.002] * 2).split()
    assert row == ["what", "100", "0.500", "2.000", "2.000", "2.00%"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_folder(script: ModuleType, tiny_bundle: Bundle, images: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(
        sys, "argv", ["held_locks.py", str(images), "--bundle", str(tiny_bundle.path), "--processes", "1"]
    )
    assert script.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 images, 1 processes"
    assert [line[:34].strip() for line in lines[2:]] == [
        "shared lock held",
        "sleep too long, main process",
        "sleep too long, another process",
    ]
