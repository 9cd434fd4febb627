"""Out of memory, in the words of every library that can say so."""

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
    """The memory that this process may have is not enough."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that there was no memory.

    Python raises MemoryError, the system ENOMEM, the dynamic loader an ImportError, libraries of C++ a RuntimeError.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return bool(_SAID.search(str(error))) or (error.__cause__ is not None and is_out_of_memory(error.__cause__))


def require_memory(error: Exception, what: str) -> None:
    """See that an error did not come from a lack of memory.

    Args:
        error: of a library.
        what: could not be done, to begin a sentence.

    Raises:
        OutOfMemory: it did.
    """
    if is_out_of_memory(error):
        raise OutOfMemory(f"{what}: there is not enough memory; {REMEDY}") from error


REMEDY = "end other programs, or give this one more memory"
