"""Numpy's matrix library, held to one thread and let go again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from msformer_deploy.foreground.blas import on_one_thread

MANY = 2


def threads() -> set[int]:
    """Of every matrix library that is loaded."""
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    with threadpool_limits(MANY, user_api="blas"):
        if threads() != {MANY}:
            pytest.skip(f"numpy's matrix library does not take {MANY} threads")
        yield


def test_products_are_made_on_one_thread() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    with on_one_thread():
        assert threads() == {1}
    assert threads() == {MANY}


def test_the_threads_are_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="matmul"), on_one_thread():
        np.ones((2, 3)) @ np.ones((2, 3))
    assert threads() == {MANY}


def test_callers_in_several_threads_take_turns() -> None:
    """Each would give back what it found, and the last one the single thread of another."""
    entered, leave = threading.Event(), threading.Event()
    seen = []

    def first() -> None:
        with on_one_thread():
            entered.set()
            assert leave.wait(20)

    def second() -> None:
        assert entered.wait(20)
        with on_one_thread():
            seen.append(leave.is_set())

    callers = [threading.Thread(target=each) for each in (first, second)]
    for each in callers:
        each.start()
    assert entered.wait(20)
    callers[1].join(0.05)
    leave.set()
    for each in callers:
        each.join(20)
    assert seen == [True]
    assert threads() == {MANY}
