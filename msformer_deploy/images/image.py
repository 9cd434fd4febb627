"""A picture ready to segment: 8-bit RGB, or grey scaled to 0..1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from . import intensities, windows
from .decoders.stored import Stored
from .intensities import Ignored
from .sources import DicomSource
from .space import Spacing

MIN_SIDE = 8
NO_WINDOW = "the window is not used, because this is colour"


@dataclass(frozen=True, eq=False)
class InputImage:
    """A picture ready to segment.

    Attributes:
        pixels: uint8 (H, W, 3) RGB, or float32 (H, W) within 0..1 for grey deeper than 8 bits.
        name: what messages call it.
        intensity_range: the two intensities of the source that became 0 and 1 (255 in 8-bit pixels).
        notes: one-line remarks on what was left out or changed in reading.
        ignored: pixels far from all others, such as padding or metal, that did not count for the range.
        spacing: distances of the pixels; None if they are not known.
        source: the DICOM object; None for files of pictures.
    """

    pixels: NDArray[Any]
    name: str
    intensity_range: tuple[float, float]
    notes: tuple[str, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    spacing: Spacing | None = None
    source: DicomSource | None = None

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.pixels.shape[1])

    def display(self) -> NDArray[np.uint8]:
        """Return the picture as uint8 (H, W, 3) RGB, for people to look at."""
        return _as_rgb(self.pixels if self.pixels.dtype == np.uint8 else _as_bytes(self.pixels))


def check_size(values: NDArray[Any], name: str) -> None:
    """Check that a picture (H, W) or (H, W, C) is large enough.

    Raises:
        ImageError: a side is under ``MIN_SIDE``.
    """
    height, width = values.shape[:2]
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{name}: {width} x {height} pixels is too small to segment; at least {MIN_SIDE} x {MIN_SIDE} is needed"
        )


def of_stored(picture: Stored, name: str, window: tuple[float, float] | None = None) -> InputImage:
    """Take 8-bit values as they are and bring deeper ones to 0..1, float32; of colour to 8 bits.

    Args:
        picture: as it is stored.
        name: what messages call it.
        window: centre and width of the intensities that become 0..1, for grey; a note says that colour has none.

    Raises:
        ImageError: the picture is too small, not finite, constant, or entirely beyond the window.
    """
    values = picture.values
    check_size(values, name)
    if values.dtype.kind == "f" and values.dtype != np.float32:
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            values = values.astype(np.float32)
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    windowed = window is not None and _is_grey(values)
    deep = values.dtype != np.uint8
    span = intensities.find_range(values, name) if deep and not windowed else None
    if all((row == values[0, 0]).all() for row in values):  # by rows, because the first one mostly answers it
        raise ImageError(f"{name}: every pixel has the same value; there is nothing to segment")
    if window is not None and windowed:
        low, high = windows.exact(window)
        grey = values if values.ndim == 2 else values[..., 0]
        return of_unit(windows.scaled(grey, low, high), (low, high), name, picture.notes, picture.white_is_zero)
    notes = picture.notes if window is None else (*picture.notes, NO_WINDOW)
    if span is None:
        return InputImage(_as_rgb(values), name, (0.0, 255.0), notes)
    pixels: NDArray[Any] = intensities.scaled(values, span, black=int(picture.white_is_zero))
    notes = (*notes, *map(str, span.ignored))
    if picture.white_is_zero:
        return InputImage(1 - pixels, name, (span.high, span.low), notes, span.ignored)
    if pixels.ndim == 3:
        pixels, notes = _as_bytes(pixels), (*notes, "colour rounded to 8 bits")
    return InputImage(pixels, name, (span.low, span.high), notes, span.ignored)


def of_unit(
    unit: NDArray[np.float32],
    span: tuple[float, float],
    name: str,
    notes: tuple[str, ...] = (),
    inverted: bool = False,
) -> InputImage:
    """Take grey that a window has scaled.

    Args:
        unit: (H, W) within 0..1.
        span: the two intensities that became 0 and 1.
        name: what messages call it.
        notes: remarks of reading.
        inverted: whether 0 means white.

    Raises:
        ImageError: no pixel, or only one shade, is within the window.
    """
    if unit.min() == unit.max():
        raise ImageError(
            f"{name}: every pixel is beyond the window of {span[0]:g} to {span[1]:g}; pass another --window"
        )
    if inverted:
        return InputImage(1 - unit, name, (span[1], span[0]), notes)
    return InputImage(unit, name, span, notes)


def _is_grey(values: NDArray[Any]) -> bool:
    """Whether a picture has one channel, or three that are equal, as many programs save grey."""
    return values.ndim == 2 or bool((values == values[..., :1]).all())


def _as_bytes(unit: NDArray[Any]) -> NDArray[np.uint8]:
    scaled: NDArray[np.floating[Any]] = np.rint(unit * 255)
    return scaled.astype(np.uint8)


def _as_rgb(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
