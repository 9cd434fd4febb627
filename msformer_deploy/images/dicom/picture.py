"""A picture from an object of one frame: what a viewer shows of it is what is segmented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, printable
from ..decoders.stored import Stored
from ..image import NO_WINDOW, InputImage, check_size, of_stored, of_unit
from ..intensities import Ignored
from ..sources import DicomSource
from .frames import groups_of
from .greys import Shades, padding_of, rescale_of, shades_of
from .opened import opened
from .spacing import find_spacing

if TYPE_CHECKING:
    from .greys import Rescale


def read_picture(path: Path, window: tuple[float, float] | None = None) -> InputImage:
    """Read the first frame of an object.

    Grey passes through the modality LUT, then through ``window``, else through the VOI LUT or first window of the
    header; without any of them its range is found as that of other deep images. Low values of MONOCHROME1 are white.
    Padding does not count for the range and is black. Colours become 8-bit RGB.

    Args:
        path: the file.
        window: centre and width of the intensities that become 0..1.

    Raises:
        ImageError: it is no image, is damaged, cannot be decoded, is too large or too small, or has one value.
        OSError: the system cannot read it.
    """
    with opened(path) as found:
        name, layout, stamp = printable(path), found.layout, found.stamp()
        pixels = next(found.frames())
        groups = groups_of(found.header, 0)
        spacing, notes = find_spacing(found.header, groups.measures)
        rescale = rescale_of(groups.transformation, name)
        shades = None if layout.colour else shades_of(groups.voi, name, window)
        padding = None if layout.colour else padding_of(found.header, layout.signed, layout.allocated)
    if layout.frames > 1:
        notes = (*notes, f"only frame 1 of {layout.frames} is used")
    if layout.colour:
        image = of_stored(Stored(pixels, notes), name)
        if window is not None:
            image = replace(image, notes=(*image.notes, NO_WINDOW))
    else:
        padded = None if padding is None else padding.find(pixels)
        if padded is not None and padded.all():
            raise ImageError(f"{name}: every pixel is padding; there is nothing to segment")
        image = _grey(pixels, rescale, shades, padded, layout.inverted, name, notes)
    source = DicomSource((path,), (1 if layout.frames > 1 else None,), {path: stamp.file})
    return replace(image, spacing=spacing, source=source)


def _grey(
    stored: NDArray[Any],
    rescale: Rescale,
    shades: Shades | None,
    padded: NDArray[np.bool_] | None,
    inverted: bool,
    name: str,
    notes: tuple[str, ...],
) -> InputImage:
    values = rescale.apply(stored)
    ignored: tuple[Ignored, ...] = ()
    check_size(values, name)
    if padded is not None and padded.any():
        beyond, rest = values[padded], values[~padded]
        side = "low" if beyond.min() < rest.min() else "high"
        ignored = (Ignored(float(beyond.min()), float(beyond.max()), int(padded.sum()), side, padding=True),)
        values = np.where(padded, rest.max() if inverted else rest.min(), values)
    if shades is not None:
        image = of_unit(shades.apply(values), (shades.low, shades.high), name, notes, inverted)
    elif values.dtype == np.uint8 and inverted:
        image = of_stored(Stored(255 - values, notes), name)
    else:
        image = of_stored(Stored(values, notes, white_is_zero=inverted), name)
    if not ignored:
        return image
    pixels = image.pixels.copy()
    pixels[padded] = 0
    return replace(
        image,
        pixels=pixels,
        notes=(*image.notes, *map(str, ignored)),
        ignored=(*image.ignored, *ignored),
    )
