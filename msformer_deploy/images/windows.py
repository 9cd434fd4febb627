"""Windows: the intensities that become black and white, by the names that radiologists use or as numbers.

Values in Hounsfield units, as Radiopaedia's article "Windowing (CT)" lists them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

NAMED: dict[str, tuple[float, float]] = {  # centre and width
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (30.0, 150.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft-tissue": (50.0, 400.0),
}


def parse_window(text: str) -> tuple[float, float]:
    """Return centre and width of ``NAME`` or ``CENTRE,WIDTH``, such as ``lung`` or ``-600,1500``.

    Raises:
        UsageError: it is neither, or the width is not above 0.
    """
    if text in NAMED:
        return NAMED[text]
    try:
        centre, width = map(float, text.split(","))
    except ValueError:
        centre = width = math.nan
    if not (math.isfinite(centre) and math.isfinite(width) and width > 0):
        raise UsageError(
            f"window {text!r} is unknown; choose one of {', '.join(NAMED)}, or give CENTRE,WIDTH with a width above 0,"
            " such as -600,1500"
        )
    return centre, width


def exact(window: tuple[float, float]) -> tuple[float, float]:
    """The intensities that become 0 and 1 outside of DICOM, where they may be fractions: half the width either way."""
    centre, width = window
    return centre - width / 2, centre + width / 2


def limits(window: tuple[float, float]) -> tuple[float, float]:
    """The intensities that become 0 and 1 in DICOM: its function LINEAR (PS3.3, C.11.2.1.2.1), as viewers apply it.

    Up to a width of 1 they are equal: everything above them is white.
    """
    centre, width = window
    half = max(width - 1, 0.0) / 2
    return centre - 0.5 - half, centre - 0.5 + half


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Scale intensities (H, W): ``low`` and less become 0, ``high`` and more 1; float32."""
    if low == high:
        return (values > low).astype(np.float32)
    found = np.empty(values.shape, np.float32)
    for row, target in zip(values, found, strict=True):  # by rows, because a whole picture of doubles is large
        target[:] = np.clip((row.astype(np.float64) - low) / (high - low), 0, 1)
    return found
