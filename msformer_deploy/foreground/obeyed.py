"""A mask that obeys its prompts: labelled pixels are on their side of it, and nothing of it is outside the boxes.

The probability has taken the prompts before, and as a rule the mask obeys. Where it does not, a region around the
labelled pixel changes sides: all that is nearer to it than :data:`REACH`, on paths that a difference of colour makes
longer (a geodesic distance: Criminisi et al., ECCV 2008), and nearer than any pixel that is labelled otherwise. So the
region ends at the image's edges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..images.read import resize_linear
from .prompts import Mask, Prompts

REACH = 0.06  # of a region, in parts of the side
EDGE = 40.0  # pixels by which a difference of 1 in every channel makes a step longer; so 0.1 costs four pixels
SWEEPS = 2  # in each of two directions; paths in so small a region have few turns

Distances = NDArray[np.float32]
Pixels = NDArray[np.intp]


def obeyed(mask: Mask, guide: NDArray[np.float32], prompts: Prompts) -> Mask:
    """The mask, changed where prompts ask for it; an image without a conflict keeps its own.

    Args:
        mask: (H, W) bool, at the image's size.
        guide: (C, S, S) float32 in 0..1, the whole image as a square.
        prompts: that fit the image.
    """
    height, width = mask.shape
    inside, outside = prompts.labelled(height, width)
    bounds = prompts.bounds(height, width)
    if bounds is not None:
        mask = mask & bounds
    missing, wrong = inside[~mask[tuple(inside.T)]], outside[mask[tuple(outside.T)]]
    if bounds is not None and not len(inside) and not mask.any():
        left, top, right, bottom = prompts.boxes[0]
        missing = np.array([((top + bottom) // 2, (left + right) // 2)])
        missing = missing[~(missing[:, None] == outside[None]).all(axis=2).any(axis=1)]
    if not len(missing) and not len(wrong):
        return mask
    mask = mask.copy()
    for region, value in (
        (_region(missing, outside, guide, mask.shape), True),
        (_region(wrong, inside, guide, mask.shape), False),
    ):
        mask[region] = value
    if bounds is not None:
        mask &= bounds
    mask[tuple(np.concatenate([missing, inside]).T)] = True
    mask[tuple(outside.T)] = False
    return mask


def _region(seeds: Pixels, others: Pixels, guide: NDArray[np.float32], shape: tuple[int, int]) -> Mask:
    """What is near to seeds and nearer than to others, bool (H, W)."""
    if not len(seeds):
        return np.zeros(shape, bool)
    side = guide.shape[1]
    reach = REACH * side
    scale = np.array([side / shape[0], side / shape[1]])
    own, contrary = ((each * scale).astype(np.intp) for each in (seeds, others))
    # Nothing farther than the reach counts: paths are never shorter than their pixels.
    first = np.maximum(own.min(axis=0) - int(reach) - 2, 0)
    last = np.minimum(own.max(axis=0) + int(reach) + 3, side)
    part = guide[:, first[0] : last[0], first[1] : last[1]]
    near = contrary[((contrary >= first) & (contrary < last)).all(axis=1)] - first
    ahead = np.full((side, side), -reach, np.float32)
    ahead[first[0] : last[0], first[1] : last[1]] = np.minimum(reach, distances(part, near)) - distances(
        part, own - first
    )
    return resize_linear(np.maximum(ahead, -reach), *shape) > 0


def distances(guide: NDArray[np.float32], seeds: Pixels) -> Distances:
    """Length of the shortest path from any seed to every pixel, float32 (H, W); infinite without seeds.

    A step to one of four neighbours is 1 long, and longer by :data:`EDGE` times the mean difference of the channels.
    The image is swept from above and from below; in a row all is done at once, by sums and running minima.

    Args:
        guide: (C, H, W) float32 in 0..1.
        seeds: (n, 2) rows and columns.
    """
    found = np.full(guide.shape[1:], np.inf, np.float32)
    if not len(seeds):
        return found
    found[tuple(seeds.T)] = 0
    down = 1 + EDGE * np.abs(np.diff(guide, axis=1)).mean(axis=0)
    along = np.zeros(found.shape, np.float32)
    along[:, 1:] = np.cumsum(1 + EDGE * np.abs(np.diff(guide, axis=2)).mean(axis=0), axis=1)
    rows = len(found)
    for _ in range(SWEEPS):
        for order, step in ((range(rows), 1), (range(rows - 1, -1, -1), -1)):
            for row in order:
                before = row - step
                if 0 <= before < rows:
                    np.minimum(found[row], found[before] + down[min(row, before)], out=found[row])
                _spread(found[row], along[row])
    return found


def _spread(row: Distances, along: Distances) -> None:
    """Shortest paths within a row, in place; ``along`` is the length of the way from its left end."""
    np.minimum(row, np.minimum.accumulate(row - along) + along, out=row)
    np.minimum(row, np.minimum.accumulate((row + along)[::-1])[::-1] - along, out=row)
