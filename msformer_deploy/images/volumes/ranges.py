"""The two intensities of a volume that become black and white in all of its slices.

The rules for what does not count are those of deep pictures, :func:`..intensities.find_range`: padding, values for
missing data, defects and metal. They are applied to a sample of whole slices, because a volume may be larger than
memory. The range is then cut to 0.5 and 99.5 % of what counts, because MR has few bright values far from all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, UsageError
from .. import intensities
from ..image import NO_WINDOW
from ..windows import exact
from .stored import StoredVolume

PLAIN = "every voxel has the same value; there is nothing to segment"
_SAMPLE = 1 << 22  # voxels
_SLICES = 16  # at least, if there are so many: those at the ends may show no patient
_CUT = 0.5  # per cent at either end
_MIN_INSIDE = 0.5  # share of the voxels within the file's own range, which must not be an earlier one's
_MIN_FILLED = 0.125  # share of that range that the voxels fill


def find_span(
    volume: StoredVolume, window: tuple[float, float] | None, name: str
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Return the two intensities that become 0 and 1, and notes.

    The first of these that there is: the window; 0 and 255 for colour, and for 8 bits without slope or intercept; the
    range that the file names, if at least half of the voxels lie in it and fill an eighth of it; what the module says.

    Args:
        volume: whose range is wanted.
        window: centre and width, in intensities.
        name: what messages call it.

    Raises:
        ImageError: all voxels have one value, none is finite, or they are too large to distinguish.
        UsageError: the window is not finite, or its width is not positive.
    """
    voxels = volume.voxels
    if window is not None and not (np.isfinite(window).all() and window[1] > 0):
        raise UsageError(f"{name}: a window of centre {window[0]:g} and width {window[1]:g}; give a width above 0")
    notes: tuple[str, ...] = ()
    low, high, missing = _extent(voxels) if voxels.dtype.kind == "f" else (0.0, 1.0, 0)
    if missing == voxels.size:
        raise ImageError(f"{name}: every voxel is NaN or infinite; there is nothing to segment")
    if missing:
        notes = (f"{missing} of {voxels.size} voxels are NaN or infinite: left out of the intensity range and black",)
    if voxels.ndim == 4:
        if is_plain(voxels):
            raise ImageError(f"{name}: {PLAIN}")
        return (0.0, 255.0), notes if window is None else (*notes, NO_WINDOW)
    sample = _sample(voxels)
    if sample.min() == sample.max():
        low, high, _ = _extent(voxels)
    if low == high:
        raise ImageError(f"{name}: {PLAIN}")
    if window is not None:
        span = exact(window)
        _check_shows(volume, span, sample, name)
        return span, notes
    if voxels.dtype == np.uint8 and (volume.slope, volume.intercept) == (1, 0):
        return (0.0, 255.0), notes
    span, said = _robust(volume, sample, (low, high), name)
    return span, (*notes, *said)


def is_plain(voxels: NDArray[Any]) -> bool:
    """Whether all voxels have one value or one colour; slice by slice, because the first one mostly answers it."""
    return all((each == voxels[0, 0, 0]).all() for each in voxels)


def _check_shows(volume: StoredVolume, span: tuple[float, float], sample: NDArray[Any], name: str) -> None:
    """Check that not all voxels lie beyond the same end of a window; a sample mostly answers it."""

    def shows(low: float, high: float) -> bool:
        first, last = _in_intensities(volume, low, high)
        return last > span[0] and first < span[1]

    finite = sample[np.isfinite(sample)]
    if finite.size and shows(float(finite.min()), float(finite.max())):
        return
    if not shows(*_extent(volume.voxels)[:2]):
        raise ImageError(
            f"{name}: every voxel lies beyond the window from {span[0]:g} to {span[1]:g}; choose another window"
        )


def _extent(voxels: NDArray[Any]) -> tuple[float, float, int]:
    """The smallest and the largest finite value, and how many are not finite; slice by slice."""
    low, high, missing = np.inf, -np.inf, 0
    for each in voxels:
        finite = each[np.isfinite(each)]
        missing += each.size - finite.size
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return low, high, missing


def _sample(voxels: NDArray[Any]) -> NDArray[Any]:
    """Evenly spaced slices below each other, (rows, columns); rows are whole, because noise is judged along them."""
    slices, rows, columns = voxels.shape[:3]
    count = min(slices, max(_SLICES, _SAMPLE // (rows * columns)))
    step = min(rows, -(-count * rows * columns // _SAMPLE))
    chosen = (2 * np.arange(count) + 1) * slices // (2 * count)
    return np.concatenate([voxels[each, step // 2 :: step] for each in chosen])


def _robust(
    volume: StoredVolume, sample: NDArray[Any], extent: tuple[float, float], name: str
) -> tuple[tuple[float, float], tuple[str, ...]]:
    finite = np.isfinite(sample)
    if not finite.any() or np.ptp(sample[finite]) == 0:  # the sample missed all that differs
        low, high, _ = _extent(volume.voxels)
        return _in_intensities(volume, low, high), ()
    filled = sample if finite.all() else np.where(finite, sample, sample[finite].min())
    ignored = intensities.find_range(filled, name).ignored
    counts = finite
    for each in ignored:
        counts &= (sample < each.low) | (sample > each.high)
    counted = sample[counts]
    if volume.shown is not None:
        values = np.sort(counted.astype(np.float64) * volume.slope + volume.intercept)
        first, last = volume.shown
        inside = values[np.searchsorted(values, first) : np.searchsorted(values, last, "right")]
        if inside.size >= _MIN_INSIDE * values.size and np.ptp(inside) >= _MIN_FILLED * (last - first):
            return volume.shown, (
                f"intensities from {first:.6g} to {last:.6g} become black to white: the file says so",
            )
    low, high = map(float, np.percentile(counted, (_CUT, 100 - _CUT)))
    if not low < high:
        low, high = float(counted.min()), float(counted.max())
    span = _in_intensities(volume, low, high)
    if not np.isfinite(span[1] - span[0]) or span[0] == span[1]:
        raise ImageError(f"{name}: its values are too large to distinguish; subtract the smallest one first")
    notes = [_left_out(volume, each) for each in ignored]
    if ignored or counted.min() < low or counted.max() > high:
        notes.append(f"intensities from {span[0]:.6g} to {span[1]:.6g} become black to white; those beyond are cut off")
    return span, tuple(notes)


def _in_intensities(volume: StoredVolume, low: float, high: float) -> tuple[float, float]:
    with np.errstate(over="ignore"):
        first, last = sorted(float(each * volume.slope + volume.intercept) for each in (low, high))
    return first, last


def _left_out(volume: StoredVolume, each: intensities.Ignored) -> str:
    first, last = _in_intensities(volume, each.low, each.high)
    value = f"{first:.6g}" if first == last else f"{first:.6g} to {last:.6g}"
    why = "taken for padding" if each.padding else "far from all others"
    return f"voxels of {value} left out of the intensity range: {why}"
