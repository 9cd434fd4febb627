"""The lesion of a dermoscopic image: the darker of the regions, outlined again by colour.

A dermoscope lights the middle more than the rim, so a region of the label map can join the lesion to the dark corners.
Therefore only a disc counts; what is left of the skin's light after a smooth surface was taken from each channel tells
lesion and skin apart, as two Gaussians that start from the regions (expectation maximisation, Dempster et al., 1977).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .borders import SIDE, follow_edges
from .imaging import resize_nearest
from .morphology import best_part, centrality

STEP = 2  # every other pixel is enough: borders are drawn by the image afterwards
RADIUS = 0.5  # of the disc, as a part of the image's side
BLUR = 1.0  # standard deviation before colours are compared, in pixels of those that count; hairs are thinner
OPENING = 2  # radius; what is narrower does not hold parts together
MARGIN = 3  # pixels around the lesion that are no clean skin
ROUNDS = 2  # of expectation maximisation
SMOOTHING = 1.5  # of memberships between rounds, standard deviation in pixels
VARIANCE = 1e-3  # added to each channel's, of logarithms
DARKEST = 0.02
LEAST_SKIN = 500  # pixels that a surface is fitted to
LEAST_MEMBERS = 20


def delineate(labels: NDArray[np.integer], image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The lesion.

    Args:
        labels: (S, S) cluster ids.
        image: (3, S, S) float32 in 0..1.

    Returns:
        bool (S, S); empty when the disc holds one region only.
    """
    if len(labels) < SIDE:  # lengths here are pixels of that size
        larger = delineate(
            resize_nearest(labels, SIDE, SIDE), np.stack([resize_nearest(each, SIDE, SIDE) for each in image])
        )
        return resize_nearest(larger, *labels.shape)
    from scipy import ndimage

    blurred = np.stack([ndimage.gaussian_filter(channel, BLUR * STEP)[::STEP, ::STEP] for channel in image])
    coarse = labels[::STEP, ::STEP]
    rows, columns = (np.linspace(-0.5, 0.5, size) for size in coarse.shape)
    rows, columns = np.meshgrid(rows, columns, indexing="ij")
    disc = rows**2 + columns**2 < RADIUS**2
    lesion = _central(_darkest(coarse, blurred.mean(axis=0), disc))
    if not lesion.any():
        return np.zeros(labels.shape, bool)
    surface = np.stack([np.ones_like(rows), rows, columns, rows**2, columns**2, rows * columns], axis=-1)
    colours = _evenly_lit(np.log(np.maximum(blurred, DARKEST)).transpose(1, 2, 0), surface, lesion, disc)
    outlined = _central(_by_colour(colours, lesion, disc))
    return follow_edges((outlined if outlined.any() else lesion).astype(np.uint8), image).astype(bool)


def _darkest(
    labels: NDArray[np.integer], brightness: NDArray[np.floating], disc: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    clusters = np.unique(labels[disc])
    if clusters.size < 2:
        return np.zeros(labels.shape, bool)
    darkest = min(clusters, key=lambda cluster: float(np.median(brightness[disc & (labels == cluster)])))
    return disc & (labels == darkest)


def _central(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part with most central mass after an opening, holes filled."""
    from scipy import ndimage

    core = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] > OPENING
    opened = ndimage.distance_transform_edt(~core) <= OPENING if core.any() else region
    return best_part(opened.astype(np.int64), centrality(region.shape))


def _evenly_lit(
    colours: NDArray[np.floating], surface: NDArray[np.floating], lesion: NDArray[np.bool_], disc: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """Logarithms (H, W, 3) less the quadratic surface of each channel that fits the skin."""
    from scipy import ndimage

    skin = disc & ~ndimage.binary_dilation(lesion, iterations=MARGIN)
    if skin.sum() < LEAST_SKIN:
        return colours
    return np.asarray(colours - surface @ np.linalg.lstsq(surface[skin], colours[skin], rcond=None)[0])


def _by_colour(colours: NDArray[np.floating], lesion: NDArray[np.bool_], disc: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the disc whose colour is rather the lesion's than the skin's."""
    from scipy import ndimage

    inside = ndimage.gaussian_filter(disc.astype(np.float64), SMOOTHING)[disc]
    values, membership = colours[disc], lesion[disc].astype(np.float64)
    for _ in range(ROUNDS):
        if min(membership.sum(), (1 - membership).sum()) < LEAST_MEMBERS:
            break
        skin, object_ = (_log_likelihood(values, weight) for weight in (1 - membership, membership))
        map_ = np.zeros(disc.shape)
        map_[disc] = 1 / (1 + np.exp(np.clip(skin - object_, -30, 30)))
        membership = ndimage.gaussian_filter(map_, SMOOTHING)[disc] / inside
    found = np.zeros(disc.shape, bool)
    found[disc] = membership > 0.5
    return found


def _log_likelihood(values: NDArray[np.floating], weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """Of values (n, 3) under the Gaussian of those weighted so, its share of all included; up to a constant."""
    centred = values - weight @ values / weight.sum()
    covariance = (weight[:, None] * centred).T @ centred / weight.sum() + VARIANCE * np.eye(values.shape[1])
    distance = ((centred @ np.linalg.inv(covariance)) * centred).sum(axis=1)
    return np.asarray(-0.5 * distance - 0.5 * np.linalg.slogdet(covariance)[1] + np.log(weight.mean()))
