"""The lungs in a chest CT slice: air inside the body."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .morphology import closed, filled, opened, parts_of, rim_of, shrunk

LEAK = 3  # steps; through what is narrower in the wall of the body, its air is not that around it
SKIN = 3  # pixels that the body's outline is drawn in, so that no air beside it counts
MIN_AREA = 0.004  # of the image; smaller parts are the windpipe, bowel gas, or specks
MAX_LUNG = 0.3  # of the image; a part that is larger is a body
COMPANION = 0.1  # parts with so much of the largest one's area are the other lung


def delineate(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Both lungs, whether air is black or, in inverted images, white.

    The cluster with most of the image's rim is the air around the body; the body is the largest part of all others, its
    leaks closed, filled. Large parts of air inside it are the lungs, vessels in them filled. Where there are none and
    that part is small, the body fills the image and its own cluster the rim: the lungs are the large parts of the
    others inside it.

    Args:
        labels: (S, S) cluster ids.

    Returns:
        bool (S, S); empty when there is nothing inside a body.
    """
    rim = rim_of(np.ones(labels.shape, bool))
    around = labels == np.bincount(labels[rim]).argmax()
    largest = max(parts_of(~around), key=np.sum, default=None)
    if largest is None:
        return np.zeros(labels.shape, bool)
    parts = list(parts_of(around & shrunk(closed(largest, LEAK), SKIN), MIN_AREA))
    if not parts and largest.mean() <= MAX_LUNG:
        parts = [part for part in parts_of(~around, MIN_AREA) if not (part & rim).any()]
    maximum = max((part.sum() for part in parts), default=0)
    lungs = [opened(filled(part), 1) for part in parts if part.sum() >= COMPANION * maximum]
    return np.logical_or.reduce([np.zeros(labels.shape, bool), *lungs])
