"""What a user would do without us: Otsu's threshold and k-means, each in a strong form, neither seeing the truth.

Both work on the image brought to 257 x 257 and blurred, within a field: the disc inside the field of view, or, where
the image's rim is empty (black or white, as around a body), what that surrounds. Pixels of the field are put into
classes. Those with a smaller share of the field's rim than of its area are the object, of which the connected region
with most central mass is kept, its holes filled.

Otsu's threshold (1979) is taken on the channel, of blue, green, red and grey, whose two classes differ most: by
variance between classes, his own criterion. In colours without a black frame, as in dermoscopy, it is taken on the blue
channel and the darker class is the object, whatever its share of the rim: that is stronger there. k-means (Lloyd 1982)
takes two or three classes of colour, whichever has the larger ratio of variances of Calinski & Harabasz (1974).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..frame import has_frame, is_coloured
from ..imaging import InputImage, network_input, resize_nearest
from ..morphology import best_part, centrality, field_of_view, rim_of
from .truth import Mask

SIDE = 257  # pixels of the square on which both work
BLUR = 2.0  # standard deviation, pixels of that square
DISC = 0.94  # radius, of half a side: corners and edges of a picture are often dark
BLACK, WHITE = 0.05, 0.95  # beyond these a pixel may be empty
EMPTY_RIM = 0.9  # share of the rim from which it is empty
FLAT = 1e-3  # on 0..1; values that differ by less are one
CLASS_COUNTS = (2, 3)  # of k-means
ROUNDS = 20  # of Lloyd's algorithm

Pixels = NDArray[np.floating]
Classes = NDArray[np.integer]


def baseline(name: str, image: InputImage) -> Mask:
    """The object by one of :data:`.evaluation.BASELINES`, bool (H, W); empty where there is one colour only."""
    from scipy.ndimage import gaussian_filter

    pixels = network_input(image, SIDE)
    field = _field(pixels)
    # Blurred inside the field alone, so that what is around does not shine in.
    weight = gaussian_filter(field.astype(np.float32), BLUR)[field]
    blurred = gaussian_filter(pixels * field, (0, BLUR, BLUR))[:, field] / weight
    classes = np.full(field.shape, -1)
    if name == "otsu" and is_coloured(pixels) and not has_frame(pixels):
        classes[field] = _otsu(blurred[:1].T)
        found = _central((classes == 0) & (len(np.unique(classes[field])) > 1))
    else:
        classes[field] = {"otsu": _otsu, "kmeans": _kmeans}[name](blurred.T)
        found = _off_rim(classes, field)
    return resize_nearest(found, image.height, image.width)


def _field(pixels: Pixels) -> Mask:
    """Where to look, bool (SIDE, SIDE), in an image (3, SIDE, SIDE)."""
    from skimage.filters import threshold_otsu

    brightness = pixels.mean(axis=0)
    field = field_of_view(brightness)
    rim = brightness[rim_of(field)]
    if ((rim < BLACK) | (rim > WHITE)).mean() > EMPTY_RIM and np.ptp(brightness[field]) > FLAT:
        above = (brightness > threshold_otsu(brightness[field])).astype(np.int64)
        within = _off_rim(np.where(field, above, -1), field)
        return within if within.any() else field
    rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    return field & (np.hypot(rows, columns) <= DISC)


def _otsu(colours: Pixels) -> Classes:
    """Two classes (n,), 0 the darker, by one channel of colours (n, C) or their mean."""
    from skimage.filters import threshold_otsu

    channels = [channel for channel in (*colours.T, colours.mean(axis=1)) if np.ptp(channel) > FLAT]
    splits = [(channel[:, None], (channel > threshold_otsu(channel)).astype(np.int64)) for channel in channels]
    return max(splits, key=lambda split: _between(*split))[1] if splits else np.zeros(len(colours), np.int64)


def _kmeans(colours: Pixels) -> Classes:
    """Two or three classes (n,) of colours (n, 3)."""
    from scipy.cluster.vq import kmeans2

    if np.ptp(colours, axis=0).max() <= FLAT:
        return np.zeros(len(colours), np.int64)
    by_brightness = colours[colours.mean(axis=1).argsort(kind="stable")]
    found = []
    for count in CLASS_COUNTS:
        # Parts of equal size from dark to bright: a start that is the same each time.
        start = np.stack([part.mean(axis=0) for part in np.array_split(by_brightness, count)])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty")  # then there are fewer
            found.append(kmeans2(colours, start, iter=ROUNDS, minit="matrix")[1])
    return max(found, key=lambda classes: _ratio(colours, classes))


def _between(values: Pixels, classes: Classes) -> float:
    """Variance between classes (n,) of values (n, d), summed over d."""
    groups = _groups(values, classes)
    centre = values.mean(axis=0)
    return sum(len(group) * float(((group.mean(axis=0) - centre) ** 2).sum()) for group in groups) / len(values)


def _ratio(values: Pixels, classes: Classes) -> float:
    """Variance between classes over that within, each by its degrees of freedom."""
    groups = _groups(values, classes)
    within = sum(float(((group - group.mean(axis=0)) ** 2).sum()) for group in groups) / len(values)
    if len(groups) == 1 or within == 0:
        return float("inf") if len(groups) > 1 else 0.0
    return _between(values, classes) / (len(groups) - 1) * (len(values) - len(groups)) / within


def _groups(values: Pixels, classes: Classes) -> Sequence[Pixels]:
    return [values[classes == each] for each in np.unique(classes)]


def _off_rim(classes: Classes, field: Mask) -> Mask:
    """The central region of what has little of the field's rim, its holes filled; class -1 is outside the field."""
    count = int(classes.max()) + 1
    on_rim, area = (np.bincount(classes[where], minlength=count) for where in (rim_of(field), field))
    inner = on_rim * area.sum() < area * on_rim.sum()
    return _central(inner[classes] & field)


def _central(region: Mask) -> Mask:
    return best_part(region.astype(np.int64), centrality(region.shape))
