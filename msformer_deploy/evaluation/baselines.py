"""What a user would do without us: Otsu's threshold and k-means, each in a strong form, neither seeing the truth.

Both work on the image brought to 257 x 257, as :mod:`.thresholding` does: blurred within a field, whose pixels are put
into classes, of which what is rarer on the field's rim is the object. In colours, unless there is a black frame around
those of mucosa (:mod:`.mucosa`), Otsu's threshold is taken on the blue channel and the darker class is the object,
whatever its share of the rim: that is stronger in dermoscopy. k-means (Lloyd 1982) takes two or three classes of
colour, whichever has the larger ratio of variances of Calinski & Harabasz (1974).
"""

from __future__ import annotations

import warnings

import numpy as np

from ..foreground.view import View
from ..images.read import InputImage, network_input, resize_nearest
from ..images.truth import Mask
from .mucosa import is_mucosa
from .thresholding import (
    FLAT,
    Classes,
    Pixels,
    between,
    by_threshold,
    central,
    field_of,
    groups,
    off_rim,
    two_classes,
)

SIDE = 257  # pixels of the square on which both work
CLASS_COUNTS = (2, 3)  # of k-means
ROUNDS = 20  # of Lloyd's algorithm


def baseline(name: str, image: InputImage) -> Mask:
    """The object by one of :data:`.evaluation.BASELINES`, bool (H, W); empty where there is one colour only."""
    found = {"otsu": _otsu, "kmeans": _by_colour}[name](View(network_input(image, SIDE)))
    return resize_nearest(found, image.height, image.width)


def _otsu(view: View) -> Mask:
    if not view.coloured:
        return by_threshold(view.square)
    field, colours = field_of(view.square)
    darker = np.zeros(field.shape, bool)
    classes = two_classes(colours[:, :1])
    darker[field] = (classes == 0) & (len(np.unique(classes)) > 1)
    lesion = central(darker)
    # A darker class is less clear than a lesion's region: without a frame, too many pictures of skin would seem mucosa.
    return by_threshold(view.square) if view.framed and is_mucosa(view, lesion) else lesion


def _by_colour(view: View) -> Mask:
    field, colours = field_of(view.square)
    classes = np.full(field.shape, -1)
    classes[field] = _kmeans(colours)
    return off_rim(classes, field)


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


def _ratio(values: Pixels, classes: Classes) -> float:
    """Variance between classes over that within, each by its degrees of freedom."""
    parts = groups(values, classes)
    within = sum(float(((group - group.mean(axis=0)) ** 2).sum()) for group in parts) / len(values)
    if len(parts) == 1 or within == 0:
        return float("inf") if len(parts) > 1 else 0.0
    return between(values, classes) / (len(parts) - 1) * (len(values) - len(parts)) / within
