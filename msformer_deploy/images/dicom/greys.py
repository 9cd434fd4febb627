"""From stored values to intensities, and from intensities to shades: look-up tables, rescale, windows and padding.

The order is that of DICOM PS3.4, section N.2: modality LUT, then VOI LUT; MONOCHROME1 turns shades over at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from .. import windows
from .values import items, numbers, word

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SIGMOID, _EXACT = "SIGMOID", "LINEAR_EXACT"


@dataclass(frozen=True, eq=False)
class Table:
    """A look-up table (PS3.3, C.11.1.1 and C.11.2.1.1).

    Attributes:
        first: the value that the first entry is for; lower ones take it as well.
        entries: uint16, of ``bits`` bits.
        bits: of an entry.
    """

    first: int
    entries: NDArray[np.uint16]
    bits: int

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Look values up; those beyond the table take its ends."""
        places = np.clip(np.asarray(values, np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[places]


@dataclass(frozen=True, eq=False)
class Rescale:
    """Stored values to intensities: by a table, or by slope and intercept."""

    slope: float = 1.0
    intercept: float = 0.0
    table: Table | None = None

    @property
    def line(self) -> tuple[float, float] | None:
        """Slope and intercept; None with a table."""
        return None if self.table is not None else (self.slope, self.intercept)

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """Intensities: of the stored type where nothing changes, integers where they stay whole, else float64."""
        if self.table is not None:
            return self.table.apply(values)
        if self.line == (1.0, 0.0):
            return values
        if values.dtype.kind in "biu" and values.dtype.itemsize <= 2:
            if (
                self.slope.is_integer()
                and self.intercept.is_integer()
                and abs(self.slope) + abs(self.intercept) < 2**14
            ):
                return values.astype(np.int32) * np.int32(self.slope) + np.int32(self.intercept)
            return values.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)
        return values.astype(np.float64) * self.slope + self.intercept


@dataclass(frozen=True, eq=False)
class Shades:
    """Intensities to 0..1: by a table, or by a window with one of DICOM's functions (PS3.3, C.11.2.1).

    Attributes:
        low, high: the intensities that become 0 and 1; of SIGMOID those a width apart around the centre.
        sigmoid: whether the function is SIGMOID.
        table: of a VOI LUT.
    """

    low: float
    high: float
    sigmoid: bool = False
    table: Table | None = None

    @property
    def linear(self) -> bool:
        """Whether ``low`` and ``high`` say everything."""
        return self.table is None and not self.sigmoid

    def key(self) -> tuple[Any, ...]:
        """What two equal ones have in common."""
        entries = None if self.table is None else (self.table.first, self.table.bits, self.table.entries.tobytes())
        return self.low, self.high, self.sigmoid, entries

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Shades of intensities (H, W): 0 is black, 1 is white."""
        if self.table is not None:
            return self.table.apply(values).astype(np.float32) / np.float32(2**self.table.bits - 1)
        if self.sigmoid:
            centre, width = (self.low + self.high) / 2, self.high - self.low
            with np.errstate(over="ignore"):
                return (1 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width))).astype(np.float32)
        return windows.scaled(values, self.low, self.high)


@dataclass(frozen=True)
class Padding:
    """Stored values that stand for no data, from ``low`` to ``high`` (PS3.3, C.7.5.1.1.2)."""

    low: float
    high: float

    def find(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where stored values are padding."""
        return (values >= self.low) & (values <= self.high)


def rescale_of(transformation: Dataset, name: str) -> Rescale:
    """The modality LUT of an object, or of the Pixel Value Transformation of a frame.

    Raises:
        ImageError: the slope is 0, or the table is damaged.
    """
    tables = items(transformation, "ModalityLUTSequence")
    if tables:
        return Rescale(table=_table(tables[0], name))
    slope, intercept = numbers(transformation, "RescaleSlope"), numbers(transformation, "RescaleIntercept")
    factor = slope[0] if slope else 1.0
    if factor == 0:
        raise ImageError(f"{name}: its rescale slope is 0, so all intensities are equal; export it again")
    return Rescale(factor, intercept[0] if intercept else 0.0)


def shades_of(frame: Dataset, name: str, window: tuple[float, float] | None) -> Shades | None:
    """The window asked for, else the first table or window of an object or of the Frame VOI LUT of a frame.

    Raises:
        ImageError: the table is damaged.
    """
    if window is not None:
        return Shades(*windows.limits(window))
    tables = items(frame, "VOILUTSequence")
    if tables:
        table = _table(tables[0], name)
        return Shades(float(table.first), float(table.first + len(table.entries) - 1), table=table)
    centre, width = numbers(frame, "WindowCenter"), numbers(frame, "WindowWidth")
    if not centre or not width or width[0] <= 0:
        return None
    function = word(frame, "VOILUTFunction")
    if function in (_SIGMOID, _EXACT):
        return Shades(centre[0] - width[0] / 2, centre[0] + width[0] / 2, sigmoid=function == _SIGMOID)
    return Shades(*windows.limits((centre[0], width[0])))


def padding_of(header: Dataset, signed: bool, allocated: int) -> Padding | None:
    """The padding of an object; None without one."""
    ends = [*numbers(header, "PixelPaddingValue")[:1], *numbers(header, "PixelPaddingRangeLimit")[:1]]
    if not ends or "PixelPaddingValue" not in header:
        return None
    half, whole = 2 ** (allocated - 1), 2**allocated
    # Many writers store it with the wrong sign, because its representation is that of the pixels.
    ends = [
        each - whole if signed and each >= half else each + whole if not signed and each < 0 else each for each in ends
    ]
    return Padding(min(ends), max(ends))


def _table(item: Dataset, name: str) -> Table:
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3 or not 1 <= descriptor[2] <= 16:
        raise ImageError(f"{name}: a look-up table in its header is damaged; export it again")
    count, first, bits = int(descriptor[0]) % 2**16 or 2**16, int(descriptor[1]), int(descriptor[2])
    data: Any = item.get("LUTData")
    if isinstance(data, bytes):
        little = getattr(item, "is_little_endian", None)
        order = "<" if little is None or little else ">"
        entries = np.frombuffer(data, f"{order}u2") if len(data) >= 2 * count else np.frombuffer(data, np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(data)).astype(np.int64).astype(np.uint16)
        if len(entries) < count:  # two of 8 bits in each
            entries = entries.astype("<u2").view(np.uint8)
    if len(entries) < count:
        raise ImageError(f"{name}: a look-up table in its header is damaged; export it again")
    return Table(first, entries[:count].astype(np.uint16), bits)
