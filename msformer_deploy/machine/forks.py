"""Objects that a forked process inherits and cannot use.

A fork copies the memory of a process, and only the thread that called it. The child has a runtime's records of its
threads, but not the threads, and may wait for them for ever.
"""

from __future__ import annotations

import os
import sys
from threading import Lock
from typing import Any

from ..errors import DeployError

_SOFT = 1  # omp_pause_soft of OpenMP's omp_pause_resource_t: settings are kept
_generation = 0  # forks between the first process and this one


class Origin:
    """The process in which an object was created."""

    def __init__(self) -> None:
        self._generation = _generation

    def is_here(self) -> bool:
        """Whether this is still that process."""
        return self._generation == _generation

    def require(self, what: str) -> None:
        """Check that this is still that process.

        Args:
            what: the object, to begin a sentence.

        Raises:
            DeployError: this process was forked from it.
        """
        if not self.is_here():
            raise DeployError(
                f"{what} was created before this process was forked, and its threads are not in this process; create a"
                " Segmenter in each process, after the fork"
            )


def is_forked() -> bool:
    """Whether this process was forked from a process that had imported this module."""
    return _generation > 0


def lock_across_forks() -> Lock:
    """A lock that is always free in a forked child: a fork waits until it holds the lock itself."""
    lock = Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def _end_openmp_threads() -> None:
    """Let torch's OpenMP end its threads; it starts them again when they are needed, here and in the child.

    Otherwise GNU's OpenMP waits in the child for threads that only the parent has. OpenMP 5.0 has this call for it.
    """
    if "torch" not in sys.modules:
        return
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return  # not installed with [torch], so torch is here for somebody else

    for library in ThreadpoolController().select(user_api="openmp").lib_controllers:
        pause: Any = getattr(library.dynlib, "omp_pause_resource_all", None)
        if pause is not None:
            pause(_SOFT)


def _count() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end_openmp_threads, after_in_child=_count)
