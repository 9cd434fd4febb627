from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
from starlette.requests import Request

from msformer_deploy.errors import UsageError
from msformer_deploy.service.keys import check_key, read_key
from msformer_deploy.service.refused import Refused

KEY = "0123456789abcdef"


def test_a_key_of_a_file_or_of_a_variable(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert read_key(tmp_path / "key", None) == read_key(None, KEY) == KEY
    assert read_key(None, None) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "at least 16"), (b"short", "at least 16"), (b"0123456789 abcdef", "without spaces"), (b"\xff\xfe", "text")],
)
def test_a_key_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_key(tmp_path / "key", None)


def test_two_keys(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="drop one"):
        read_key(tmp_path / "key", KEY)


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        (f"Bearer {KEY}", True),
        (f"bearer {KEY}", True),
        (f"Bearer {KEY}0", False),
        (f"Bearer {KEY[:-1]}", False),
        ("Bearer ", False),
        (f"Basic  {KEY}", False),
        (KEY, False),
        ("Bearer \xe9", False),
        (None, False),
    ],
)
def test_the_key_of_a_request(value: str | None, passes: bool) -> None:
    headers = [] if value is None else [(b"authorization", value.encode("latin-1"))]
    request = Request({"type": "http", "headers": headers})
    if passes:
        check_key(request, KEY)
        return
    with pytest.raises(Refused) as refused:
        check_key(request, KEY)
    assert (refused.value.status, refused.value.headers) == (401, {"WWW-Authenticate": "Bearer"})
