"""The polyp of an endoscopic image: what stands out, round about, brighter and redder than what is around it.

The regions of the label map do not help here: a polyp has the colours of the wall it grows on, so no union of clusters
is one (``docs/explanation/quality.md``). Its outline is what can be seen. From every point of a grid the closed outline
around it is sought along which brightness and redness fall most steeply outwards, by dynamic programming over angle and
radius (as Timp & Karssemeijer did for masses, Med. Phys. 31:958, 2004). Around a real object the outlines from many
points are nearly the same one, elsewhere each is another: the one that the others agree with most is the object. Its
colours and those around it then tell once more what belongs to it (:mod:`.colour`), for few polyps are round. An
outline of low confidence (:mod:`.confidence`) is mostly that of something else, or of a part; there Otsu's threshold
(:mod:`.thresholding`) is the better guess, unless it has hardly a pixel of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ..images.read import resize_nearest
from ..machine.forks import lock_across_forks
from .borders import follow_edges
from .colour import by_colour
from .confidence import confidence_of
from .morphology import filled, opened, parts_of
from .thresholding import by_threshold
from .view import BLACK, SIDE, View

# Lengths are pixels of the small square, SIDE, on which colours are compared as well.
BLUR = 1.0  # standard deviation
GLARE = 0.75  # what is brighter in every channel is a reflection
MARGIN = 2  # pixels around the frame that are no picture
SPACING = 13  # of the grid of points
ANGLES = 24
RADII = np.linspace(4, 55, 24)
REACH = 2  # radii on either side of an outline between which brightness and redness must fall
AGREEMENT = 4  # power of the overlap (IoU) with which another outline counts
COARSE = 3  # every so many pixels overlaps are counted
AROUND = 20  # pixels around the outline whose colours are compared with those inside
OPENING = 2  # steps; what is narrower does not hold parts together
MIN_PICTURE = 0.05  # of the image
SHARED = 0.15  # of the union of outline and threshold, without which they are of different things

_HELD = lock_across_forks()


def delineate(view: View) -> NDArray[np.bool_]:
    """The polyp.

    Args:
        view: of the image, its square (3, S, S).

    Returns:
        bool (S, S); empty when nothing stands out.
    """
    found = outlined(view.small)
    if confidence_of(found, view).doubt is not None:
        thresholded = by_threshold(view.small)
        if (found & thresholded).sum() >= SHARED * (found | thresholded).sum() or not found.any():
            found = thresholded
    return follow_edges(found.astype(np.uint8), view).astype(bool)


def outlined(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The polyp by its outline, whatever its confidence.

    Args:
        image: (3, SIDE, SIDE) float32 in 0..1, BGR.

    Returns:
        bool (SIDE, SIDE); empty when nothing is brighter or redder than what is around it.
    """
    picture = _picture(image)
    points = np.flatnonzero(picture[tuple(_grid().T)])
    if picture.mean() < MIN_PICTURE or not points.size:  # a strip at the border holds no point of the grid
        return np.zeros(picture.shape, bool)
    clean = _clean(image, picture)
    outlines, steepness = _outlines(_signals(clean, picture), picture, points)
    coarse = _agreed(_inside(outlines, points) & picture[::COARSE, ::COARSE], steepness)
    found = resize_nearest(coarse, SIDE, SIDE)
    return _by_colour(clean, found, picture) if found.any() else found


@cache
def _grid() -> NDArray[np.int64]:
    """Rows and columns of points, (P, 2)."""
    places = np.arange(SPACING, SIDE - SPACING + 1, SPACING)
    return np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)


