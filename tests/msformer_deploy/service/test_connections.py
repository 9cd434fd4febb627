"""Clients that never end what they begin, on a loop of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
import uvicorn
from uvicorn.server import ServerState

from msformer_deploy.service import connections as module
from msformer_deploy.service.connections import connections

SECONDS = 20
LARGE = 50_000_000  # bytes, more than buffers of the system hold
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers without a look at the body, at once or after a time that is longer than headers may take."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    body = bytes(LARGE) if scope["path"] == "/large" else b"ok"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def meet(*clients: Client, most: int = 10, reading: float = 0.2) -> None:
    """Let clients come one after the other, each on a connection that stays; and see that all are ended."""

    async def steps() -> None:
        config = uvicorn.Config(
            application, http=connections(most, reading), ws="none", lifespan="off", log_config=None
        )
        config.load()
        state = ServerState()
        protocol: Any = config.http_protocol_class
        server = await asyncio.get_running_loop().create_server(
            lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        host, port = server.sockets[0].getsockname()
        opened = []
        for client in clients:
            reader, writer = await asyncio.open_connection(host, port)
            opened.append(writer)
            await client(reader, writer)
        for writer in opened:
            writer.transport.abort()
        while state.connections:
            await asyncio.sleep(0.01)
        server.close()

    asyncio.run(asyncio.wait_for(steps(), SECONDS))


async def is_ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), SECONDS / 2) == b""
    except ConnectionError:
        return True


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ARRIVAL_SECONDS", 0.2)


@pytest.mark.usefixtures("short")
def test_headers_that_come_one_by_one_do_not_keep_a_connection() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\n")
        ended = asyncio.create_task(is_ended(reader))
        while not ended.done():
            writer.write(b"X: 1\r\n")
            await asyncio.sleep(0.05)
        assert ended.result()

    meet(client)


@pytest.mark.usefixtures("short")
def test_a_body_that_nobody_wants_does_not_keep_a_connection() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        ended = asyncio.create_task(is_ended(reader))
        while not ended.done():
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.05)
        assert ended.result()

    meet(client)


def test_an_answer_that_nobody_reads_does_not_keep_a_connection() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport: Any = writer.transport
        transport.pause_reading()
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.6)
        transport.resume_reading()
        try:
            got = await reader.read(LARGE * 2)
            while part := await reader.read(LARGE):
                got += part
        except ConnectionError:
            return
        assert len(got) < LARGE

    meet(client)


@pytest.mark.usefixtures("short")
def test_one_that_asks_on_is_kept() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(8):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"ok")
            await asyncio.sleep(0.05)

    meet(client)


@pytest.mark.usefixtures("short")
def test_an_answer_may_take_longer_than_headers() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"ok")

    meet(client)


def test_one_too_many_is_ended_at_once() -> None:
    async def keeps(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"ok")

    async def refused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await is_ended(reader)

    meet(keeps, keeps, refused, most=2)


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000])
def test_what_is_no_request_gets_one_line(sent: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        got = await reader.read()
        assert got.startswith(b"HTTP/1.1 400 ")
        assert b'{"error": "this is not a valid HTTP request' in got

    meet(client)
