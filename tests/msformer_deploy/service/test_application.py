"""What the service does when something fails or takes long: with a segmenter that does as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
from served import Answer, png

from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.service.application import Application
from msformer_deploy.service.batches import Batches
from msformer_deploy.service.engine import Engine
from msformer_deploy.service.limits import Limits
from msformer_deploy.service.metrics import Metrics

SECONDS = 20
IMAGE = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)


class Segmenter:
    """Prepares and learns nothing; ``finish`` does what the test wants."""

    def __init__(self) -> None:
        self.finish: Callable[[Any], Any] = lambda _: None

    def prepare(self, image: Any) -> Any:
        return image

    def learn(self, prepared: list[Any]) -> list[Any]:
        return prepared


class Service:
    """An application that is called without sockets."""

    def __init__(self, folder: Path, limits: Limits, opened: threading.Event | None = None) -> None:
        self.segmenter, self.metrics = Segmenter(), Metrics()

        def open_segmenter() -> Any:
            assert opened is None or opened.wait(SECONDS)
            return self.segmenter

        self.engine = Engine(Batches(open_segmenter, 1, 0, self.metrics.batch), 1, self.metrics)
        self.application = Application(self.engine, "msformer", limits, None, self.metrics, folder, lambda: None)
        self.engine.start()
        if opened is None:
            self.engine.opened.result(SECONDS)

    async def ask(self, method: str, path: str, body: bytes = b"", chunks: int = 1, **headers: str) -> Answer:
        """Send a request; a body of several chunks never ends."""
        answer: dict[str, Any] = {"body": b""}
        left = [{"type": "http.request", "body": body, "more_body": chunks > 1}] * chunks

        async def receive() -> Any:
            if left:
                return left.pop()
            await asyncio.sleep(SECONDS)

        async def send(message: Any) -> None:
            answer.update({key: value for key, value in message.items() if key != "body"})
            answer["body"] += message.get("body", b"")

        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": given, "query_string": b"", "root_path": ""}
        await self.application(scope, receive, send)
        got = {name.decode(): value.decode() for name, value in answer["headers"]}
        return Answer(answer["status"], got, answer["body"])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    found = Service(tmp_path, Limits(body=1000, seconds=0.5, in_flight=1, queue=0))
    yield found
    found.engine.close()


def run(steps: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(steps, SECONDS))


@pytest.mark.parametrize(
    ("error", "status", "kind", "line"),
    [
        (
            ValueError("a value of a patient"),
            500,
            "internal",
            "internal error, ValueError; the server's log says where",
        ),
        (DeployError("a backend's"), 500, "internal", "internal error, DeployError; the server's log says where"),
        (MemoryError(), 503, "out of memory", "there is not enough memory for this request; send a smaller image"),
        (RuntimeError("bad_alloc"), 503, "out of memory", "there is not enough memory"),
        (UsageError("does not fit"), 400, "bad request", "does not fit"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failure_is_one_line_and_the_service_goes_on(
    service: Service, capsys: pytest.CaptureFixture[str], error: Exception, status: int, kind: str, line: str
) -> None:
    def fail(_: Any) -> Any:
        raise error

    service.segmenter.finish = fail
    for _ in range(2):  # the first one has left its place
        got = run(service.ask("POST", "/segment", png(IMAGE)))
        assert got.status == status
        assert got.error().startswith(line)
    assert f'msformer_failures_total{{kind="{kind}"}} 2.0' in service.metrics.text().decode()
    logged = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert [each["failure"] for each in logged] == [kind, kind]
    assert "patient" not in json.dumps(logged)
    if status in (500, 503):
        assert "test_application:" in logged[0]["at"]


def test_a_request_that_takes_too_long_holds_its_place_until_its_thread_has_ended(service: Service) -> None:
    go = threading.Event()
    service.segmenter.finish = lambda _: go.wait(SECONDS)

    async def steps() -> None:
        assert (await service.ask("POST", "/segment", png(IMAGE))).status == 504
        assert service.application.admission.in_work == 1
        busy = await service.ask("POST", "/segment", png(IMAGE))
        assert (busy.status, busy.headers["retry-after"]) == (429, "1")
        assert (await service.ask("GET", "/v2/health/live")).status == 200
        go.set()
        while service.application.admission.in_work:
            await asyncio.sleep(0.01)

    run(steps())


def test_a_body_that_does_not_come_in_time(service: Service) -> None:
    got = run(service.ask("POST", "/segment", b"x", chunks=3))
    assert (got.status, got.headers["connection"]) == (408, "close")


def test_a_body_without_a_stated_length_is_refused_as_it_grows(service: Service) -> None:
    got = run(service.ask("POST", "/segment", bytes(400), chunks=1000))
    assert (got.status, got.headers["connection"]) == (413, "close")


@pytest.mark.parametrize(
    ("headers", "status"), [({"content_length": "1001"}, 413), ({"content_encoding": "gzip"}, 415)], ids=str
)
def test_a_request_is_refused_by_its_headers(service: Service, headers: dict[str, str], status: int) -> None:
    got = run(service.ask("POST", "/segment", b"x", chunks=3, **headers))  # of a body that never comes
    assert got.status == status
    assert "connection" not in got.headers  # or a client that still sends would not get to read it
    assert service.application.admission.in_work == 0


def test_files_of_a_request_are_removed(service: Service, tmp_path: Path) -> None:
    run(service.ask("POST", "/segment", b"DICM"))
    assert not list(tmp_path.iterdir())


def test_it_is_live_and_not_ready_until_the_model_is_open(tmp_path: Path) -> None:
    opened = threading.Event()
    service = Service(tmp_path, Limits(), opened)
    statuses = {"/v2/health/live": 200, "/v2/health/ready": 503, "/v2/models/msformer/ready": 503, "/v2": 200}
    for path, status in statuses.items():
        assert run(service.ask("GET", path)).status == status
    got = run(service.ask("POST", "/segment", png(IMAGE)))
    assert (got.status, got.headers["retry-after"]) == (503, "1")
    opened.set()
    service.engine.opened.result(SECONDS)
    for path in statuses:
        assert run(service.ask("GET", path)).status == 200
    service.engine.close()
