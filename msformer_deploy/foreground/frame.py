"""The black frame around the picture of an endoscope or fundus camera, which would be a region of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .morphology import filled, grown
from .view import BLACK, View

MARGIN = 2  # pixels beside the frame that its edge has darkened


def without_frame(image: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """The image with its black frame in the colours beside it; itself where it is grey or has no frame.

    With two regions kept, a frame left in place would be one of them, and all of the picture the other.

    Args:
        image: (3, S, S) float32, BGR in 0..1, at any size.
        view: of the same image; it decides whether there are colours and a frame.
    """
    if not (view.coloured and view.framed):
        return image
    frame = grown(~filled(image.max(axis=0) >= BLACK), MARGIN)
    if not frame.any() or frame.all():
        return image
    found = image.copy()
    rows, columns = nearest_outside(frame)
    found[:, frame] = image[:, rows, columns]
    return found


def nearest_outside(region: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The pixel outside a region that is nearest to each pixel of it, by Euclidean distance.

    The squared distance is that within a column plus that between columns, as in Felzenszwalb & Huttenlocher (2012):
    the nearest pixel outside is found in each column first, and then the best of all columns.

    Args:
        region: (H, W), not all of the image.

    Returns:
        rows and columns of the pixels outside, int (n,) each, in the order of ``region.nonzero()``.
    """
    height, width = region.shape
    own = np.arange(height, dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(region, -height, own), axis=0)
    below = np.minimum.accumulate(np.where(region, 2 * height, own)[::-1], axis=0)[::-1]
    nearest = np.where(own - above <= below - own, above, below)
    within = (nearest - own) ** 2
    within[:, region.all(axis=0)] = height**2 + width**2  # farther than any pixel of the image
    places = np.arange(width, dtype=np.int32)
    between = (places[:, None] - places) ** 2
    rows, _ = region.nonzero()
    chosen = np.concatenate([(between[line] + within[row]).argmin(axis=1) for row, line in enumerate(region)])
    return nearest[rows, chosen], chosen
