"""Standard streams that are closed, missing or full: no command fails only because it cannot print.

A descriptor 0, 1 or 2 that is closed is dangerous: the next file that is opened takes its number, and what a library
prints is then written into that file. ``pythonw`` has no streams at all.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from ..errors import DeployError


class OutputLost(DeployError):
    """Standard output takes no more."""


def occupy_descriptors() -> None:
    """Open the null device on each of the descriptors 0, 1 and 2 that is closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is given, which is this one: those below are open by now.
            os.open(os.devnull, os.O_RDWR)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Let code print as usual, whatever the standard streams are.

    A missing stream is replaced by one that drops everything. A standard error that cannot be written drops everything
    as well, because the exit code says enough. A standard output that cannot be written raises :class:`OutputLost`, or
    BrokenPipeError if its reader went away, and drops everything after that.
    """
    occupy_descriptors()
    with (
        contextlib.redirect_stdout(_writable(sys.stdout, fails=True)),
        contextlib.redirect_stderr(_writable(sys.stderr, fails=False)),
    ):
        try:
            yield
        finally:
            sys.stderr.flush()
            with contextlib.suppress(OutputLost, BrokenPipeError):  # what is left was never asked to be flushed
                sys.stdout.flush()


def _writable(stream: Any, *, fails: bool) -> Any:
    """The stream, guarded; a stream that keeps nothing in place of None."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):  # of a program that calls us: its own business
        return stream
    # Below the buffer, or in its place where Python is unbuffered (-u). Windows' console has a class of its own there.
    raw = getattr(stream.buffer, "raw", stream.buffer)
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Guarded(raw, fails=fails)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Guarded(io.RawIOBase):
    """A raw stream that drops everything once a write has failed."""

    def __init__(self, raw: Any, *, fails: bool) -> None:
        self._raw, self._fails, self._lost = raw, fails, False

    def write(self, data: Any) -> int | None:
        if self._lost:
            return len(data)
        try:
            return self._raw.write(data)
        except BrokenPipeError:
            self._lost = True
            if self._fails:
                raise
        except OSError as error:
            self._lost = True
            if self._fails:
                raise OutputLost(
                    f"standard output cannot be written ({error.strerror}); make room, or send it elsewhere"
                ) from error
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())
