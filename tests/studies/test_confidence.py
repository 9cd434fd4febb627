"""The table of confidence against DSC."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
import scripts


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("confidence")


def test_a_row_has_the_rank_correlation_and_both_means(script: ModuleType) -> None:
    judged = [script.Judged(dsc, value, value < 0.5) for dsc, value in ((0.2, 0.1), (0.4, 0.3), (0.9, 0.8), (0.7, 0.9))]
    assert script.line("x", judged) == "| x | 4 | +0.80 | 2 | 0.300 | 0.800 |"


def test_a_row_without_doubt_or_spread_is_no_error(script: ModuleType) -> None:
    row = script.line("x", [script.Judged(0.5, 1.0, False)] * 3)
    assert re.fullmatch(r"\| x \| 3 \| \+?nan \| 0 \| - \| 0\.500 \|", row)
