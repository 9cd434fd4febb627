"""Prompts as channels: points on the figure, points off it, a box around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ....foreground.prompts import CHANNELS, disc, filled_box
from .canvas import Drawing

_PROMPTED, _OTHER = 0.5, 0.4  # shares: scenes with prompts; of these, another thing than the figure
_ALL = 0.4  # share of the scenes of many parts in which points on several of them ask for all
_NEGATIVE, _RIVAL = 0.4, 0.8  # shares: prompts with negative points; of these points, those on a rival of the figure
_MOST_PARTS = 12
_SMALLEST = 0.002  # share of the image; anything smaller is not asked for with a prompt
_SLACK = 0.06  # how much further than the figure a box may reach, in parts of its side

Prompts = NDArray[np.float32]
Mask = NDArray[np.bool_]


def prompted(rng: np.random.Generator, drawing: Drawing) -> tuple[Prompts, Mask]:
    """Draw prompts for a scene.

    One positive point asks for the connected part that it is on; points on several parts ask for all of that kind.
    A box asks for all that is in it. A negative point is on what could be taken for the figure, or on the ground.

    Args:
        rng: generator of the scene.
        drawing: the scene.

    Returns:
        prompts, float32 (3, S, S): positive points, negative points, box; zeros in half of all scenes. Then the figure
        that they ask for, bool (S, S): that of the drawing, some of its connected parts, or one of its others.
    """
    figure = drawing.figure
    side = figure.shape[0]
    prompts = np.zeros((CHANNELS, side, side), np.float32)
    if rng.random() >= _PROMPTED:
        return prompts, figure
    others = [each for each in drawing.others if each.mean() >= _SMALLEST]
    wanted, rivals = figure, others
    if others and rng.random() < _OTHER:
        chosen = int(rng.integers(len(others)))
        wanted = others[chosen]
        rivals = [figure, *others[:chosen], *others[chosen + 1 :]]
    kind = rng.random()
    parts = _parts(wanted)
    if len(parts) > 1 and (kind < 0.5 or rng.random() < 0.5):
        if kind < 0.5 and rng.random() < _ALL:
            for each in rng.permutation(len(parts))[: int(rng.integers(2, 4))]:
                _point(rng, prompts[0], parts[each])
        else:
            wanted = parts.pop(int(rng.integers(len(parts))))
            rivals = [*rivals, *parts]
    if kind < 0.6 and not prompts[0].any():
        for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.4 else 1):
            _point(rng, prompts[0], wanted)
    if kind >= 0.5:
        prompts[2] = _box(rng, wanted)
    if rng.random() < _NEGATIVE:
        apart = [each & ~wanted for each in rivals]
        apart = [each for each in apart if each.mean() >= _SMALLEST]
        for _ in range(int(rng.integers(1, 3))):
            on_rival = bool(apart) and rng.random() < _RIVAL
            _point(rng, prompts[1], apart[int(rng.integers(len(apart)))] if on_rival else ~wanted)
    return prompts, wanted


def _parts(figure: Mask) -> list[Mask]:
    """The connected parts that are not too small, at most a few."""
    labels, count = ndimage.label(figure)
    sizes = np.bincount(labels.ravel())[1:] / labels.size
    large = np.flatnonzero(sizes >= _SMALLEST)[:_MOST_PARTS] + 1
    return [labels == each for each in large] if count > 1 else [figure]


def _point(rng: np.random.Generator, channel: Prompts, region: Mask) -> None:
    """Put a point somewhere on a region, not on its outline where it is thick enough."""
    inside = ndimage.binary_erosion(region)
    rows, columns = np.nonzero(inside if inside.any() else region)
    if rows.size:
        at = int(rng.integers(rows.size))
        np.maximum(channel, disc(channel.shape[0], rows[at], columns[at]), out=channel)


def _box(rng: np.random.Generator, figure: Mask) -> Prompts:
    rows, columns = np.flatnonzero(figure.any(axis=1)), np.flatnonzero(figure.any(axis=0))
    slack = rng.random(4) * _SLACK * np.repeat((np.ptp(rows) + 1, np.ptp(columns) + 1), 2)
    if rng.random() < 0.3:
        slack *= 0
    top, bottom, left, right = np.rint(slack).astype(int)
    return filled_box(figure.shape[0], rows[0] - top, columns[0] - left, rows[-1] + 1 + bottom, columns[-1] + 1 + right)
