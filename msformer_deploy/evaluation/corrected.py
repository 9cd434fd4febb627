"""What corrected images are worth: a few of the images teach a head, and all others are judged with it.

The truths of the chosen images stand for corrected masks. Images are chosen :data:`DRAWS` times, always
the same for the same images; every image is judged in the draws in which it is not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..foreground.threshold import threshold_of
from ..images.read import resize_linear
from ..measures.overlap import overlap
from ..measures.statistics import SEED
from ..refinement.like import Example, Identity, learn
from .summary import mean_interval

DRAWS = 10  # at most as many as there are images


class Corrected:
    """The examples of an evaluation.

    Args:
        counts: numbers of corrected images to judge.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = tuple(dict.fromkeys(counts))
        self._examples: dict[str, Example] = {}

    def add(self, name: str, example: Example) -> None:
        """Take an image with its truth."""
        self._examples[name] = example

    def summary(self, identity: Identity) -> list[dict[str, Any]]:
        """One record for each number of corrected images.

        Args:
            identity: of the heads.

        Returns:
            plain data: ``corrected`` (the number), ``draws``, ``images`` (those judged), ``dsc`` and ``label_free`` of
            the same images, and their ``difference``, paired by image. Each has ``mean``, ``low`` and ``high``, see
            :func:`.summary.mean_interval`. Where there are not more images than are to be corrected, ``draws`` and
            ``images`` are 0 and the numbers None.
        """
        names = list(self._examples)
        before = {name: _dsc(each.figure, each.mask) for name, each in self._examples.items()}
        return [self._judged(count, names, before, identity) for count in self._counts]

    def _judged(self, count: int, names: list[str], before: dict[str, float], identity: Identity) -> dict[str, Any]:
        found: dict[str, list[float]] = {}
        chosen = draws(len(names), count)
        for each in chosen:
            head = learn([self._examples[names[index]] for index in each], identity)
            for index in sorted(set(range(len(names))) - set(each)):
                example = self._examples[names[index]]
                probability = head.apply(example.pixels, example.figure)
                found.setdefault(names[index], []).append(_dsc(probability, example.mask))
        images = list(found)
        dsc = np.array([np.mean(found[name]) for name in images])
        free = np.array([before[name] for name in images])
        return {
            "corrected": count,
            "draws": len(chosen),
            "images": len(images),
            "dsc": _numbers(dsc, images),
            "label_free": _numbers(free, images),
            "difference": _numbers(dsc - free, images),
        }


def draws(images: int, count: int) -> list[list[int]]:
    """Which images are corrected in each draw: every image about equally often, in a random order that is fixed.

    Args:
        images: that there are.
        count: of those to choose; none are chosen where no image would be left.
    """
    if count >= images:
        return []
    order = np.random.default_rng(SEED).permutation(images)
    starts = sorted({draw * images // DRAWS for draw in range(DRAWS)})
    return [sorted(int(order[(start + step) % images]) for step in range(count)) for start in starts]


def _dsc(probability: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Of the mask of ``auto`` at the image's size."""
    return overlap(resize_linear(probability, *mask.shape) > threshold_of(probability), mask).dsc


def _numbers(values: NDArray[np.float64], images: list[str]) -> dict[str, float | None]:
    if not len(values):
        return {"mean": None, "low": None, "high": None}
    low, high = mean_interval(values, images)
    return {"mean": float(values.mean()), "low": low, "high": high}
