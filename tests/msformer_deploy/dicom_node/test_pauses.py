"""Pauses between tries."""

from __future__ import annotations

import pytest

from msformer_deploy.dicom_node import pauses


def test_they_grow_up_to_five_minutes_and_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(pauses.time, "monotonic", lambda: now)
    found = pauses.Pauses()
    assert found.over
    assert [found.failed() for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    now += 299
    assert not found.over
    now += 1
    assert found.over
    found.failed()
    found.succeeded()
    assert found.over
    assert found.failed() == 1
