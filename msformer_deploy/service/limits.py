"""What a request may take, and how many are served at a time: with these, memory has a bound under any load."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Attributes:
        body: bytes of a request's body.
        pixels: of an image.
        in_flight: requests whose body or image is in memory.
        queue: requests that wait for that, with nothing read but their headers; more are refused.
        seconds: from the headers of a request to the end of its answer.
    """

    body: int = 64 * MEBIBYTE
    pixels: int = 25_000_000
    in_flight: int = 8
    queue: int = 32
    seconds: float = 30.0
