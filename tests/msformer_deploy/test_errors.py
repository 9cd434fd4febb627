"""Names in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from msformer_deploy.errors import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name 'quoted\".png", "plain name 'quoted\".png"),
        ("Röntgen 胸部.png", "Röntgen 胸部.png"),
        ("two\nlines\r.png", r"two\nlines\r.png"),
        ("red\x1b[31m.png", r"red\x1b[31m.png"),
        ("not\udcffutf8.png", r"not\udcffutf8.png"),
        ("reversed\u202egnp.exe", r"reversed\u202egnp.exe"),
        ("para\u2029graph.png", r"para\u2029graph.png"),
    ],
)
def test_printable_is_one_safe_line(name: str, shown: str) -> None:
    assert printable(Path(name)) == shown
    assert len(printable(name).encode().splitlines()) == 1
