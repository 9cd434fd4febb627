"""Parts of a run: together they are all inputs, and no input is in two of them."""

from __future__ import annotations

import random
from itertools import chain
from pathlib import Path

import pytest

from msformer_deploy.cluster.shards import Shard, parse_shard
from msformer_deploy.errors import UsageError
from msformer_deploy.images.inputs import Item

ITEMS = [Item(Path("in", name), Path(name)) for name in ("b.png", "a.png", "sub/c.png", "sub", "a.png", "ä.png", "d")]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_parts_cover_all_inputs_and_share_none(count: int) -> None:
    parts = [Shard(number, count).positions(ITEMS) for number in range(1, count + 1)]
    assert sorted(chain(*parts)) == list(range(len(ITEMS)))
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_the_same_in_any_order_and_any_place() -> None:
    items = [Item(Path("in", name), Path(name)) for name in map(str, range(50))]
    elsewhere = [Item(Path("/mnt/elsewhere", item.relative), item.relative) for item in items]
    random.Random(0).shuffle(elsewhere)
    one, other = ({every[at].relative for at in Shard(2, 3).positions(every)} for every in (items, elsewhere))
    assert one == other


def test_a_series_stays_whole() -> None:
    series = Item(Path("in", "series"), Path("series"), "volume", tuple(Path(str(index)) for index in range(9)))
    parts = [Shard(number, 4).positions([series]) for number in range(1, 5)]
    assert sorted(parts) == [[], [], [], [0]]


def test_other_inputs_have_another_hash() -> None:
    shard = Shard(1, 2)
    one, fewer, renamed = (
        shard.record(items) for items in (ITEMS, ITEMS[1:], [Item(Path("x"), Path("x")), *ITEMS[1:]])
    )
    assert (one["number"], one["count"], one["inputs"]) == (1, 2, 7)
    assert len({one["inputs_sha256"], fewer["inputs_sha256"], renamed["inputs_sha256"]}) == 3
    assert one == shard.record(list(ITEMS))


def test_bytes_that_are_no_text_can_be_in_a_name() -> None:
    assert Shard(1, 1).record([Item(Path("a\udcff"), Path("a\udcff"))])["positions"] == [0]


@pytest.mark.parametrize(("text", "shard"), [("1/1", Shard(1, 1)), ("3/8", Shard(3, 8)), ("08/10", Shard(8, 10))])
def test_what_is_read(text: str, shard: Shard) -> None:
    assert parse_shard(text) == shard


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "1/0", "-1/8", "1/8/2", "a/b", " 1/8", "1/8\n", "1.0/2"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shard .* write I/N"):
        parse_shard(text)