def _picture(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where an image (3, SIDE, SIDE) is no frame; what is dark inside the picture belongs to it."""
    from scipy import ndimage

    light = filled(image.max(axis=0) >= BLACK)
    return np.asarray(ndimage.binary_erosion(ndimage.binary_opening(light), iterations=MARGIN))


def _clean(image: NDArray[np.float32], picture: NDArray[np.bool_]) -> NDArray[np.float32]:
    """An image (3, SIDE, SIDE), blurred, its reflections and its frame in the colours beside them."""
    from scipy import ndimage

    foreign = ndimage.binary_dilation(image.min(axis=0) > GLARE) | ~picture
    nearest = ndimage.distance_transform_edt(foreign, return_distances=False, return_indices=True)
    return np.asarray(ndimage.gaussian_filter(image[:, nearest[0], nearest[1]], (0, BLUR, BLUR)))


def _signals(clean: NDArray[np.float32], picture: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What an outline is sought in, (3, SIDE, SIDE): L* and a* of CIELAB and their sum, each of unit variance."""
    from skimage.color import rgb2lab

    brightness, redness = (_standard(channel, picture) for channel in rgb2lab(clean[::-1], channel_axis=0)[:2])
    return np.stack([brightness, redness, _standard(brightness + redness, picture)])


def _standard(channel: NDArray[np.floating], picture: NDArray[np.bool_]) -> NDArray[np.float32]:
    values = channel[picture].astype(np.float64)
    return ((channel - values.mean()) / max(values.std(), 1e-6)).astype(np.float32)


def _outlines(
    signals: NDArray[np.float32], picture: NDArray[np.bool_], points: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The steepest closed outline around every point in every signal.

    Returns:
        indices into RADII (C, N, ANGLES), and how far the signal falls across the outline, its mean (C, N).
    """
    y, x, seen = (rays[points] for rays in _rays())
    values = signals[:, y, x]
    fall = np.zeros_like(values)
    fall[..., REACH:-REACH] = values[..., : -2 * REACH] - values[..., 2 * REACH :]
    fall *= seen & picture[y, x]
    path = _steepest(fall.reshape(-1, ANGLES, RADII.size)).reshape(fall.shape[:3])
    return path, np.take_along_axis(fall, path[..., None], axis=3)[..., 0].mean(axis=2)


@cache
def _rays() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Rows and columns of the pixels that rays from all points pass, and which are inside: (P, ANGLES, RADII)."""
    angles = 2 * np.pi * np.arange(ANGLES) / ANGLES
    directions = np.stack([np.sin(angles), np.cos(angles)])[:, None, :, None]
    places = np.rint(_grid().T[:, :, None, None] + directions * RADII).astype(np.int64)
    inside = ((places >= 0) & (places < SIDE)).all(axis=0)
    return (*np.clip(places, 0, SIDE - 1), inside)


def _steepest(gain: NDArray[np.float32]) -> NDArray[np.int64]:
    """The radius index at every angle (N, A) that sums the most gain (N, A, R), neighbours at most one apart.

    Two turns are made, and of these the middle one is taken: there the path has met itself.
    """
    count, angles, size = gain.shape
    best = np.full((2 * angles, count, size + 2), -np.inf, np.float32)
    best[0, :, 1:-1] = gain[:, 0]
    for turn in range(1, 2 * angles):
        before, sums = best[turn - 1], best[turn, :, 1:-1]
        np.maximum(np.maximum(before[:, :-2], before[:, 1:-1], out=sums), before[:, 2:], out=sums)
        sums += gain[:, turn % angles]
    every, near = np.arange(count)[:, None], np.arange(3)
    path = np.empty((2 * angles, count), np.int64)
    path[-1] = best[-1, :, 1:-1].argmax(axis=1)
    for turn in range(2 * angles - 1, 0, -1):
        path[turn - 1] = path[turn] - 1 + best[turn - 1, every, path[turn][:, None] + near].argmax(axis=1)
    middle = angles // 2
    return np.roll(path[middle : middle + angles], middle, axis=0).T


def _inside(outlines: NDArray[np.int64], points: NDArray[np.int64]) -> NDArray[np.bool_]:
    """What outlines (C, N, ANGLES) around points enclose, bool (C, N, SIDE / COARSE, SIDE / COARSE)."""
    sectors, distances = _surroundings()
    sector = sectors[points].reshape(1, len(points), -1)
    reach = np.take_along_axis(RADII.astype(np.float32)[outlines], sector, axis=2)
    distance = distances[points]
    return distance <= reach.reshape(len(outlines), *distance.shape)


@cache
def _surroundings() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sector and distance of every COARSE pixel as seen from every point, (P, SIDE / COARSE, SIDE / COARSE)."""
    places = np.arange(0, SIDE, COARSE)
    rows, columns = places - _grid()[:, :1], places - _grid()[:, 1:]
    turn = np.arctan2(rows[:, :, None], columns[:, None, :]) / (2 * np.pi) % 1
    distance = np.hypot(rows[:, :, None], columns[:, None, :]).astype(np.float32)
    return np.rint(turn * ANGLES).astype(np.int64) % ANGLES, distance


def _agreed(inside: NDArray[np.bool_], steepness: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The one of some regions (C, N, h, w) that the steep ones overlap with most; empty if none is steep."""
    weight = np.maximum(steepness, 0).ravel()
    flat = inside.reshape(weight.size, -1).astype(np.float32)
    area = flat.sum(axis=1)
    with on_one_thread():
        common = flat @ flat.T
        overlap = common / np.maximum(area[:, None] + area - common, 1)
        votes = overlap**AGREEMENT @ weight
    best = inside.reshape(-1, *inside.shape[2:])[votes.argmax()]
    return best if votes.any() else np.zeros_like(best)


def _by_colour(clean: NDArray[np.float32], found: NDArray[np.bool_], picture: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What has rather the colours of a region (SIDE, SIDE) than those around it: the part most inside the region."""
    from scipy import ndimage

    field = (ndimage.binary_dilation(found, iterations=AROUND) & picture) | found
    region = np.zeros(field.shape, bool)
    region[field] = by_colour(clean[:, field], found[field], field)
    wide = opened(region, OPENING)
    parts = parts_of(wide if wide.any() else region)
    best = max(parts, key=lambda part: int((part & found).sum()), default=found)
    return filled(best) if (best & found).any() else found


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Hold the products of numpy's matrix library to the calling thread.

    OpenBLAS has the threads of a product of a millisecond wait for the next one at full speed, for 50 ms, on cores that
    the encoder is on. Its number of threads is one for the whole process, so callers take turns.
    """
    with _HELD, _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    """The matrix libraries that are loaded; numpy's is, and finding them takes milliseconds."""
    return ThreadpoolController()
