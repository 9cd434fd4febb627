"""Two regions told apart again by colour, evenly lit.

A dermoscope, like any lamp near skin, lights the middle more than the rim, so a region of the label map can join the
object to the dark corners. What is left of each channel's light after a smooth surface was taken from it does not know
where the lamp was; it tells the two regions apart as two Gaussians that start from them (expectation maximisation,
Dempster et al., 1977). Corners, where a smooth surface says least, keep the region that they have.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..images.read import resize_nearest
from .blur import gaussian
from .morphology import grown
from .view import SIDE, View

# Lengths are pixels of the small square, SIDE.
BLUR = 1.0  # standard deviation; hairs are thinner
RADIUS = 0.5  # of the disc that is not corners, as a part of the image's side
MARGIN = 3  # pixels around the darker region that are not clean
ROUNDS = 2  # of expectation maximisation
SMOOTHING = 1.5  # of memberships between rounds, standard deviation
VARIANCE = 1e-3  # added to each channel's, of logarithms
DARKEST = 0.02
MIN_GROUND = 500  # pixels that a surface is fitted to
MIN_MEMBERS = 20


def tell_apart(labels: NDArray[np.integer], view: View) -> NDArray[np.integer]:
    """A label map of two clusters, redrawn by colour.

    Args:
        labels: (S, S) cluster ids.
        view: of the image.

    Returns:
        (SIDE, SIDE) ids out of those in ``labels``, of the same type; ``labels`` itself unless the disc holds two.
    """
    disc = _disc()
    coarse = resize_nearest(labels, SIDE, SIDE)
    ids = coarse[disc]
    clusters = np.unique(ids)
    if clusters.size != 2:
        return labels
    colours = gaussian(view.small, BLUR)[:, disc]
    brightness = colours.mean(axis=0)
    dark, light = sorted(clusters, key=lambda cluster: float(np.median(brightness[ids == cluster])))
    drawn = coarse.copy()
    drawn[disc] = np.where(by_colour(colours, ids == dark, disc), dark, light)
    return drawn


def by_colour(colours: NDArray[np.floating], start: NDArray[np.bool_], field: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose colour, evenly lit, is rather that of a region than that of what else is in a field.

    Args:
        colours: (3, n) on 0..1, of the n pixels of the field.
        start: (n,) the region.
        field: bool (SIDE, SIDE).

    Returns:
        bool (n,); the region itself where it, or the rest, has hardly any pixels.
    """
    even = _evenly_lit(np.log(np.maximum(colours, DARKEST, dtype=np.float64)), start, field)
    left = gaussian(field.astype(np.float64), SMOOTHING)[field]
    membership = start.astype(np.float64)
    for _ in range(ROUNDS):
        if min(membership.sum(), (1 - membership).sum()) < MIN_MEMBERS:
            break
        rest, region = (_log_likelihood(even, weight) for weight in (1 - membership, membership))
        shares = np.zeros(field.shape)
        shares[field] = 1 / (1 + np.exp(np.clip(rest - region, -30, 30)))
        membership = gaussian(shares, SMOOTHING)[field] / left
    return np.asarray(membership > 0.5)


@cache
def _disc() -> NDArray[np.bool_]:
    rows, columns = _coordinates()
    return np.asarray(rows**2 + columns**2 < RADIUS**2)


@cache
def _coordinates() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, columns = np.meshgrid(*2 * [np.linspace(-0.5, 0.5, SIDE)], indexing="ij")
    return rows, columns


def _evenly_lit(
    colours: NDArray[np.float64], region: NDArray[np.bool_], field: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Logarithms (3, n) of a field less the quadratic surface of each channel that fits all but a region (n,) of it."""
    wide = np.zeros(field.shape, bool)
    wide[field] = region
    ground = ~grown(wide, MARGIN)[field]
    if ground.sum() < MIN_GROUND:
        return colours
    y, x = (axis[field] for axis in _coordinates())
    terms = np.stack([np.ones_like(y), y, x, y**2, x**2, y * x])
    seen = terms[:, ground]
    # The normal equations, and sums that wake no threads of a matrix library beside those of the encoder.
    fit = np.linalg.solve(np.einsum("in,jn->ij", seen, seen), np.einsum("in,cn->ic", seen, colours[:, ground]))
    return np.asarray(colours - np.einsum("ic,in->cn", fit, terms))


def _log_likelihood(colours: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of colours (3, n) under the Gaussian of those weighted so, its share of all included; up to a constant."""
    centred = colours - (colours * weight).sum(axis=1, keepdims=True) / weight.sum()
    covariance = np.einsum("in,jn->ij", centred * weight, centred) / weight.sum() + VARIANCE * np.eye(len(colours))
    distance = np.einsum("in,in->n", np.einsum("ij,jn->in", np.linalg.inv(covariance), centred), centred)
    return np.asarray(-0.5 * distance - 0.5 * np.linalg.slogdet(covariance)[1] + np.log(weight.mean()))
