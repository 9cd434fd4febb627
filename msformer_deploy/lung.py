"""The lungs in a chest CT slice: what is dark inside the body."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .morphology import best_part, centrality, filled, grown, parts_of, shrunk

SKIN = 3  # pixels that the body's outline is drawn in, so that no air beside it counts
LEAST_AREA = 0.004  # of the image; smaller parts are the windpipe, bowel gas, or specks
COMPANION = 0.1  # parts with so much of the largest one's area are the other lung


def delineate(labels: NDArray[np.integer], image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Both lungs.

    The body is the largest bright part of the image by Otsu's threshold, filled. Of the clusters inside it the one that
    is darkest is lung and air; its large parts are the lungs, vessels in them filled.

    Args:
        labels: (S, S) cluster ids.
        image: (3, S, S) float32 in 0..1.

    Returns:
        bool (S, S); empty when nothing is dark inside a body.
    """
    from skimage.filters import threshold_otsu

    brightness = image.mean(axis=0)
    nothing = np.zeros(labels.shape, bool)
    if np.ptp(brightness) == 0:
        return nothing
    body = best_part((brightness > threshold_otsu(brightness)).astype(np.int64), centrality(labels.shape))
    inside = shrunk(body, SKIN)
    clusters = np.unique(labels[inside])
    if clusters.size < 2:
        return nothing
    darkest = min(clusters, key=lambda cluster: float(np.median(brightness[inside & (labels == cluster)])))
    parts = list(parts_of(inside & (labels == darkest), LEAST_AREA))
    if not parts:
        return nothing
    most = max(part.sum() for part in parts)
    lungs = [grown(shrunk(filled(part), 1), 1) for part in parts if part.sum() >= COMPANION * most]
    return np.logical_or.reduce(lungs)
