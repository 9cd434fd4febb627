"""The first picture of a file, before its intensities are scaled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError

MAX_PIXELS = 100_000_000
LIMIT = f"{MAX_PIXELS // 1_000_000} megapixels"
_MAX_CHANNELS = 8  # of a picture of the largest size; a file may state 65,535 of them
_ALLOWED: ContextVar[int | None] = ContextVar("pixels that this thread or task allows", default=None)

DROPPED_ALPHA = "alpha channel dropped"


class TooLarge(ImageError):
    """A picture has more pixels, or more bytes, than are allowed."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A picture, upright, as its file stores it.

    Attributes:
        values: grey (H, W) or RGB (H, W, 3), of any real dtype; bool for one bit a pixel, uint8 for up to 8.
        notes: one-line remarks on what reading left out.
        white_is_zero: whether 0 means white, in deep grey.
        places: (H, W) indices into the palette; None without a palette.
        alpha: (H, W) alpha channel; None without one.
        lossy: whether the compression changes values.
    """

    values: NDArray[Any]
    notes: tuple[str, ...] = ()
    white_is_zero: bool = False
    places: NDArray[Any] | None = None
    alpha: NDArray[Any] | None = None
    lossy: bool = False


@contextmanager
def allowing(pixels: int) -> Iterator[None]:
    """Refuse pictures of more pixels than this, in this thread or task; ``MAX_PIXELS`` holds as well."""
    token = _ALLOWED.set(pixels)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def allowed_pixels() -> int:
    """Maximum number of pixels of a picture, here and now."""
    allowed = _ALLOWED.get()
    return MAX_PIXELS if allowed is None else min(allowed, MAX_PIXELS)


def allowed_values() -> int:
    """Maximum number of values of a picture, of all its channels."""
    return _MAX_CHANNELS * allowed_pixels()


def check_limit(width: int, height: int, name: str, channels: int = 1) -> None:
    """Check the size in the header of a picture, before anything is decoded.

    Raises:
        TooLarge: the picture has more pixels than are allowed, or far too many channels.
    """
    if width * height > allowed_pixels():
        limit = f"{allowed_pixels() / 1e6:g} megapixels"
        raise TooLarge(f"{name}: {width} x {height} pixels is over the limit of {limit}; resize it first")
    if width * height * channels > allowed_values():
        raise TooLarge(f"{name}: {channels} channels of {width} x {height} pixels are too many; save only grey or RGB")


@contextmanager
def in_memory(size: int) -> Iterator[None]:
    """Raise MemoryError if a decoder fails without a reason and the memory that it needs is not available.

    Args:
        size: approximate number of bytes that the decoder needs.

    Raises:
        MemoryError: the decoder failed, and ``size`` bytes cannot be allocated.
    """
    try:
        yield
    except ImageError:
        raise
    except Exception:
        np.empty(size, np.uint8)
        raise


def only_first(count: int) -> tuple[str, ...]:
    """The remark on a file of several pages or frames."""
    return (f"only page 1 of {count} is used",) if count > 1 else ()
