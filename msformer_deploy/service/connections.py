"""Connections that are slow, endless or too many are ended; uvicorn itself waits for these."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

ARRIVAL_SECONDS = 10.0  # from the end of one answer, or the connection, to the end of the headers of a request
SPARE = 256  # connections beyond those of requests in work and in the queue


def connections(most: int, seconds: float) -> type[H11Protocol]:
    """The class of connections of one server.

    Args:
        most: connections at a time; the next one is ended at once.
        seconds: that a client may take to read what it was sent.
    """

    class Connection(H11Protocol):
        _arrival: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
                return
            self._expect_request()

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._arrival, self._reading)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                _cancel(self._arrival)

        def on_response_complete(self) -> None:
            self._expect_request()  # before the next one of a pipeline is begun
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reading = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            _cancel(self._reading)
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP, or has headers over the limit of h11, 16 KiB."""
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is on its way already
                self.transport.abort()
                return
            line = "this is not a valid HTTP request, or its headers are too long; send a shorter one"
            body = json.dumps({"error": line}).encode()
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            events: list[Any] = [
                h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _expect_request(self) -> None:
            _cancel(self._arrival)
            self._arrival = self.loop.call_later(ARRIVAL_SECONDS, self.transport.abort)

    return Connection


def _cancel(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()
