"""The matrix library that numpy calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

from ..machine.forks import lock_across_forks

_HELD = lock_across_forks()


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Hold its products to the calling thread.

    OpenBLAS has the threads of a product of a millisecond wait for the next one at full speed, for 50 ms, on cores that
    the encoder is on. Its number of threads is one for the whole process, so callers take turns.
    """
    with _HELD, _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    """Those that are loaded; numpy's is, and finding them takes milliseconds."""
    return ThreadpoolController()
