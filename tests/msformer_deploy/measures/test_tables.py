"""Tables of text."""

from __future__ import annotations

import pytest

from msformer_deploy.measures.tables import aligned, counted, escaped, listed, number, ruled

LINES = [["name", "n"], ["a|b", "10"], ["c", "3"]]


def test_words_stand_left_and_numbers_right():
    assert aligned(LINES, "l") == ["name   n", "a|b   10", "c      3"]
    assert aligned(LINES, "ll") == ["name  n", "a|b   10", "c     3"]
    assert aligned(LINES, "rl") == ["name  n", " a|b  10", "   c  3"]


def test_a_cell_of_several_lines():
    assert aligned([["", "p50"], ["a\nlong", "1.50"]], "l") == ["       p50", "a     1.50", "long"]


def test_digits_stay_as_they_are():
    assert aligned([["1.0", "2e3", "1,000", "-"]], "") == ["1.0  2e3  1,000  -"]


def test_markdown():
    assert ruled(LINES, "l") == "| name   |   n |\n|:-------|----:|\n| a\\|b   |  10 |\n| c      |   3 |"
    assert listed(["a < b", "c"]) == "- a &lt; b\n- c"
    assert listed([]) == ""
    assert escaped("two\nlines \\") == "two lines \\\\"


@pytest.mark.parametrize(("count", "expected"), [(0, "0 volumes"), (1, "1 volume"), (2, "2 volumes")])
def test_a_number_and_its_noun(count, expected):
    assert counted(count, "volume") == expected


@pytest.mark.parametrize(("value", "digits", "expected"), [(0.25, 4, "0.2500"), (2.04, 1, "2.0"), (None, 4, "-")])
def test_numbers(value, digits, expected):
    assert number(value, digits) == expected
