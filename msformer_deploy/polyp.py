"""The polyp of an endoscopic image: what stands out, round about, brighter and redder than what is around it.

The regions of the label map do not help here: a polyp has the colours of the wall it grows on, so no union of clusters
is one (``docs/quality.md``). Its outline is what can be seen. From every point of a grid the closed outline around it
is sought along which brightness and redness fall most steeply outwards, by dynamic programming over angle and radius
(as Timp & Karssemeijer did for masses, Med. Phys. 31:958, 2004). Around a real object the outlines from many points
are nearly the same one, elsewhere each is another: the one that the others agree with most is the object. Its colours
and those around it then tell once more what belongs to it (:mod:`.colour`), for few polyps are round. An outline that
is in doubt (:mod:`.confidence`) is mostly that of something else; there Otsu's threshold is the better guess
(:mod:`.thresholding`).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from .borders import follow_edges
from .colour import SIDE, by_colour
from .confidence import confidence_of
from .frame import BLACK
from .imaging import resize_nearest
from .morphology import filled, grown, parts_of, shrunk
from .thresholding import by_threshold

# Lengths below are pixels of the square, SIDE, on which colours are compared as well.
BLUR = 1.0  # standard deviation
GLARE = 0.75  # what is brighter in every channel is a reflection
MARGIN = 2  # pixels around the frame that are no picture
SPACING = 13  # of the grid of points
ANGLES = 24
RADII = np.linspace(4, 55, 24)
REACH = 2  # radii on either side of an outline between which brightness and redness must fall
CHANNELS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))  # weights of brightness and redness: either, and both together
AGREEMENT = 4  # power of the overlap (IoU) with which another outline counts
COARSE = 2  # every so many pixels overlaps are counted
AROUND = 20  # pixels around the outline whose colours are compared with those inside
OPENING = 2  # steps; what is narrower does not hold parts together
LEAST_PICTURE = 0.05  # of the image


def delineate(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The polyp.

    Args:
        image: (3, S, S) float32 in 0..1, BGR.

    Returns:
        bool (S, S); empty when nothing stands out.
    """
    found = outlined(image)
    if confidence_of(found, image).doubt is None:
        return found
    thresholded = by_threshold(image)
    return thresholded if thresholded.any() else found


