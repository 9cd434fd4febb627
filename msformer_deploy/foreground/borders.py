"""Borders between regions, drawn where the image has its edges.

The network sees an image of few pixels, so its regions have borders of steps and specks. Each region is blurred, which
outvotes specks, and then made to follow the grey image by a guided filter (He et al., ECCV 2010): within a small
window a region's share is a linear function of the grey value, so it falls off where the image does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .blur import box, gaussian
from .colour import tell_apart
from .view import View

SIDE = 257  # pixels of the square on which borders are drawn, whatever the network saw
BLUR = 3.0  # standard deviation, pixels of that square
RADIUS = 6  # of the guided filter's window, likewise
CONTRAST = 1e-3  # variance of grey values on 0..1 above which a window counts as having an edge


def redraw(labels: NDArray[np.integer], view: View) -> NDArray[np.integer]:
    """Few regions as a user gets them: told apart by colour where there is any (:mod:`.colour`), borders on edges.

    Arguments and result are those of :func:`follow_edges`.
    """
    return follow_edges(tell_apart(labels, view) if view.coloured else labels, view)


def follow_edges(labels: NDArray[np.integer], view: View) -> NDArray[np.integer]:
    """The regions of a label map, redrawn.

    Args:
        labels: (S, S) cluster ids.
        view: of the image, its square (3, T, T); :data:`SIDE` is a good T.

    Returns:
        (T, T) ids out of those in ``labels``, of the same type.
    """
    ids = np.unique(labels)
    if ids.size == 1:
        return np.full(view.brightness.shape, ids[0], labels.dtype)
    side = len(view.brightness)
    window = _Window(view.brightness, max(1, round(RADIUS * side / SIDE)))
    shares = []
    for cluster in ids[1:] if ids.size == 2 else ids:  # of two, one is what the other leaves
        blurred = gaussian((labels == cluster).astype(np.float32), BLUR * len(labels) / SIDE, truncate=3)
        shares.append(
            window.follow(np.asarray(Image.fromarray(blurred).resize((side, side), Image.Resampling.BILINEAR)))
        )
    winners = (shares[0] > 0.5).astype(np.int64) if ids.size == 2 else np.stack(shares).argmax(axis=0)
    return ids[winners]


class _Window:
    """A guided filter with the guide's part of the arithmetic done once."""

    def __init__(self, guide: NDArray[np.float32], radius: int) -> None:
        self._guide, self._radius = guide, radius
        self._mean = box(guide, radius)
        self._variance = box(guide * guide, radius) - self._mean**2

    def follow(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        mean = self._box(values)
        slope = (self._box(self._guide * values) - self._mean * mean) / (self._variance + CONTRAST)
        return self._box(slope) * self._guide + self._box(mean - slope * self._mean)

    def _box(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return box(values, self._radius)
