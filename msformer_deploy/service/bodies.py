"""Bodies of requests, read as they come and never beyond the limit."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from .limits import MEBIBYTE
from .refused import CLOSE, Refused

__all__ = ["ClientDisconnect", "check_stated", "read"]


def check_stated(request: Request, limit: int) -> None:
    """Refuse a request by its headers, before anything of its body is read.

    Raises:
        Refused: it states a body over the limit, or a compressed one.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refused(415, "bad request", "compressed bodies are not taken; send it without Content-Encoding", CLOSE)
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated) > limit:
        raise _too_large(limit)


async def read(request: Request, limit: int) -> bytes:
    """The body.

    Raises:
        Refused: more bytes came than the limit.
        ClientDisconnect: the client left before its end.
    """
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            raise _too_large(limit)
    return bytes(content)


def _too_large(limit: int) -> Refused:
    return Refused(413, "too large", f"the body is over the limit of {limit / MEBIBYTE:g} MiB; send less", CLOSE)
