"""Weighted means of neighbouring pixels: a Gaussian blur, and means over square windows.

Both are plain separable filters: down the columns first, then along the rows. They give what ``scipy.ndimage`` gives up
to rounding, but the runtime needs no SciPy. A filter is a sum of shifted images and not a product with a matrix: a
product would wake the threads of a matrix library, which compete with those of the encoder.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


def gaussian(values: NDArray[Any], sigma: float, truncate: float = 4.0) -> NDArray[Any]:
    """Blur an image. Beyond the border it continues as its mirror image, border pixels included.

    Args:
        values: float (..., H, W); axes before the last two are channels.
        sigma: standard deviation of the Gaussian, pixels.
        truncate: distance at which the Gaussian ends, standard deviations.

    Returns:
        the same shape and dtype.
    """
    return _filtered(values, _gaussian_weights(sigma, int(truncate * sigma + 0.5)), "symmetric")


def box(values: NDArray[Any], radius: int) -> NDArray[Any]:
    """Means over square windows. Beyond the border the border pixels are repeated.

    Args:
        values: float (..., H, W).
        radius: a window has twice as many pixels and one on each side.

    Returns:
        the same shape and dtype.
    """
    return _filtered(values, (1 / (2 * radius + 1),) * (radius + 1), "edge")


@cache
def _gaussian_weights(sigma: float, radius: int) -> tuple[float, ...]:
    """Weights of the distances ``radius`` to 0; over both sides their sum is 1."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return tuple((weights / weights.sum())[: radius + 1].tolist())


@cache
def _places(size: int, radius: int, border: Literal["edge", "symmetric"]) -> NDArray[np.intp]:
    """The rows that an image of ``size`` rows continues with, ``radius`` rows on either side, its own included."""
    return np.pad(np.arange(size), radius, mode=border)


def _filtered(values: NDArray[Any], weights: tuple[float, ...], border: Literal["edge", "symmetric"]) -> NDArray[Any]:
    for size in values.shape[-2:]:  # down the columns and swap the axes, twice
        wide = values[..., _places(size, len(weights) - 1, border), :]
        values = np.ascontiguousarray(_sums(wide, weights).swapaxes(-1, -2))
    return values


def _sums(wide: NDArray[Any], weights: tuple[float, ...]) -> NDArray[Any]:
    """Weighted sums of the rows around each row; ``weights`` are those of the distances from the farthest to 0."""
    farthest = len(weights) - 1
    rows = wide.shape[-2] - 2 * farthest
    total = wide[..., farthest : farthest + rows, :] * weights[farthest]
    pair = np.empty_like(total)
    for above, weight in enumerate(weights[:farthest]):
        below = 2 * farthest - above
        np.add(wide[..., above : above + rows, :], wide[..., below : below + rows, :], out=pair)
        pair *= weight
        total += pair
    return total
