"""CITATION.cff says of this software what pyproject.toml says; ``make schemas`` checks its form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("cited", "packaged"),
    [("title", "name"), ("version", "version"), ("license", "license"), ("abstract", "description")],
)
def test_the_same_is_said_in_both(cited: str, packaged: str) -> None:
    in_citation = re.search(rf"^{cited}: (?:>-\s+)?(.+)$", CITATION, re.MULTILINE)
    in_project = re.search(rf'^{packaged} = "(.+)"$', PROJECT, re.MULTILINE)
    assert in_citation is not None
    assert in_project is not None
    assert in_citation[1] == in_project[1]
