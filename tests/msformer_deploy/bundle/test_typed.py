"""Data of JSON files as dataclasses: their types hold, and a message says where they do not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

import pytest

from msformer_deploy.bundle.typed import closed, typed
from msformer_deploy.errors import UsageError


class Part(TypedDict):
    name: str


@dataclass(frozen=True)
class Whole:
    count: int
    share: float = 0.5
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    text: str | None = None
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("a count below 0")
        if self.share > 1:
            raise UsageError("a share above 1")


def test_values_are_taken_as_declared() -> None:
    found = typed({"count": 1, "share": 1, "pair": [3, 4], "parts": [{"name": "x"}], "text": None, "more": []}, Whole)
    assert found == Whole(1, 1.0, pair=(3, 4), parts=({"name": "x"},))
    assert (type(found.share), type(found.pair)) == (float, tuple)


def test_json_has_no_other_type_for_what_is_not_a_number() -> None:
    """Ranges are the dataclass's own to check."""
    assert math.isnan(typed({"count": 1, "share": math.nan}, Whole).share)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"^part: Expected `object`, got `array`$"),
        (None, r"^part: Expected `object`, got `null`$"),
        ({}, r"^part: Object missing required field `count`$"),
        ({"count": 1.0}, r"^part.count: Expected `int`, got `float`$"),
        ({"count": True}, r"^part.count: Expected `int`, got `bool`$"),
        ({"count": "1"}, r"^part.count: Expected `int`, got `str`$"),
        ({"count": 1, "share": True}, r"^part.share: Expected `float`, got `bool`$"),
        ({"count": 1, "kind": "c"}, r"^part.kind: Invalid enum value 'c'$"),
        ({"count": 1, "pair": [1]}, r"^part.pair: Expected `array` of length 2, got 1$"),
        ({"count": 1, "text": 3}, r"^part.text: Expected `str \| null`, got `int`$"),
        ({"count": 1, "parts": [{"name": "x"}, {}]}, r"^part.parts\[1\]: Object missing required field `name`$"),
        ({"count": -1}, r"^part: a count below 0$"),
    ],
    ids=str,
)
@pytest.mark.parametrize("read", [typed, closed])
def test_what_is_wrong_and_where(read, data, message) -> None:
    with pytest.raises(ValueError, match=message):
        read(data, Whole, "part")


def test_a_dataclass_may_refuse_in_its_own_words() -> None:
    with pytest.raises(UsageError, match="a share above 1"):
        typed({"count": 1, "share": 2}, Whole)


def test_without_a_name_the_place_is_the_key() -> None:
    with pytest.raises(ValueError, match=r"^count: Expected"):
        typed({"count": "1"}, Whole)
    with pytest.raises(ValueError, match=r"^Expected `object`, got `array`$"):
        typed([], Whole)


def test_closed_data_have_no_further_keys() -> None:
    assert closed({"count": 1}, Whole) == Whole(1)
    with pytest.raises(ValueError, match=r"^part.less: unknown$"):
        closed({"count": 1, "more": 1, "less": 2}, Whole, "part")
    with pytest.raises(ValueError, match=r"^more: unknown$"):
        closed({"count": 1, "more": 1}, Whole)
