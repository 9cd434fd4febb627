"""Errors of libraries that mean: out of memory."""

from __future__ import annotations

import errno
import re

from ..errors import DeployError

_SAID = re.compile(
    r"out of memory|not enough memory|(can.?t|cannot|could not|failed to|unable to) alloc(ate)?\b|bad.?alloc"
    r"|memory ran out|failed to map segment|errno 12\b",
    re.IGNORECASE,
)


class OutOfMemory(DeployError):
    """This process does not get enough memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or its cause, means that there was not enough memory.

    Python raises MemoryError, the system ENOMEM, the dynamic loader ImportError, and C++ libraries RuntimeError.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return bool(_SAID.search(str(error))) or (error.__cause__ is not None and is_out_of_memory(error.__cause__))


def require_memory(error: Exception, what: str) -> None:
    """Raise :class:`OutOfMemory` if an error comes from a lack of memory.

    Args:
        error: the error of a library.
        what: the failure, to begin a sentence.

    Raises:
        OutOfMemory: there was not enough memory.
    """
    if is_out_of_memory(error):
        raise OutOfMemory(f"{what}: there is not enough memory; {REMEDY}") from error


REMEDY = "end other programs, or give this one more memory"
