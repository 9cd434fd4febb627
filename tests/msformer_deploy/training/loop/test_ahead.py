"""What is made ahead comes in order, not too far ahead, and fails in its turn."""

from __future__ import annotations

import threading
import time

import pytest

from msformer_deploy.training.loop.ahead import _AHEAD, ahead


def test_all_come_in_order():
    def make(index: int) -> int:
        time.sleep(0.01 * (3 - index % 4))
        return index

    assert list(ahead(make, 9)) == list(range(9))
    assert list(ahead(make, 2)) == [0, 1]
    assert list(ahead(make, 0)) == []


def test_no_more_than_a_few_wait():
    made = []
    taken = ahead(lambda index: made.append(index), 50)
    next(taken)
    time.sleep(0.05)
    assert len(made) <= _AHEAD + 1
    taken.close()
    assert len(made) <= _AHEAD + 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batch")]


def test_a_failure_comes_in_its_turn():
    def make(index: int) -> int:
        if index == 2:
            raise ValueError("third")
        return index

    taken = ahead(make, 9)
    assert [next(taken), next(taken)] == [0, 1]
    with pytest.raises(ValueError, match="third"):
        next(taken)
