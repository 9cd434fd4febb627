"""Libraries without their warnings and log messages, which quote headers: in one thread, whatever others do meanwhile.

The filters of warnings and the levels of loggers are settings of the process. Threads that each save and restore them
undo each other's. So two filters are added once and stay, and hold for a thread while it is inside. Levels are restored
when the last thread leaves.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import DeployError, ImageError
from ..machine.forks import lock_across_forks
from ..machine.memory import is_out_of_memory

Action = Literal["ignore", "error"]


@dataclass(frozen=True, eq=False)
class _Rule:
    modules: re.Pattern[str]
    action: Action


class _Inside(threading.local):
    """What a thread asked for; the last rule comes first."""

    def __init__(self) -> None:
        self.rules: list[_Rule] = []


class _OfThisThread:
    """Stands where a filter of warnings has the pattern of modules, and depends on the thread that warns."""

    def __init__(self, action: Action) -> None:
        self._action = action

    def match(self, module: str) -> bool:
        found = (rule.action for rule in reversed(_INSIDE.rules) if rule.modules.match(module))
        return next(found, None) == self._action


class _Loggers:
    """Loggers that are silent while a thread is inside."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]
        self._lock, self._inside, self._levels = lock_across_forks(), 0, [logging.NOTSET for _ in names]

    def silence(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._levels = [logger.level for logger in self._loggers]
                for logger in self._loggers:
                    logger.setLevel(logging.CRITICAL + 1)

    def restore(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for logger, level in zip(self._loggers, self._levels, strict=True):
                    logger.setLevel(level)


_INSIDE = _Inside()
_FILTERS: list[Any] = [(action, None, Warning, _OfThisThread(action), 0) for action in ("ignore", "error")]
_ADDING = lock_across_forks()
_LOGGERS = _Loggers("pydicom", "highdicom")


def _add_filters() -> None:
    """Put our filters first, where others have been put before them or ``catch_warnings`` has taken them away."""
    with _ADDING:
        filters: Any = warnings.filters
        if filters[: len(_FILTERS)] != _FILTERS:
            filters[:] = [*_FILTERS, *(each for each in filters if each not in _FILTERS)]


_add_filters()  # so that a catch_warnings that another thread enters from now on restores a list that has them


@contextmanager
def warnings_of(modules: str, action: Action) -> Iterator[None]:
    """Ignore the warnings of some modules in this thread, or raise them.

    Args:
        modules: a regular expression that their full names begin with.
        action: what becomes of a warning.
    """
    rules, rule = _INSIDE.rules, _Rule(re.compile(modules), action)
    _add_filters()
    rules.append(rule)
    try:
        yield
    finally:
        rules.remove(rule)


@contextmanager
def silent() -> Iterator[None]:
    """Silence pydicom and highdicom: all warnings of this thread, and their log messages."""
    with warnings_of("", "ignore"):
        _LOGGERS.silence()
        try:
            yield
        finally:
            _LOGGERS.restore()


@contextmanager
def failing_by_name(name: str, what: str, todo: str) -> Iterator[None]:
    """Keep pydicom and highdicom quiet, and make one line of what goes wrong, without a value of a header.

    Args:
        name: of the file or the source.
        what: cannot be done, such as "cannot be read as SEG".
        todo: what the user can do.
    """
    try:
        with silent():
            yield
    except (DeployError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ImageError(f"{name}: {what}; {todo}") from error