def outlined(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The polyp by its outline, whatever its confidence.

    Args:
        image: (3, S, S) float32 in 0..1, BGR.

    Returns:
        bool (S, S); empty when nothing is brighter or redder than what is around it.
    """
    small = np.stack([resize_nearest(channel, SIDE, SIDE) for channel in image])
    picture = _picture(small)
    rows, columns = (axis[picture[np.ix_(_grid(), _grid())]] for axis in np.meshgrid(_grid(), _grid(), indexing="ij"))
    if picture.mean() < LEAST_PICTURE or not rows.size:  # a strip at the border holds no point of the grid
        return np.zeros(image.shape[1:], bool)
    clean = _clean(small, picture)
    radii, steepness = _outlines(_signals(clean, picture), picture, rows, columns)
    inside = _inside(radii, rows, columns) & picture[::COARSE, ::COARSE]
    found = _agreed(inside.reshape(-1, *inside.shape[-2:]), steepness.ravel())
    if not found.any():
        return np.zeros(image.shape[1:], bool)
    found = _by_colour(clean, resize_nearest(found, SIDE, SIDE), picture)
    return follow_edges(found.astype(np.uint8), image).astype(bool)


def _grid() -> NDArray[np.int64]:
    return np.arange(SPACING, SIDE - SPACING + 1, SPACING)


def _picture(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where an image (3, SIDE, SIDE) is no frame; what is dark inside the picture belongs to it."""
    from scipy import ndimage

    light = ndimage.binary_fill_holes(image.max(axis=0) >= BLACK)
    return np.asarray(ndimage.binary_erosion(ndimage.binary_opening(light), iterations=MARGIN))


def _clean(image: NDArray[np.float32], picture: NDArray[np.bool_]) -> NDArray[np.float32]:
    """An image (3, SIDE, SIDE), blurred, its reflections and its frame in the colours beside them."""
    from scipy import ndimage

    foreign = ndimage.binary_dilation(image.min(axis=0) > GLARE) | ~picture
    nearest = ndimage.distance_transform_edt(foreign, return_distances=False, return_indices=True)
    return np.asarray(ndimage.gaussian_filter(image[:, nearest[0], nearest[1]], (0, BLUR, BLUR)))


def _signals(clean: NDArray[np.float32], picture: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What an outline is sought in, (C, SIDE, SIDE): L* and a* of CIELAB and their sum, each of unit variance."""
    from skimage.color import rgb2lab

    lab = rgb2lab(clean[::-1], channel_axis=0)[:2]
    signals = np.tensordot(CHANNELS, _standard(lab, picture), 1)
    return _standard(signals, picture).astype(np.float32)


def _standard(channels: NDArray[np.floating], picture: NDArray[np.bool_]) -> NDArray[np.floating]:
    values = channels[:, picture]
    spread = np.maximum(values.std(axis=1), 1e-6)
    return np.asarray((channels - values.mean(axis=1)[:, None, None]) / spread[:, None, None])


def _outlines(
    signals: NDArray[np.float32], picture: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The steepest closed outline around every point in every signal.

    Returns:
        indices into RADII (C, N, ANGLES), and how far the signal falls across the outline, its mean (C, N).
    """
    angles = 2 * np.pi * np.arange(ANGLES) / ANGLES
    y = np.rint(rows[:, None, None] + np.sin(angles)[:, None] * RADII).astype(np.int64)
    x = np.rint(columns[:, None, None] + np.cos(angles)[:, None] * RADII).astype(np.int64)
    seen = (y >= 0) & (y < SIDE) & (x >= 0) & (x < SIDE)
    y, x = np.clip(y, 0, SIDE - 1), np.clip(x, 0, SIDE - 1)
    rays = signals[:, y, x]
    fall = np.zeros_like(rays)
    fall[..., REACH:-REACH] = rays[..., : -2 * REACH] - rays[..., 2 * REACH :]
    fall *= seen & picture[y, x]
    path = _steepest(fall.reshape(-1, ANGLES, RADII.size)).reshape(fall.shape[:3])
    return path, np.take_along_axis(fall, path[..., None], axis=3)[..., 0].mean(axis=2)


def _steepest(gain: NDArray[np.float32]) -> NDArray[np.int64]:
    """The radius index at every angle (N, A) that sums the most gain (N, A, R), neighbours at most one apart.

    Two turns are made, and of these the middle one is taken: there the path has met itself.
    """
    count, angles, size = gain.shape
    every = np.arange(count)
    steps = np.empty((2 * angles, count, size), np.int8)
    best = np.pad(gain[:, 0], ((0, 0), (1, 1)), constant_values=-np.inf)
    for turn in range(1, 2 * angles):
        before = np.stack([best[:, :-2], best[:, 1:-1], best[:, 2:]])
        steps[turn] = before.argmax(axis=0) - 1
        best[:, 1:-1] = before.max(axis=0) + gain[:, turn % angles]
    path = np.empty((count, 2 * angles), np.int64)
    path[:, -1] = best[:, 1:-1].argmax(axis=1)
    for turn in range(2 * angles - 1, 0, -1):
        path[:, turn - 1] = path[:, turn] + steps[turn, every, path[:, turn]]
    middle = angles // 2
    return np.roll(path[:, middle : middle + angles], middle, axis=1)


def _inside(path: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """What outlines (C, N, ANGLES) enclose, bool (C, N, SIDE / COARSE, SIDE / COARSE)."""
    sector, distance = _polar()
    size = np.arange(0, SIDE, COARSE)
    y = (size - rows[:, None] + SIDE)[:, :, None]
    x = (size - columns[:, None] + SIDE)[:, None, :]
    points = np.arange(len(rows))[:, None, None]
    return np.asarray(distance[y, x] <= RADII[path][:, points, sector[y, x]])


@cache
def _polar() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sector and distance of every offset of -SIDE..SIDE rows and columns."""
    rows, columns = np.mgrid[-SIDE : SIDE + 1, -SIDE : SIDE + 1]
    turn = np.arctan2(rows, columns) / (2 * np.pi) % 1
    return np.rint(turn * ANGLES).astype(np.int64) % ANGLES, np.hypot(rows, columns)


def _agreed(inside: NDArray[np.bool_], steepness: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The one of some regions (N, h, w) that the steep ones overlap with most; empty if none is steep."""
    weight = np.maximum(steepness, 0)
    flat = inside.reshape(len(inside), -1).astype(np.float32)
    area = flat.sum(axis=1)
    common = flat @ flat.T
    overlap = common / np.maximum(area[:, None] + area - common, 1)
    votes = overlap**AGREEMENT @ weight
    if not votes.any():
        return np.zeros(inside.shape[1:], bool)
    return inside[votes.argmax()]


def _by_colour(clean: NDArray[np.float32], found: NDArray[np.bool_], picture: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What has rather the colours of a region (SIDE, SIDE) than those around it: the part most inside the region."""
    field = (grown(found, AROUND) & picture) | found
    region = np.zeros(field.shape, bool)
    region[field] = by_colour(clean[:, field], found[field], field)
    core = shrunk(region, OPENING)
    parts = parts_of(grown(core, OPENING) if core.any() else region)
    best = max(parts, key=lambda part: int((part & found).sum()), default=found)
    return filled(best) if (best & found).any() else found
