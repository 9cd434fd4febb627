"""Who may send."""

from __future__ import annotations

import pytest

from msformer_deploy.dicom_node.callers import Caller, parse_caller, parse_title
from msformer_deploy.errors import UsageError


@pytest.mark.parametrize(
    ("caller", "title", "address", "matches"),
    [
        ("CT1@192.168.1.20", "CT1", "192.168.1.20", True),
        ("CT1@192.168.1.20", "CT1 ", "192.168.1.20", True),
        ("CT1@192.168.1.20", "CT2", "192.168.1.20", False),
        ("CT1@192.168.1.20", "ct1", "192.168.1.20", False),
        ("CT1@192.168.1.20", "CT1", "192.168.1.21", False),
        ("CT1@192.168.1.0/24", "CT1", "192.168.1.21", True),
        ("CT1@192.168.1.7/24", "CT1", "192.168.2.21", False),
        ("CT1@*", "CT1", "10.1.2.3", True),
        ("CT1@*", "CT2", "10.1.2.3", False),
        ("*@10.0.0.0/8", "anybody", "10.1.2.3", True),
        ("*@10.0.0.0/8", "anybody", "11.1.2.3", False),
        ("*@10.0.0.0/8", "anybody", "::ffff:10.1.2.3", True),
        ("*@10.0.0.0/8", "anybody", "fe80::1%eth0", False),
        ("*@fe80::/16", "anybody", "fe80::1%eth0", True),
        ("*@*", "", "11.1.2.3", True),
    ],
)
def test_a_caller_is_known_by_title_and_address(caller: str, title: str, address: str, matches: bool) -> None:
    assert parse_caller(caller).matches(title, address) is matches


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("CT1", "not of the form AE@ADDRESS"),
        ("CT1@", "not of the form AE@ADDRESS"),
        ("CT1@pacs.example", "is not an IP address"),
        ("CT1@10.0.0.0/99", "is not an IP address"),
        ("@10.1.2.3", "is not an AE title"),
        (f"{'A' * 17}@10.1.2.3", "is not an AE title"),
        ("A\\B@*", "is not an AE title"),
    ],
)
def test_what_is_no_caller(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=r"^--allow") as raised:
        parse_caller(text)
    assert part in str(raised.value)


@pytest.mark.parametrize("text", ["", " ", "Ä", "A\nB"])
def test_what_is_no_title(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--aet: .* is not an AE title; give 1 to 16 ASCII characters"):
        parse_title(text, "--aet")


def test_everybody() -> None:
    assert parse_caller("*@*") == Caller("*", None)
    assert [parse_caller(each).everybody for each in ("*@*", "A@*", "*@10.0.0.0/8")] == [True, False, False]
