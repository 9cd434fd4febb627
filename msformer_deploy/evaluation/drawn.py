"""Prompts drawn from the truth, as a person who sees the object would give them.

``click``
    the point deepest inside the truth.
``box``
    its bounding box.
``click2``
    the click, and then one more at the deepest point that the mask has wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from ..foreground.prompts import Box, Mask, Point

if TYPE_CHECKING:
    from ..segmenter import Segmentation, Session


def with_prompts(kind: str, session: Session, truth: Mask) -> Segmentation:
    """The result of an image with prompts drawn from a truth; with an empty truth, the one without prompts.

    Args:
        kind: one of :data:`.evaluation.PROMPTS`.
        session: of the image, without prompts; it is so again at the end.
        truth: (H, W) bool.
    """
    if kind == "none" or not truth.any():
        return session.segmentation
    added, found = 1, session.add(box_around(truth) if kind == "box" else deepest(truth)[0])
    if kind == "click2" and (found.mask != truth).any():
        added, found = 2, session.add(correction(found.mask, truth))
    for _ in range(added):
        session.undo()
    return found


def deepest(region: Mask, *, inside: bool = True) -> tuple[Point, float]:
    """The point of a region that is farthest from all that is not in it or the image, and that distance in pixels."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), region.shape)
    return Point(int(column), int(row), inside), float(depth[row, column])


def correction(mask: Mask, truth: Mask) -> Point:
    """The deepest point at which a mask is wrong; they differ somewhere."""
    (missing, far), (wrong, farther) = deepest(truth & ~mask), deepest(mask & ~truth, inside=False)
    return missing if far >= farther else wrong


def box_around(truth: Mask) -> Box:
    """The smallest box that has all of a truth, which is not empty."""
    rows, columns = (np.flatnonzero(truth.any(axis=axis)) for axis in (1, 0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
