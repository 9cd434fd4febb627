"""Ports for programs that the tests start."""

from __future__ import annotations

import random
import socket


def unused_port() -> int:
    """A port of the loopback that is free, and stays so.

    It is none of those that systems give to whoever asks for any port: these begin at 32768. Another test could get
    such a port before it is used here, and a client that tries it again and again could be connected with itself.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_768), 100):
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("100 ports are all taken")
