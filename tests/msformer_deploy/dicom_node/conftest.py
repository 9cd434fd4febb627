"""Servers that end at once."""

from __future__ import annotations

import socketserver

import pytest


@pytest.fixture(autouse=True)
def ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server looks every 10 ms whether it shall end, in place of every half a second."""
    real = socketserver.BaseServer.serve_forever
    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", lambda server, _=0.5: real(server, 0.01))
