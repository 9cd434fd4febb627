from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

from msformer_deploy.service.admission import Admission
from msformer_deploy.service.refused import Refused


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(steps, 20))


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_places_are_given_in_order_and_more_than_the_queue_is_refused() -> None:
    async def steps() -> None:
        admission, order = Admission(1, 2, lambda: None), list[int]()
        since = await admission.enter(1)

        async def enter(number: int) -> None:
            mine = await admission.enter(10)
            order.append(number)
            admission.leave(mine)

        waiting = [asyncio.create_task(enter(number)) for number in range(2)]
        await turn()
        assert (admission.in_work, admission.waiting) == (1, 2)
        with pytest.raises(Refused) as refused:
            await admission.enter(10)
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
        admission.leave(since)
        await asyncio.gather(*waiting)
        assert (order, admission.in_work, admission.waiting) == ([0, 1], 0, 0)

    run(steps())


def test_retry_after_is_the_time_of_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps() -> None:
        now = 0.0
        monkeypatch.setattr("msformer_deploy.service.admission.time.perf_counter", lambda: now)
        admission = Admission(1, 1, lambda: None)
        for _ in range(100):  # requests of 7 seconds
            since = await admission.enter(1)
            now += 7
            admission.leave(since)
        await admission.enter(1)
        waiting = asyncio.create_task(admission.enter(10))
        await turn()
        with pytest.raises(Refused) as refused:
            await admission.enter(10)
        assert refused.value.headers["Retry-After"] == "7"
        waiting.cancel()

    run(steps())


def test_who_waits_too_long_or_leaves_holds_no_place() -> None:
    async def steps() -> None:
        admission = Admission(1, 4, lambda: None)
        since = await admission.enter(1)
        with pytest.raises(Refused) as refused:
            await admission.enter(0.01)
        assert refused.value.status == 504
        left = asyncio.create_task(admission.enter(10))
        await turn()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert admission.waiting == 0
        given = asyncio.create_task(admission.enter(10))
        await turn()
        admission.leave(since)  # to a client that leaves at that moment
        given.cancel()
        await asyncio.gather(given, return_exceptions=True)
        assert admission.in_work == 0

    run(steps())


def test_the_end_waits_for_what_is_in_work_and_refuses_the_rest() -> None:
    async def steps() -> None:
        ended: list[bool] = []
        admission = Admission(1, 4, lambda: ended.append(True))
        since = await admission.enter(1)
        waiting = asyncio.create_task(admission.enter(10))
        await turn()
        admission.end()
        with pytest.raises(Refused) as refused:
            await waiting
        assert refused.value.status == 503
        with pytest.raises(Refused):
            await admission.enter(1)
        assert not ended
        admission.leave(since)
        assert ended == [True]

    run(steps())


def test_an_idle_service_ends_at_once() -> None:
    ended: list[bool] = []
    Admission(1, 1, lambda: ended.append(True)).end()
    assert ended == [True]
