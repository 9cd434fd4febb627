from __future__ import annotations

import threading
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

from msformer_deploy.service.batches import Batches

SECONDS = 20


class Segmenter:
    """Learns when it is let, and notes its batches."""

    def __init__(self) -> None:
        self.go, self.calls = threading.Event(), list[list[Any]]()

    def learn(self, prepared: list[Any]) -> list[Any]:
        assert self.go.wait(SECONDS)
        self.calls.append(prepared)
        if "too large" in prepared:
            raise MemoryError
        return [f"learned {each}" for each in prepared]


def started(segmenter: Segmenter, batch: int, delay: float) -> tuple[Batches, list[int]]:
    formed: list[int] = []
    batches = Batches(lambda: segmenter, batch, delay, formed.append)  # type: ignore[arg-type,return-value]
    batches.start()
    return batches, formed


def test_what_waits_is_learned_together_up_to_the_maximum() -> None:
    segmenter = Segmenter()
    batches, formed = started(segmenter, 3, 0)
    first = batches.submit("0")  # type: ignore[arg-type]
    while not first.running():
        pass
    others = [batches.submit(str(number)) for number in range(1, 6)]  # type: ignore[arg-type]
    segmenter.go.set()
    assert [each.result(SECONDS).learned for each in (first, *others)] == [f"learned {n}" for n in range(6)]
    batches.close()
    assert segmenter.calls == [["0"], ["1", "2", "3"], ["4", "5"]]
    assert formed == [1, 3, 2]


def test_the_first_waits_for_others() -> None:
    segmenter = Segmenter()
    segmenter.go.set()
    batches, formed = started(segmenter, 2, SECONDS)
    found = [batches.submit(str(number)) for number in range(2)]  # type: ignore[arg-type]
    assert found[0].result(SECONDS / 2).waited < SECONDS / 2
    batches.close()
    assert formed == [2]


def test_one_that_fails_does_not_fail_the_others() -> None:
    segmenter = Segmenter()
    batches, _ = started(segmenter, 4, SECONDS)
    found = [batches.submit(each) for each in ("a", "too large", "b", "c")]  # type: ignore[arg-type]
    segmenter.go.set()
    assert [found[index].result(SECONDS).learned for index in (0, 2, 3)] == ["learned a", "learned b", "learned c"]
    assert isinstance(found[1].exception(SECONDS), MemoryError)
    batches.close()


def test_who_has_left_is_left_out() -> None:
    segmenter = Segmenter()
    batches, formed = started(segmenter, 1, 0)
    first = batches.submit("0")  # type: ignore[arg-type]
    while not first.running():
        pass
    left = batches.submit("1")  # type: ignore[arg-type]
    assert left.cancel()
    segmenter.go.set()
    batches.close()
    assert (segmenter.calls, formed) == ([["0"]], [1])


def test_a_segmenter_that_cannot_be_opened() -> None:
    def fail() -> Any:
        raise ValueError("no")

    batches = Batches(fail, 1, 0, lambda _: None)
    batches.start()
    assert isinstance(batches.opened.exception(SECONDS), ValueError)
    batches.close()
