"""The images that rows are measured on, and their ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..images.masks import read_mask
from ..images.read import read_image

MOST = 32  # in rotation; more only make the round longer
MOST_JUDGED = 8  # on which rows are compared without masks; the labels of more say nothing new


@dataclass(frozen=True)
class Images:
    """What rows are measured on.

    Attributes:
        paths: in rotation; accuracy is told on the first :attr:`judged`.
        masks: the ground truth of all of them, or empty.
    """

    paths: tuple[Path, ...]
    masks: dict[Path, Path] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """How many of them accuracy is told on: with masks all, as the DSC of single images differs much."""
        return len(self.paths) if self.masks else min(len(self.paths), MOST_JUDGED)

    def truth(self, place: int) -> NDArray[np.bool_] | None:
        """The mask of an image at its own size, or None.

        Raises:
            ImageError: it cannot be read.
        """
        path = self.paths[place]
        if path not in self.masks:
            return None
        image = read_image(path)
        return read_mask(self.masks[path], image, (image.height, image.width))


def choose_images(paths: Sequence[Path], masks: dict[Path, Path]) -> Images:
    """At most :data:`MOST` of them, evenly spread; where there are masks, of those that have one.

    Args:
        paths: images.
        masks: see :func:`.pairing.pair`; empty without ground truth.

    Raises:
        ImageError: an image or its mask cannot be read.
    """
    candidates = list(masks or paths)
    if len(candidates) > MOST:
        candidates = [candidates[index * len(candidates) // MOST] for index in range(MOST)]
    images = Images(tuple(candidates), masks)
    for place, path in enumerate(images.paths):
        read_image(path)
        images.truth(place)
    return images
