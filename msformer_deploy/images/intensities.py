"""The intensities of a deep picture that become black and white.

The bulk of the values decides, not a few values far from it. A scanner writes one value outside of its field of view,
programs write one value for missing data, and metal and defective pixels are many times brighter than everything else.
Scaled from minimum to maximum, the object would be one shade of grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError

_BIT_DEPTHS = (8, 10, 12, 14, 16)  # depths of cameras and scanners
_FEW_BITS = 3  # a picture whose span needs this many bits less than its depth has an offset

_MAX_PADDINGS = 4  # distinct values for missing data
_MAX_METAL = 0.08  # share of the remaining pixels; also the limit for missing data within the picture
_MAX_DEFECT = 0.001  # share of the remaining pixels: defects are too few to be an object
_GAP_OF_PADDING, _GAP = 0.25, 1.0  # in spans of the remaining values
_MIN_VALUES = 8  # distinct remaining values for each padding value, else all are levels of a picture with few levels
_MAX_SPREAD = 0.02  # spread of noisy padding, in widths of the gap
_MAX_ROUGHNESS = 0.5  # roughness of the remaining pixels, in standard deviations; white noise has 1.1
_PIECE = 1 << 20  # values that are processed together
_WIDEST = 8  # number of widest gaps that are examined on either side


@dataclass(frozen=True)
class Ignored:
    """Pixels that do not count for the range. Padding and pixels below the range are black, those above it white.

    Attributes:
        low: their smallest value; NaN for NaN and infinite pixels.
        high: their largest value; NaN for NaN and infinite pixels.
        pixels: number of pixels.
        side: ``low`` or ``high``.
        padding: whether they are padding: a few values that reach the rim, or NaN and infinite pixels.
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
        """Return plain data for JSON. NaN and infinity are strings, because JSON has no such numbers."""
        low, high = (each if np.isfinite(each) else str(each) for each in (self.low, self.high))
        return {"side": self.side, "low": low, "high": high, "pixels": self.pixels, "padding": self.padding}


@dataclass(frozen=True)
class Range:
    """The intensities that become 0 and 1, and the pixels that did not count for them."""

    low: float
    high: float
    ignored: tuple[Ignored, ...] = ()


def find_range(values: NDArray[Any], name: str) -> Range:
    """Find the range of a deep picture, (H, W) or (H, W, C).

    Values at the low or high end are set aside if a gap separates them from the remaining values. The gap is measured
    in spans: one span is from the minimum to the maximum of the remaining values.

    - padding: up to four distinct values, more than 0.1 % of the pixels, some of them at the picture's rim. The minimum
      gap is a quarter of a span; if the padding is 0, which may be ordinary black, it is a span.
    - missing data within the picture: up to four distinct values, at most 8 % of the remaining pixels; a gap of a span.
    - defective pixels: at most 0.1 % of the remaining pixels; a gap of a span.
    - metal: the brightest pixels, at most 8 % of the remaining pixels, which must be more than noise; a gap of a span.

    There must be at least eight distinct remaining values for each value of padding.

    The remaining values decide the range. Floats within 0..1 keep 0..1. Whole numbers without negative values have the
    range from 0 to the largest value of 8, 10, 12, 14 or 16 bits, the smallest depth that holds them; if they fill less
    than an eighth of it, from their minimum to their maximum. All other values have the range from minimum to maximum.
    NaN and infinite values are set aside if they are connected with the rim.

    Raises:
        ImageError: NaN or infinite pixels are not connected with the rim, all other pixels have the same value, or the
            values are so large that they are equal as doubles.
    """
    ignored: list[Ignored] = []
    finite = np.isfinite(values) if values.dtype.kind == "f" else None
    if finite is not None and not finite.all():
        ignored.extend(_no_numbers(values, finite, name))
        ordered = _sorted(values[finite])
        if ordered[0] == ordered[-1]:
            raise ImageError(f"{name}: every finite pixel has the same value; there is nothing to segment")
    elif values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        return Range(0.0, 1.0)
    else:
        ordered = _sorted(values)
    first, last, *paddings = _bulk(ordered, values)
    low, high = float(ordered[first]), float(ordered[last - 1])
    if low == high and ordered[first] != ordered[last - 1]:
        raise ImageError(f"{name}: its values are too large to distinguish; subtract the smallest one first")
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
    """The largest value of the smallest usual depth that holds a whole number of up to 16 bits."""
    return next(2**depth for depth in _BIT_DEPTHS if value < 2**depth) - 1


def scaled(values: NDArray[Any], span: Range, black: int = 0) -> NDArray[np.float32]:
    """Scale intensities to 0..1; values beyond the range become 0 or 1, padding becomes ``black``."""
    found = np.empty(values.shape, np.float32)
    paddings = [each for each in span.ignored if each.padding]
    for row, target in zip(values, found, strict=True):  # by rows, because a whole picture of doubles is large
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
    # NumPy's stable sort of 16 bits is a radix sort, six times as fast as its default sort.
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
    """Set NaN and infinite pixels aside; they must be connected with the rim."""
    import cc3d

    bad = ~finite if finite.ndim == 2 else ~finite.all(axis=2)
    around = np.pad(bad, 1, constant_values=True)  # connects all that reach the rim
    if cc3d.connected_components(around, connectivity=4, return_N=True)[1] > 1 or bad.all():
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
    """A gap at one end of the sorted values; the values beyond it may be set aside."""

    beyond: int  # values
    gap: float
    levels: int  # number of distinct values beyond, up to _MAX_PADDINGS; 0 for more
    zero: bool  # the last of them is 0, and they are the smallest values
    noisy: bool = False  # one value with noise


_NO_CUT = _Cut(0, np.inf, 0, False)


def _bulk(ordered: NDArray[Any], values: NDArray[Any]) -> tuple[int, int, bool, bool]:
    """Return the part of the sorted values that decides the range, and whether the rest is padding.

    Returns:
        index of the first value, index after the last value, whether the values below and those above are padding.
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
    """The gaps at one end beyond which values may be set aside."""
    size = len(ordered)
    found = [_NO_CUT]
    count = 0
    for levels in range(1, _MAX_PADDINGS + 1):
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
    """The cut at the widest gap, if the values beyond it lie close together."""
    gap, place = 0.0, 0
    for start in range(0, len(ordered) - 1, _PIECE):  # in pieces, because a whole picture of doubles is large
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
    if np.count_nonzero(beyond) <= _MAX_DEFECT * beyond.size:  # a defective pixel may lie at the rim
        return False
    if cut.noisy and _is_noise(rest, picture):  # then the values are the background of an object
        return False
    return bool(beyond[[0, -1]].any() or beyond[:, [0, -1]].any())


def _is_extreme(cut: _Cut, span: float, rest: NDArray[Any], picture: NDArray[Any] | None = None) -> bool:
    """Whether values are missing data or defects, or metal; for metal, ``picture`` is given."""
    if cut.gap < _GAP * span or cut.beyond > _MAX_METAL * len(rest):
        return False
    if cut.beyond <= _MAX_DEFECT * len(rest):
        return True
    if picture is None:
        return cut.levels > 0
    return not _is_noise(rest, picture)


def _is_noise(rest: NDArray[Any], picture: NDArray[Any]) -> bool:
    """Whether the remaining values of a picture are noise without shapes."""
    kept = np.where((picture >= rest[0]) & (picture <= rest[-1]), picture, np.nan).astype(np.float32)
    return bool(np.nanmean(np.abs(np.diff(kept, axis=1))) > _MAX_ROUGHNESS * np.nanstd(kept))
