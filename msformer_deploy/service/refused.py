"""Requests that are not served: the status, the kind for the metrics, and one line for the client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from ..errors import DeployError, ImageError, UsageError
from ..images.decoders.stored import TooLarge
from ..machine.memory import is_out_of_memory

CLOSE = MappingProxyType({"Connection": "close"})  # for requests whose body is not read to its end


class Refused(DeployError):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        kind: a word for metrics and log.
        message: one line for the client.
        headers: of the answer.
    """

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.headers = status, kind, dict(headers or {})


def bad_request(message: str) -> Refused:
    """The refusal of a request that cannot be understood."""
    return Refused(400, "bad request", message)


def draining() -> Refused:
    """The refusal of whatever comes after the signal to end."""
    return Refused(503, "ending", "the server is ending; send the request to another one")


def refusal_of(error: Exception) -> Refused:
    """What the client gets to know of any error. Of faults of ours that is their kind alone."""
    if isinstance(error, Refused):
        return error
    if is_out_of_memory(error):
        return Refused(503, "out of memory", "there is not enough memory for this request; send a smaller image")
    if isinstance(error, TooLarge):
        return Refused(413, "too large", str(error))
    if isinstance(error, ImageError):
        return Refused(400, "image", str(error))
    if isinstance(error, UsageError):
        return bad_request(str(error))
    return Refused(500, "internal", f"internal error, {type(error).__name__}; the server's log says where")


@contextlib.contextmanager
def calling(path: str, name: str) -> Iterator[None]:
    """Name a file of the server's in messages by what it is to the client."""
    try:
        yield
    except DeployError as error:
        if path not in str(error):
            raise
        error.args = (str(error).replace(path, name),)
        raise
