"""Bodies of requests, read as they come and never beyond the limit."""

from __future__ import annotations

from starlette.requests import Request

from .limits import MEBIBYTE
from .refused import CLOSE, Refused


def check_stated(request: Request, limit: int) -> None:
    """Refuse a request by its headers, before anything of its body is read.

    The connection is kept, so that a client which sends its body first still gets the answer: the body is dropped as it
    comes, for as long as headers may take.

    Raises:
        Refused: it states a body over the limit, or a compressed one.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refused(415, "bad request", "compressed bodies are not taken; send it without Content-Encoding")
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated) > limit:
        raise Refused(413, "too large", _over(limit))


async def read(request: Request, limit: int) -> bytes:
    """The body.

    Raises:
        Refused: more bytes came than the limit.
        starlette.requests.ClientDisconnect: the client left before its end.
    """
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            raise Refused(413, "too large", _over(limit), CLOSE)
    return bytes(content)


def _over(limit: int) -> str:
    return f"the body is over the limit of {limit / MEBIBYTE:g} MiB; send less"
