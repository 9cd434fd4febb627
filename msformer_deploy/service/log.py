"""The log: JSON lines on stderr. Nothing in it comes from an image, a header of DICOM, or a client's own words."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
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
        log(record.levelname.lower(), "library", logger=record.name, message=str(record.msg).splitlines()[0])


def take_over() -> None:
    """Bring warnings of libraries into the log, and what the server of HTTP says."""
    logging.captureWarnings(True)
    for name in ("uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Lines(logging.WARNING)], False
        logger.setLevel(logging.WARNING)
