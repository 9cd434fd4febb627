"""A volume from the slices of a series, or from the frames of one object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, UsageError, printable
from ...registry import Axis
from .. import intensities
from ..image import MIN_SIDE, NO_WINDOW
from ..sources import DicomSource
from ..space import Arrangement, Spacing, arrangement
from ..volume import Volume
from ..volumes.ranges import PLAIN, is_plain
from ..volumes.stored import sheared
from .frames import groups_of
from .geometry import SlicePlace, Stack, stack
from .greys import Padding, Rescale, Shades, padding_of, rescale_of, shades_of
from .opened import Layout, Opened, Stamp, listed, opened
from .spacing import find_spacing
from .values import numbers, word

_SAMPLED = 32  # slices that decide the range
_FULL = 65535  # of shades that are kept as voxels
NOT_IN_SPACE = "its frames are no slices that lie beside each other, so no volume is measured"


@dataclass(frozen=True)
class _Slice:
    """What the header says of a slice."""

    path: Path
    frame: int | None
    stamp: Stamp
    layout: Layout
    place: SlicePlace
    rescale: Rescale
    shades: Shades | None
    padding: Padding | None


def read_volume(
    files: Sequence[Path],
    window: tuple[float, float] | None = None,
    axis: Axis | None = None,
    name: str | None = None,
) -> Volume:
    """Read a volume.

    Its slices are in order along their normal. Voxels keep their stored type if one rescale holds for all slices, and
    become float32 intensities otherwise, as in PET. One window holds for all slices: the one asked for, else the one
    that most slices have, else a range found on up to 32 of them. If that is a VOI LUT or the function SIGMOID, voxels
    are the shades that it gives, 0 to 65535. Colours are RGB, uint8.

    One slice is decoded at a time, into one array: memory is that of the voxels and of one compressed object.

    Args:
        files: all files of a series in any order, or one object of several frames.
        window: centre and width of the intensities that become 0 and 1.
        axis: normal to the slices of the volume; None keeps slices as they are stored.
        name: what messages call it; the folder of the files, or the only file, by default.

    Raises:
        ImageError: a file cannot be read, or slices do not fit each other; the message names files.
        UsageError: ``axis`` is given, and positions in the patient are not known, or are all one.
        OSError: the system cannot read a file.
    """
    if name is None:
        name = printable(files[0] if len(files) == 1 else files[0].parent) if files else "volume"
    if not files:
        raise ImageError(f"{name}: has no slices; check the folder")
    slices, notes = _headers(files, window)
    if len({each.layout.colour for each in slices}) > 1:
        raise ImageError(f"{name}: some slices are in colour and others grey; move one kind to another folder")
    found = stack([each.place for each in slices], name, one_object=len(files) == 1)
    if axis is not None and not found.placed:
        raise UsageError(
            f"{name}: its frames have no positions in the patient, so it has no {axis} plane; leave --axis out"
        )
    if axis is not None and not found.in_space:
        raise UsageError(
            f"{name}: its frames show one place at several times, so it has no {axis} slices; leave --axis out"
        )
    if not found.in_space:
        notes = (*notes, NOT_IN_SPACE)
    slices = [slices[index] for index in found.order]
    layout = slices[0].layout
    if min(layout.rows, layout.columns) < MIN_SIDE:
        raise ImageError(
            f"{name}: slices of {layout.columns} x {layout.rows} pixels are too small to segment; at least"
            f" {MIN_SIDE} x {MIN_SIDE} is needed"
        )
    stamps = {each.path: each.stamp.file for each in slices}
    source = DicomSource(tuple(each.path for each in slices), tuple(each.frame for each in slices), stamps)
    if layout.colour:
        voxels = np.empty((len(slices), layout.rows, layout.columns, 3), np.uint8)
        for index, pixels in _decoded(slices):
            voxels[index] = pixels
        if is_plain(voxels):
            raise ImageError(f"{name}: {PLAIN}")
        if window is not None:
            notes = (*notes, NO_WINDOW)
        span = (0.0, 255.0)
        volume = Volume(voxels, name, found.affine, found.spacing, found.thickness, span, source, notes=notes)
    else:
        volume = _grey(slices, found, name, source, notes)
    return _arranged(replace(volume, placed=found.placed, in_space=found.in_space), axis)


def place_of(path: Path) -> Stack | None:
    """Where the first frame of an object is in the patient; None if its header does not say it.

    Raises:
        ImageError: it is no image, or is damaged.
        OSError: the system cannot read it.
    """
    with opened(path) as found:
        each, _ = _slice(found, path, 0, None)
    known = each.place.position and each.place.orientation and each.place.spacing is not None
    return stack([each.place], printable(path), one_object=True) if known else None


def _headers(files: Sequence[Path], window: tuple[float, float] | None) -> tuple[list[_Slice], tuple[str, ...]]:
    slices: list[_Slice] = []
    notes: dict[str, None] = {}
    for path in files:
        with opened(path) as found:
            for frame in range(found.layout.frames):
                each, remarks = _slice(found, path, frame, window)
                slices.append(each)
                notes.update(dict.fromkeys(remarks))
    return slices, tuple(notes)


def _slice(found: Opened, path: Path, frame: int, window: tuple[float, float] | None) -> tuple[_Slice, tuple[str, ...]]:
    layout, header = found.layout, found.header
    groups = groups_of(header, frame)
    spacing, notes = find_spacing(header, groups.measures)
    label = printable(path.name) if layout.frames == 1 else f"frame {frame + 1}"
    place = SlicePlace(
        label,
        layout.rows,
        layout.columns,
        numbers(groups.position, "ImagePositionPatient"),
        numbers(groups.orientation, "ImageOrientationPatient"),
        spacing,
        *(word(header, each) for each in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")),
    )
    name = printable(path)
    rescale = rescale_of(groups.transformation, name)
    shades = None if layout.colour else shades_of(groups.voi, name, window)
    padding = None if layout.colour else padding_of(header, layout.signed, layout.allocated)
    number = None if layout.frames == 1 else frame + 1
    return _Slice(path, number, found.stamp(), layout, place, rescale, shades, padding), notes


def _decoded(slices: Sequence[_Slice]) -> Iterator[tuple[int, NDArray[Any]]]:
    """The pixels of all slices, in the order of the files, with their places in the volume."""
    places: dict[Path, dict[int, int]] = {}
    for index, each in enumerate(slices):
        places.setdefault(each.path, {})[(each.frame or 1) - 1] = index
    for path, frames in places.items():
        with opened(path) as found:
            before = slices[next(iter(frames.values()))].stamp
            _check_same(before, found, path)
            for frame, pixels in enumerate(found.frames()):
                yield frames[frame], pixels
            _check_same(before, found, path)


def _check_same(before: Stamp, found: Opened, path: Path) -> None:
    if found.stamp() != before:
        raise ImageError(f"{printable(path)}: has changed while it was read; wait until it is complete")


def _grey(slices: Sequence[_Slice], found: Stack, name: str, source: DicomSource, notes: tuple[str, ...]) -> Volume:
    layout = slices[0].layout
    others = [each.place.label for each in slices if each.layout.inverted != layout.inverted]
    if others:
        raise ImageError(
            f"{name}: low values are white in some slices and black in others: {listed(others)}; move them to another"
            " folder"
        )
    shades, remark = _one_window(slices)
    notes = (*notes, *remark)
    lines = {each.rescale.line for each in slices}
    types = {(each.layout.allocated, each.layout.signed) for each in slices}
    line = next(iter(lines)) if len(lines) == 1 else None
    inverted = layout.inverted
    voxels: NDArray[Any] | None = None
    shape = (len(slices), layout.rows, layout.columns)
    shaded = shades is not None and not shades.linear
    kept = line is not None and len(types) == 1 and not shaded
    padded: dict[int, NDArray[np.uint8]] = {}
    for index, pixels in _decoded(slices):
        each = slices[index]
        if voxels is None:
            voxels = np.empty(shape, np.uint16 if shaded else pixels.dtype if kept else np.float32)
        where = None if each.padding is None else each.padding.find(pixels)
        if where is not None and where.any():
            padded[index] = np.packbits(where)  # an eighth of a byte a voxel
        if shaded and shades is not None:
            voxels[index] = np.rint(shades.apply(each.rescale.apply(pixels)) * _FULL)
        elif kept:
            voxels[index] = pixels
        else:
            voxels[index] = each.rescale.apply(pixels)
    assert voxels is not None  # there is at least one slice
    slope, intercept = line if kept and line is not None else (1.0, 0.0)
    volume = Volume(
        voxels,
        name,
        found.affine,
        found.spacing,
        found.thickness,
        (0.0, float(_FULL)),
        source,
        slope,
        intercept,
        inverted,
        notes=notes,
    )
    darkest, lightest = _extent(volume, padded)
    if shaded:
        volume = replace(volume, notes=(*notes, "voxels are the shades of its look-up table or function SIGMOID"))
    else:
        volume = _with_span(volume, padded, shades, (darkest, lightest))
    return _with_black_padding(volume, padded)


def _one_window(slices: Sequence[_Slice]) -> tuple[Shades | None, tuple[str, ...]]:
    """The window or table that most slices have, and a note if there are several."""
    counts = Counter(None if each.shades is None else each.shades.key() for each in slices)
    key, count = counts.most_common(1)[0]
    chosen = next(each.shades for each in slices if (None if each.shades is None else each.shades.key()) == key)
    if len(counts) == 1:
        return chosen, ()
    return chosen, (f"its slices have {len(counts)} windows; that of {count} of {len(slices)} is used for all",)


def _extent(volume: Volume, padded: dict[int, NDArray[np.uint8]]) -> tuple[float, float]:
    """The lowest and the highest finite voxel that is no padding; slice by slice.

    Raises:
        ImageError: there is none, or they are equal.
    """
    low, high = np.inf, -np.inf
    for index, plane in enumerate(volume.voxels):
        values = plane[~_where(padded, index, plane.shape)] if index in padded else plane
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:
        what = "padding" if padded else "NaN or infinite"
        raise ImageError(f"{volume.name}: every voxel is {what}; there is nothing to segment")
    if low == high:
        raise ImageError(f"{volume.name}: {PLAIN}")
    return low, high


def _with_span(
    volume: Volume,
    padded: dict[int, NDArray[np.uint8]],
    shades: Shades | None,
    extent: tuple[float, float],
) -> Volume:
    """The volume with the two intensities that become 0 and 1.

    Args:
        volume: without them.
        padded: where padding is, by slice.
        shades: the window, if there is one.
        extent: what :func:`_extent` gives.
    """
    ends = sorted(volume.slope * each + volume.intercept for each in extent)
    if shades is not None:
        if max(ends) <= shades.low or min(ends) >= shades.high:
            raise ImageError(f"{volume.name}: all voxels lie beyond the window; choose another --window")
        return replace(volume, span=(shades.low, shades.high))
    if volume.voxels.dtype == np.uint8 and (volume.slope, volume.intercept) == (1.0, 0.0):
        return replace(volume, span=(0.0, 255.0))
    shape = volume.shape[1:]
    filled = [index for index in range(len(volume)) if not _where(padded, index, shape).all()]
    chosen = [filled[each] for each in np.linspace(0, len(filled) - 1, min(_SAMPLED, len(filled))).round().astype(int)]
    sample = volume.voxels[chosen]
    outside = np.stack([_where(padded, index, shape) for index in chosen])
    if outside.any():
        sample[outside] = sample[~outside].min()
    if sample.min() == sample.max():  # all that differs is in other slices
        return replace(volume, span=(ends[0], ends[1]))
    plane = Rescale(volume.slope, volume.intercept).apply(sample.reshape(-1, sample.shape[2]))
    span = intensities.find_range(plane, volume.name)
    return replace(volume, span=(span.low, span.high), notes=(*volume.notes, *map(str, span.ignored)))


def _with_black_padding(volume: Volume, padded: dict[int, NDArray[np.uint8]]) -> Volume:
    """Make padding black where the span would not: it takes the voxel value nearest to black, in place."""
    if not padded:
        return volume
    black = volume.span[1] if volume.inverted else volume.span[0]
    value = (black - volume.intercept) / volume.slope
    voxels = volume.voxels
    if voxels.dtype.kind in "iu":
        limits = np.iinfo(voxels.dtype)
        up = volume.inverted == (volume.slope > 0)
        value = min(max(np.ceil(value) if up else np.floor(value), limits.min), limits.max)
    for index in padded:
        voxels[index][_where(padded, index, voxels.shape[1:])] = value
    return volume


def _where(padded: dict[int, NDArray[np.uint8]], index: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if index not in padded:
        return np.zeros(shape, bool)
    return np.unpackbits(padded[index], count=int(np.prod(shape))).reshape(shape).astype(bool)


def _arranged(volume: Volume, axis: Axis | None) -> Volume:
    """The volume in slices normal to ``axis``."""
    if axis is None:
        return volume
    turn: Arrangement = arrangement(volume.affine, axis)
    affine = turn.affine(volume.affine, volume.shape)
    if turn.order[0] != 0 and any(sheared(affine)):
        raise ImageError(
            f"{volume.name}: its slices are tilted against their direction, so it has no {axis} slices; omit --axis or"
            " resample it"
        )
    spacing, thickness = volume.spacing, volume.thickness
    if turn.order[0] != 0:
        across, down, along = np.linalg.norm(affine[:3, :3], axis=0)
        known = volume.thickness is not None
        origin = spacing.origin if spacing is not None else ""
        spacing = Spacing(float(down), float(across), origin) if known and spacing is not None else None
        thickness = float(along)
    elif turn.order != (0, 1, 2) and spacing is not None:
        spacing = Spacing(spacing.column, spacing.row, spacing.origin)
    return replace(
        volume,
        voxels=turn.apply(volume.voxels),
        affine=affine,
        spacing=spacing,
        thickness=thickness,
        arrangement=turn,
    )
