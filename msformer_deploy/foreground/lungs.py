"""The lungs in a chest CT: air inside the body, chosen in three dimensions.

Clusters are dark or bright. Air is the kind that covers most of the slices' rims. It is bright where a volume is
inverted. If bright air gives no lungs, the body fills the slices, and air is dark.

The body is the largest connected part of everything else, so the table does not belong to it. In each slice its leaks
are closed and its holes filled. Large parts of air inside the body are joined through slices. The one or two largest of
the volume are the lungs. So slices above and below the lungs stay empty, and air that is large in a few slices only, as
in the bowel, is no lung.

The rule was written with the four chest slices of the development data in view.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .morphology import closed, filled, numbered, opened, parts_of, rim_of, shrunk

LEAK = 3  # steps; through what is narrower in the wall of the body, its air is not that around it
SKIN = 3  # pixels that the body's outline is drawn in, so that no air beside it counts
MIN_AREA = 0.004  # of a slice; smaller parts are the windpipe, bronchi, bowel gas, or specks
COMPANION = 0.1  # the second part is the other lung if it has so much of the first one's volume
VESSEL = 0.01  # of a slice; larger holes are the heart between lungs that touch before and behind it


def delineate(labels: NDArray[np.integer], shades: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Both lungs, or one, or lungs that touch each other.

    A lung that reaches the border of a slice is not found there: nothing tells its air from that around the body.

    Args:
        labels: (N, S, S) cluster ids, of one meaning in all slices.
        shades: (K,) mean brightness of each cluster, of which those that no voxel has do not count.

    Returns:
        bool (N, S, S); empty where there is no air inside a body.
    """
    dark = _dark(labels, shades)[labels]
    rim = rim_of(np.ones(labels.shape[1:], bool))
    if dark[:, rim].mean() > 0.5:
        return _inside_of_body(dark)
    found = _inside_of_body(~dark)
    return found if found.any() else _inside_of_body(dark)


def _inside_of_body(air: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The lungs, where air is known; all bool (N, S, S)."""
    body = _largest(~air, 1)
    inside = np.zeros(air.shape, bool)
    for index in np.flatnonzero(body.any(axis=(1, 2))):
        within = air[index] & shrunk(closed(body[index], LEAK), SKIN)
        for part in parts_of(within, MIN_AREA):
            inside[index] |= part
    lungs = _largest(inside, 2)
    for index in np.flatnonzero(lungs.any(axis=(1, 2))):
        lungs[index] = opened(_with_vessels(lungs[index]), 1)
    return lungs


def _dark(labels: NDArray[np.integer], shades: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which clusters are dark, bool (K,): the split with the largest variance between both sides (Otsu, 1979)."""
    counts = np.bincount(labels.ravel(), minlength=shades.size).astype(np.float64)
    order = np.argsort(shades)
    order = order[counts[order] > 0]
    sums, below = np.cumsum((counts * shades)[order])[:-1], np.cumsum(counts[order])[:-1]
    dark = np.zeros(shades.size, bool)
    if below.size:
        total, whole = (counts * shades)[order].sum(), counts.sum()
        apart = below * (whole - below) * (sums / below - (total - sums) / (whole - below)) ** 2
        dark[order[: int(apart.argmax()) + 1]] = True
    return dark


def _largest(regions: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The largest connected parts (six neighbours) of a volume, without those that are small beside the first."""
    parts = numbered(regions)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    chosen = np.zeros(sizes.size, bool)
    chosen[np.argsort(-sizes, kind="stable")[:count]] = True
    chosen &= sizes >= max(COMPANION * sizes.max(), 1)
    return chosen[parts]


def _with_vessels(lungs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Lungs in a slice with their small holes."""
    whole = lungs.copy()
    for hole in parts_of(filled(lungs) & ~lungs):
        if hole.mean() < VESSEL:
            whole |= hole
    return whole
