"""Addresses of this computer."""

from __future__ import annotations

import ipaddress

from ..errors import UsageError


def is_loopback(host: str) -> bool:
    """Whether an address to listen on, of ``--host``, is reached from this computer alone.

    Raises:
        UsageError: it is neither an IP address nor ``localhost``.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UsageError(f"--host {host!r} is no IP address; give one of this computer, such as 127.0.0.1") from None
