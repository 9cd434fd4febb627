"""The log: JSON lines on stderr. Nothing in it comes from an image, a header of DICOM, or a client's own words."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def log(level: str, event: str, **facts: Any) -> None:
    """Write one line."""
    time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"time": time, "level": level, "event": event, **facts}) + "\n")
    sys.stderr.flush()


def place_of(error: BaseException) -> str:
    """Where an error was raised, as file and line: its message and the values beside it may be a patient's."""
    trace, place = error.__traceback__, "unknown"
    while trace is not None:
        place = f"{trace.tb_frame.f_globals.get('__name__', 'unknown')}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Neither arguments nor traceback: they may quote what a client has sent.
        log(record.levelname.lower(), "library", logger=record.name, message=str(record.msg).partition("\n")[0])


class _Places(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Not even the message, which a library that reads images may have made of what is in them.
        log(record.levelname.lower(), "library", logger=record.name, at=f"{record.module}:{record.lineno}")


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    log("warning", "library", category=category.__name__, at=f"{Path(filename).stem}:{lineno}")


@contextmanager
def taken_over() -> Iterator[None]:
    """Bring into the log what the server of HTTP says, and of what other libraries say the kind and the place alone."""
    root, showing, places = logging.getLogger(), warnings.showwarning, _Places(logging.WARNING)
    of_server = [logging.getLogger(name) for name in ("uvicorn", "asyncio")]
    former = [(logger.handlers, logger.propagate, logger.level) for logger in of_server]
    warnings.showwarning = _warned
    root.addHandler(places)
    for logger in of_server:
        logger.handlers, logger.propagate = [_Lines(logging.WARNING)], False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(of_server, former, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        root.removeHandler(places)
        warnings.showwarning = showing
