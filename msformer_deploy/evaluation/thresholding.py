"""Otsu's threshold (1979) in a strong form: on the channel whose classes differ most, in a field, off its rim.

The image is blurred within a field: the disc inside the field of view, or, where the image's rim is empty (black or
white, as around a body), what that surrounds. The channel, of blue, green, red and grey, is the one whose two classes
differ most: by variance between classes, his own criterion. A class with a smaller share of the field's rim than of its
area is the object, of which the connected region with most central mass is kept, its holes filled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..foreground.morphology import best_part, centrality, field_of_view, rim_of

BLUR = 2 / 257  # standard deviation, of the image's side
DISC = 0.94  # radius, of half a side: corners and edges of a picture are often dark
BLACK, WHITE = 0.05, 0.95  # beyond these a pixel may be empty
EMPTY_RIM = 0.9  # share of the rim from which it is empty
FLAT = 1e-3  # on 0..1; values that differ by less are one

Pixels = NDArray[np.floating]
Classes = NDArray[np.integer]
Mask = NDArray[np.bool_]


def by_threshold(image: Pixels) -> Mask:
    """The object, bool (S, S), of an image (3, S, S) in 0..1, BGR; empty where there is one colour only."""
    field, colours = field_of(image)
    classes = np.full(field.shape, -1)
    classes[field] = two_classes(colours)
    return off_rim(classes, field)


def field_of(image: Pixels) -> tuple[Mask, Pixels]:
    """Where to look, bool (S, S), in an image (3, S, S), and the blurred colours (n, 3) there."""
    from scipy.ndimage import gaussian_filter

    field, blur = _field(image), BLUR * image.shape[1]
    # Blurred inside the field alone, so that what is around does not shine in.
    weight = gaussian_filter(field.astype(np.float32), blur)[field]
    return field, (gaussian_filter(image * field, (0, blur, blur))[:, field] / weight).T


def two_classes(colours: Pixels) -> Classes:
    """Two classes (n,), 0 the darker, by one channel of colours (n, C) or their mean."""
    from skimage.filters import threshold_otsu

    channels = [channel for channel in (*colours.T, colours.mean(axis=1)) if np.ptp(channel) > FLAT]
    splits = [(channel[:, None], (channel > threshold_otsu(channel)).astype(np.int64)) for channel in channels]
    return max(splits, key=lambda split: between(*split))[1] if splits else np.zeros(len(colours), np.int64)


def between(values: Pixels, classes: Classes) -> float:
    """Variance between classes (n,) of values (n, d), summed over d."""
    centre = values.mean(axis=0)
    spread = (len(each) * float(((each.mean(axis=0) - centre) ** 2).sum()) for each in groups(values, classes))
    return sum(spread) / len(values)


def groups(values: Pixels, classes: Classes) -> Sequence[Pixels]:
    """Values (n, d) by class."""
    return [values[classes == each] for each in np.unique(classes)]


def off_rim(classes: Classes, field: Mask) -> Mask:
    """The central region of what has little of the field's rim, its holes filled; class -1 is outside the field."""
    count = int(classes.max()) + 1
    on_rim, area = (np.bincount(classes[where], minlength=count) for where in (rim_of(field), field))
    inner = on_rim * area.sum() < area * on_rim.sum()
    return central(inner[classes] & field)


def central(region: Mask) -> Mask:
    """The connected part of a region (S, S) with most central mass, its holes filled."""
    return best_part(region.astype(np.int64), centrality(region.shape))


def _field(image: Pixels) -> Mask:
    from skimage.filters import threshold_otsu

    brightness = image.mean(axis=0)
    field = field_of_view(brightness)
    rim = brightness[rim_of(field)]
    if ((rim < BLACK) | (rim > WHITE)).mean() > EMPTY_RIM and np.ptp(brightness[field]) > FLAT:
        above = (brightness > threshold_otsu(brightness[field])).astype(np.int64)
        within = off_rim(np.where(field, above, -1), field)
        return within if within.any() else field
    side = len(field)
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return field & (np.hypot(rows, columns) <= DISC)
