"""The lesion of a dermoscopic image: the darker of the regions, as far as it lies inside a disc.

Regions have been told apart by colour before (:mod:`.colour`); corners, which are dark in most dermoscopes, do not
count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .morphology import best_part, centrality, opened
from .view import View

RADIUS = 0.5  # of the disc, as a part of the image's side
OPENING = 0.016  # steps, as a part of the image's side; what is narrower does not hold parts together


def delineate(labels: NDArray[np.integer], view: View) -> NDArray[np.bool_]:
    """The lesion.

    Args:
        labels: (S, S) cluster ids.
        view: of the image, its square of the same size.

    Returns:
        bool (S, S); empty when the disc holds one region only.
    """
    rows, columns = (np.linspace(-0.5, 0.5, size) for size in labels.shape)
    disc = rows[:, None] ** 2 + columns**2 < RADIUS**2
    inside = labels[disc]
    areas = np.bincount(inside)
    if np.count_nonzero(areas) < 2:
        return np.zeros(labels.shape, bool)
    brightness = np.bincount(inside, view.brightness[disc]) / np.where(areas, areas, np.nan)
    region = disc & (labels == np.nanargmin(brightness))
    wide = opened(region, round(OPENING * len(labels)))
    return best_part((wide if wide.any() else region).astype(np.int64), centrality(labels.shape))
