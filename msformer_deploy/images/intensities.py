"""Which intensities of a deep picture become black and white.

The bulk of a picture decides, not a few values far from it. A scanner writes one value where its field of view ends,
programs write one where they know nothing, metal and defective pixels are many times brighter than anything else.
Scaled from minimum to maximum, all that matters would be one shade of grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError

_BIT_DEPTHS = (8, 10, 12, 14, 16)  # those that cameras and scanners have
_FEW_BITS = 3  # a picture that fits into a depth of so many bits less has an offset

_MOST_PADDINGS = 4  # values that stand for no data, one beside the other
_MAX_METAL = 0.08  # share of what remains; also of values for no data within the picture
_MAX_DEFECT = 0.001  # share of what remains: defects, too few to be an object
_GAP_OF_PADDING, _GAP = 0.25, 1.0  # in spans of what remains
_MIN_VALUES = 8  # distinct ones that remain for each padding, else both are levels of a picture that has few
_MAX_SPREAD = 0.02  # of padding that is not quite one value, such as noise has made it; in widths of the gap
_MAX_ROUGHNESS = 0.5  # of what remains, in standard deviations; white noise has 1.1
_PIECE = 1 << 20  # values looked at together
_WIDEST = 8  # gaps looked at on either side


@dataclass(frozen=True)
class Ignored:
    """Pixels that did not count for the range: padding and what is below it are black, others above it are white.

    Attributes:
        low: their smallest value, NaN for pixels that are no numbers.
        high: their largest value, likewise.
        pixels: how many.
        side: ``low`` or ``high``.
        padding: whether they are few values that reach the rim, or no numbers.
    """

    low: float
    high: float
    pixels: int
    side: str
    padding: bool = False

    def __str__(self) -> str:
        value = f"{self.low:.6g}" + ("" if self.low == self.high or np.isnan(self.low) else f" to {self.high:.6g}")
        what = "1 pixel" if self.pixels == 1 else f"{self.pixels} pixels"
        if self.padding:
            return f"{what} of {value} taken for padding: left out of the intensity range and black"
        shade = "below it and black" if self.side == "low" else "above it and white"
        return f"{what} of {value} left out of the intensity range: far {shade}"

    def record(self) -> dict[str, Any]:
        """For JSON, which has no NaN and no infinity: such values are strings."""
        low, high = (each if np.isfinite(each) else str(each) for each in (self.low, self.high))
        return {"side": self.side, "low": low, "high": high, "pixels": self.pixels, "padding": self.padding}


@dataclass(frozen=True)
class Range:
    """The intensities that become 0 and 1, and what did not count for them."""

    low: float
    high: float
    ignored: tuple[Ignored, ...] = ()


def find_range(values: NDArray[Any], name: str) -> Range:
    """Find the range of a deep picture, (H, W) or (H, W, C).

    Values at the low or high end are set aside if a gap separates them from what remains. The gap is measured in spans:
    one span is from minimum to maximum of what remains.

    - padding: up to four distinct values, more than 0.1 % of the pixels, some of them at the picture's rim. The minimum
      gap is a quarter of a span; if the padding is 0, which may be ordinary black, it is a span.
    - no data within the picture: up to four distinct values, at most 8 % of what remains; a gap of a span.
    - defective pixels: at most 0.1 % of what remains; a gap of a span.
    - metal: the brightest pixels, at most 8 % of what remains, which must be more than noise; a gap of a span.

    What remains must have at least eight distinct values for each value of padding.

    For what remains: floats within 0..1 keep 0..1; whole numbers from 0 up take 0 to the largest value of the smallest
    of 8, 10, 12, 14 and 16 bits that hold them, or minimum to maximum where they fill less than an eighth of these;
    everything else takes minimum to maximum. NaN and infinite values are set aside where they are connected with the
    rim.

    Raises:
        ImageError: NaN or infinite pixels are not connected with the rim, all other pixels have one value, or their
            values are so large that doubles do not differ.
    """
    ignored: list[Ignored] = []
    finite = np.isfinite(values) if values.dtype.kind == "f" else None
    if finite is not None and not finite.all():
        ignored.extend(_no_numbers(values, finite, name))
        ordered = _sorted(values[finite])
        if ordered[0] == ordered[-1]:
            raise ImageError(f"{name}: every pixel that is a number has the same value; there is nothing to segment")
    elif values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        return Range(0.0, 1.0)
    else:
        ordered = _sorted(values)
    first, last, *paddings = _bulk(ordered, values)
    low, high = float(ordered[first]), float(ordered[last - 1])
    if low == high and ordered[first] != ordered[last - 1]:
        raise ImageError(f"{name}: its values are too large to tell apart; subtract the smallest one first")
    parts = (("low", ordered[:first]), ("high", ordered[last:]))
    for (side, part), padding in zip(parts, paddings, strict=True):
        if part.size:
            beyond = values <= part[-1] if side == "low" else values >= part[0]
            if finite is not None:
                beyond &= finite
            count = int(np.count_nonzero(beyond if beyond.ndim == 2 else beyond.any(axis=2)))
            ignored.append(Ignored(float(part[0]), float(part[-1]), count, side, padding))
    return Range(*_span(low, high, values.dtype.kind), tuple(ignored))


def largest_of(value: float) -> int:
    """The largest value of the smallest of the usual depths that holds a whole number of up to 16 bits."""
    return next(2**depth for depth in _BIT_DEPTHS if value < 2**depth) - 1


def scaled(values: NDArray[Any], span: Range, black: int = 0) -> NDArray[np.float32]:
    """Bring intensities to 0..1; what is beyond the range becomes 0 or 1, and padding ``black``."""
    found = np.empty(values.shape, np.float32)
    paddings = [each for each in span.ignored if each.padding]
    for row, target in zip(values, found, strict=True):  # by rows, as a whole picture of doubles is large
        unit = row.astype(np.float64)
        unit -= span.low
        unit /= span.high - span.low
        if span.ignored:
            unit = np.clip(unit, 0, 1)
        for each in paddings:
            unit[np.isnan(row) if np.isnan(each.low) else (row >= each.low) & (row <= each.high)] = black
        target[:] = unit
    return found


def _sorted(values: NDArray[Any]) -> NDArray[Any]:
    # NumPy's stable sort of 16 bits is a radix sort, six times as fast as the other.
    return np.sort(values, axis=None, kind="stable" if values.dtype.itemsize <= 2 else None)


def _span(low: float, high: float, kind: str) -> tuple[float, float]:
    if kind == "f":
        return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    if low < 0 or high >= 2 ** _BIT_DEPTHS[-1]:
        return low, high
    largest = largest_of(high)
    if largest >= 2 ** _BIT_DEPTHS[0] and low < high < low + (largest + 1) / 2**_FEW_BITS:
        return low, high
    return 0.0, float(largest)


def _no_numbers(values: NDArray[Any], finite: NDArray[np.bool_], name: str) -> list[Ignored]:
    """NaN and infinite pixels, which must be connected with the rim."""
    from scipy import ndimage

    bad = ~finite if finite.ndim == 2 else ~finite.all(axis=2)
    rim = np.zeros_like(bad)
    rim[[0, -1]] = rim[:, [0, -1]] = True
    if (bad & ~ndimage.binary_propagation(rim & bad, mask=bad)).any() or bad.all():
        raise ImageError(
            f"{name}: {np.count_nonzero(bad)} of {bad.size} pixels are NaN or infinite; replace them first"
        )
    found = []
    for value, side, where in (
        (np.nan, "low", np.isnan(values)),
        (-np.inf, "low", np.isneginf(values)),
        (np.inf, "high", np.isposinf(values)),
    ):
        count = int(np.count_nonzero(where if where.ndim == 2 else where.any(axis=2)))
        if count:
            found.append(Ignored(value, value, count, side, padding=True))
    return found


class _Cut(NamedTuple):
    """A gap at one end of the values in order, beyond which they may be set aside."""

    beyond: int  # values
    gap: float
    levels: int  # how many distinct ones they are, up to _MOST_PADDINGS; 0 for others
    zero: bool  # the last of them is 0, and they are the smallest
    noisy: bool = False  # not quite one value


_NO_CUT = _Cut(0, np.inf, 0, False)


def _bulk(ordered: NDArray[Any], values: NDArray[Any]) -> tuple[int, int, bool, bool]:
    """First and one past the last place, among all values in order, of what decides the range.

    And whether what is below, and above, is padding.
    """
    size = len(ordered)
    found = []
    for low, high in product(_cuts(ordered, from_top=False), _cuts(ordered, from_top=True)):
        first, last = low.beyond, size - high.beyond
        if first < last:
            span = float(ordered[last - 1]) - float(ordered[first])
            if min(low.gap, high.gap) >= _GAP_OF_PADDING * span:
                found.append((span, first, last, low, high))
    for span, first, last, low, high in sorted(found):
        if last - first == size:
            break
        rest = ordered[first:last]
        if np.count_nonzero(rest[1:] != rest[:-1]) + 1 < _MIN_VALUES * max(1, low.levels, high.levels):
            continue
        below = values <= ordered[first - 1] if first else None
        above = values >= ordered[last] if last < size else None
        pads = _is_padding(low, below, span, rest, values), _is_padding(high, above, span, rest, values)
        if (below is None or pads[0] or _is_extreme(low, span, rest)) and (
            above is None or pads[1] or _is_extreme(high, span, rest, values)
        ):
            return first, last, *pads
    return 0, size, False, False


def _cuts(ordered: NDArray[Any], from_top: bool) -> list[_Cut]:
    """Where values may be set aside at one end."""
    size = len(ordered)
    found = [_NO_CUT]
    count = 0
    for levels in range(1, _MOST_PADDINGS + 1):
        if from_top:
            count = size - int(np.searchsorted(ordered, ordered[size - 1 - count], "left"))
        else:
            count = int(np.searchsorted(ordered, ordered[count], "right"))
        if count == size:
            break
        place = size - count if from_top else count
        gap = float(ordered[place]) - float(ordered[place - 1])
        found.append(_Cut(count, gap, levels, not from_top and ordered[place - 1] == 0))
    few = int(_MAX_METAL * size) + 1
    gaps = np.diff((ordered[: -few - 1 : -1] if from_top else ordered[:few]).astype(np.float64))
    gaps = np.abs(gaps, out=gaps)
    widest = np.argsort(gaps)[-_WIDEST:]
    found.extend(_Cut(int(place) + 1, float(gaps[place]), 0, False) for place in widest if gaps[place])
    found.extend(_noisy_padding(ordered, from_top))
    return found


def _noisy_padding(ordered: NDArray[Any], from_top: bool) -> list[_Cut]:
    """The cut at the widest gap of all, if what it sets aside lies close together."""
    gap, place = 0.0, 0
    for start in range(0, len(ordered) - 1, _PIECE):  # as a whole picture of doubles is large
        gaps = np.diff(ordered[start : start + _PIECE + 1].astype(np.float64))
        widest = int(np.argmax(gaps))
        if gaps[widest] > gap:
            gap, place = float(gaps[widest]), start + widest + 1
    beyond = ordered[place:] if from_top else ordered[:place]
    if not gap or float(beyond[-1]) - float(beyond[0]) > _MAX_SPREAD * gap:
        return []
    zero = not from_top and bool(beyond[0] <= 0 <= beyond[-1])
    return [_Cut(len(beyond), gap, 1, zero, noisy=True)]


def _is_padding(
    cut: _Cut, beyond: NDArray[np.bool_] | None, span: float, rest: NDArray[Any], picture: NDArray[Any]
) -> bool:
    if beyond is None or not cut.levels or (cut.zero and cut.gap < _GAP * span):
        return False
    if np.count_nonzero(beyond) <= _MAX_DEFECT * beyond.size:  # a hot pixel may lie at the rim
        return False
    if cut.noisy and _is_noise(rest, picture):  # then it is the ground of an object
        return False
    return bool(beyond[[0, -1]].any() or beyond[:, [0, -1]].any())


def _is_extreme(cut: _Cut, span: float, rest: NDArray[Any], picture: NDArray[Any] | None = None) -> bool:
    """Whether values are no data or defects; or metal in a picture, which is given for bright ones."""
    if cut.gap < _GAP * span or cut.beyond > _MAX_METAL * len(rest):
        return False
    if cut.beyond <= _MAX_DEFECT * len(rest):
        return True
    if picture is None:
        return cut.levels > 0
    return not _is_noise(rest, picture)


def _is_noise(rest: NDArray[Any], picture: NDArray[Any]) -> bool:
    """Whether what remains of a picture has no shapes."""
    kept = np.where((picture >= rest[0]) & (picture <= rest[-1]), picture, np.nan).astype(np.float32)
    return bool(np.nanmean(np.abs(np.diff(kept, axis=1))) > _MAX_ROUGHNESS * np.nanstd(kept))
