"""Two regions told apart again by colour, evenly lit.

A dermoscope, like any lamp near skin, lights the middle more than the rim, so a region of the label map can join the
object to the dark corners. What is left of each channel's light after a smooth surface was taken from it does not know
where the lamp was; it tells the two regions apart as two Gaussians that start from them (expectation maximisation,
Dempster et al., 1977). Corners, where a smooth surface says least, keep the region that they have.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .imaging import resize_nearest

SIDE = 129  # pixels of the square on which colours are compared; lengths below are pixels of it
BLUR = 1.0  # standard deviation; hairs are thinner
RADIUS = 0.5  # of the disc that is not corners, as a part of the image's side
MARGIN = 3  # pixels around the darker region that are not clean
ROUNDS = 2  # of expectation maximisation
SMOOTHING = 1.5  # of memberships between rounds, standard deviation
VARIANCE = 1e-3  # added to each channel's, of logarithms
DARKEST = 0.02
LEAST_GROUND = 500  # pixels that a surface is fitted to
LEAST_MEMBERS = 20


def tell_apart(labels: NDArray[np.integer], image: NDArray[np.float32]) -> NDArray[np.integer]:
    """A label map of two clusters, redrawn by colour.

    Args:
        labels: (S, S) cluster ids.
        image: (3, T, T) float32 in 0..1.

    Returns:
        (SIDE, SIDE) ids out of those in ``labels``, of the same type; ``labels`` itself unless the disc holds two.
    """
    from scipy import ndimage

    coarse = resize_nearest(labels, SIDE, SIDE)
    blurred = np.stack([ndimage.gaussian_filter(resize_nearest(each, SIDE, SIDE), BLUR) for each in image])
    rows, columns = np.meshgrid(*2 * [np.linspace(-0.5, 0.5, SIDE)], indexing="ij")
    disc = rows**2 + columns**2 < RADIUS**2
    clusters = np.unique(coarse[disc])
    if clusters.size != 2:
        return labels
    brightness = blurred.mean(axis=0)
    dark, light = sorted(clusters, key=lambda cluster: float(np.median(brightness[disc & (coarse == cluster)])))
    darker = disc & (coarse == dark)
    surface = np.stack([np.ones_like(rows), rows, columns, rows**2, columns**2, rows * columns], axis=-1)
    colours = _evenly_lit(np.log(np.maximum(blurred, DARKEST)).transpose(1, 2, 0), surface, darker, disc)
    return np.where(disc, np.where(_by_colour(colours, darker, disc), dark, light), coarse).astype(labels.dtype)


def _evenly_lit(
    colours: NDArray[np.floating], surface: NDArray[np.floating], darker: NDArray[np.bool_], disc: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """Logarithms (H, W, 3) less the quadratic surface of each channel that fits the lighter region."""
    from scipy import ndimage

    ground = disc & ~ndimage.binary_dilation(darker, iterations=MARGIN)
    if ground.sum() < LEAST_GROUND:
        return colours
    return np.asarray(colours - surface @ np.linalg.lstsq(surface[ground], colours[ground], rcond=None)[0])


def _by_colour(colours: NDArray[np.floating], darker: NDArray[np.bool_], disc: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the disc whose colour is rather the darker region's than the lighter one's."""
    from scipy import ndimage

    inside = ndimage.gaussian_filter(disc.astype(np.float64), SMOOTHING)[disc]
    values, membership = colours[disc], darker[disc].astype(np.float64)
    for _ in range(ROUNDS):
        if min(membership.sum(), (1 - membership).sum()) < LEAST_MEMBERS:
            break
        lighter, dark = (_log_likelihood(values, weight) for weight in (1 - membership, membership))
        shares = np.zeros(disc.shape)
        shares[disc] = 1 / (1 + np.exp(np.clip(lighter - dark, -30, 30)))
        membership = ndimage.gaussian_filter(shares, SMOOTHING)[disc] / inside
    found = np.zeros(disc.shape, bool)
    found[disc] = membership > 0.5
    return found


def _log_likelihood(values: NDArray[np.floating], weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """Of values (n, 3) under the Gaussian of those weighted so, its share of all included; up to a constant."""
    centred = values - weight @ values / weight.sum()
    covariance = (weight[:, None] * centred).T @ centred / weight.sum() + VARIANCE * np.eye(values.shape[1])
    distance = ((centred @ np.linalg.inv(covariance)) * centred).sum(axis=1)
    return np.asarray(-0.5 * distance - 0.5 * np.linalg.slogdet(covariance)[1] + np.log(weight.mean()))
