"""DICOM libraries without their warnings, which quote headers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DeployError, ImageError


@contextmanager
def failing_by_name(name: str, what: str, todo: str) -> Iterator[None]:
    """Keep pydicom and highdicom quiet, and make one line of what goes wrong, without a value of a header.

    Args:
        name: of the file or the source.
        what: cannot be done, such as "cannot be read as SEG".
        todo: what the user can do.
    """
    loggers = [logging.getLogger(each) for each in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
    except (DeployError, OSError):
        raise
    except Exception as error:
        raise ImageError(f"{name}: {what}; {todo}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
