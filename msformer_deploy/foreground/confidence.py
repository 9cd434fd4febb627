"""The DSC to expect of a label-free mask, and how far it may be off.

Two numbers of a mask and the probability of figure say it: their soft Dice coefficient, which is the DSC to expect if
the probability were right, and how sure the probability is where the figure is. The expected DSC is a linear function
of their product. ``studies/masks.py`` fits it on real images of many kinds, and judges it on kinds that a fit did not
see (``docs/explanation/quality.md``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LOW = 0.7  # expected DSC below which a mask is in doubt
# studies/masks.py prints these: what it fits, by least squares, and the quantiles of what is left.
CONSTANT, SLOPE = 0.278, 0.763
BELOW, ABOVE = 0.278, 0.139  # the DSC of 80 % of the images lies between expected - BELOW and expected + ABOVE
_TINY = 1e-6  # added to sums, so that nothing is divided by 0


class Confidence(NamedTuple):
    """What to expect of a mask.

    Attributes:
        value: expected DSC, 0..1.
        low, high: limits between which the DSC of 80 of 100 masks like this one is.
        doubt: why ``value`` is low; None if it is not.
    """

    value: float
    low: float
    high: float
    doubt: str | None


def confidence_of(mask: NDArray[np.bool_], probability: NDArray[np.float32]) -> Confidence:
    """What to expect of a mask.

    Args:
        mask: bool (H, W).
        probability: float32 (H, W) in 0..1, that a pixel is figure.
    """
    nothing = nothing_found(mask)
    if nothing is not None:
        return nothing
    dice, sureness = evidence(mask, probability)
    value = _within(CONSTANT + SLOPE * dice * sureness)
    doubt = None if value >= LOW else f"the mask is not certain: a DSC of about {value:.2f} is to be expected"
    return Confidence(value, _within(value - BELOW), _within(value + ABOVE), doubt)


def nothing_found(mask: NDArray[np.bool_]) -> Confidence | None:
    """What to expect of a mask that is empty or everything; None for another one, which takes a probability."""
    if not mask.any():
        return Confidence(0.0, 0.0, ABOVE, "the mask is empty: nothing was found that stands out")
    if mask.all():
        return Confidence(0.0, 0.0, ABOVE, "the mask covers the whole image: nothing was found around an object")
    return None


def evidence(mask: NDArray[np.bool_], probability: NDArray[np.float32]) -> tuple[float, float]:
    """Soft Dice of a mask with the probability, and the probability's mean where the figure is; each 0..1."""
    total = float(probability.sum())
    inside = float(probability[mask].sum())
    squares = float(np.square(probability).sum())
    return soft_dice(inside, total, float(mask.sum())), (squares + _TINY) / (total + _TINY)


def soft_dice(inside: float, total: float, area: float) -> float:
    """Soft Dice of a mask with a probability, 0..1, from sums.

    Args:
        inside: of the probability in the mask.
        total: of the probability.
        area: pixels of the mask.
    """
    return (2 * inside + _TINY) / (total + area + _TINY)


def _within(value: float) -> float:
    return min(max(value, 0.0), 1.0)
