"""Prompts as channels: points on the figure, points off it, a box around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .canvas import Drawing

DISC = 0.03  # radius of a point, in parts of the side
_PROMPTED, _OTHER, _PART = 0.5, 0.4, 0.3  # shares: scenes with prompts; of these, another thing or one part alone
_SMALLEST = 0.002  # share of the image; anything smaller is not asked for with a prompt
_SLACK = 0.06  # how much further than the figure a box may reach, in parts of its side

Prompts = NDArray[np.float32]
Mask = NDArray[np.bool_]


def disc(side: int, row: float, column: float) -> Prompts:
    """A point as it stands in its channel: 1 within a disc around it, float32 (S, S)."""
    rows, columns = np.ogrid[:side, :side]
    radius = max(DISC * side, 1.0)
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2).astype(np.float32)


def box(side: int, top: int, left: int, bottom: int, right: int) -> Prompts:
    """A box as it stands in its channel: 1 inside, float32 (S, S); its last row and column are not in it."""
    channel = np.zeros((side, side), np.float32)
    channel[max(top, 0) : bottom, max(left, 0) : right] = 1
    return channel


def prompted(rng: np.random.Generator, drawing: Drawing) -> tuple[Prompts, Mask]:
    """Draw prompts for a scene.

    Args:
        rng: generator of the scene.
        drawing: the scene.

    Returns:
        prompts, float32 (3, S, S): positive points, negative points, box; zeros in half of all scenes. Then the figure
        that they ask for, bool (S, S): that of the drawing, one of its connected parts, or one of its others.
    """
    figure = drawing.figure
    side = figure.shape[0]
    prompts = np.zeros((3, side, side), np.float32)
    if rng.random() >= _PROMPTED:
        return prompts, figure
    choice = rng.random()
    if choice < _OTHER and drawing.others:
        wanted = drawing.others[int(rng.integers(len(drawing.others)))]
        figure = wanted if wanted.mean() >= _SMALLEST else figure
    elif choice < _OTHER + _PART:
        figure = _part(rng, figure)
    kind = rng.random()
    if kind < 0.6:
        _points(rng, prompts, figure)
    if kind >= 0.5:
        prompts[2] = _box(rng, figure)
    return prompts, figure


def _part(rng: np.random.Generator, figure: Mask) -> Mask:
    """One connected part, if it is not too small."""
    labels, count = ndimage.label(figure)
    if count < 2:
        return figure
    part = labels == rng.integers(1, count + 1)
    return part if part.mean() >= _SMALLEST else figure


def _points(rng: np.random.Generator, prompts: Prompts, figure: Mask) -> None:
    side = figure.shape[0]
    inside = ndimage.binary_erosion(figure, iterations=1)
    inside = inside if inside.any() else figure
    outside = ~figure
    for channel, region, low, high in ((0, inside, 1, 3), (1, outside, 0, 2)):
        count = int(rng.integers(low, high + 1)) if rng.random() < 0.5 else low
        if not region.any():
            continue
        rows, columns = np.nonzero(region)
        for _ in range(count):
            at = int(rng.integers(len(rows)))
            prompts[channel] = np.maximum(prompts[channel], disc(side, rows[at], columns[at]))


def _box(rng: np.random.Generator, figure: Mask) -> Prompts:
    rows, columns = np.flatnonzero(figure.any(axis=1)), np.flatnonzero(figure.any(axis=0))
    slack = rng.random(4) * _SLACK * np.repeat((np.ptp(rows) + 1, np.ptp(columns) + 1), 2)
    if rng.random() < 0.3:
        slack *= 0
    top, bottom, left, right = np.rint(slack).astype(int)
    return box(figure.shape[0], rows[0] - top, columns[0] - left, rows[-1] + 1 + bottom, columns[-1] + 1 + right)
