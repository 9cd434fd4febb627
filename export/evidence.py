"""The real images on which precisions are calibrated and judged: the user's own, or the samples of scikit-image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from msformer_deploy.errors import UsageError, printable
from msformer_deploy.images.inputs import PassedOver, discover
from msformer_deploy.images.masks import read_mask
from msformer_deploy.images.pairing import pair, without_masks
from msformer_deploy.images.read import network_input, read_image
from msformer_deploy.images.samples import sample_images

from .judge import Sample

T = TypeVar("T")
MOST_CALIBRATED, MOST_JUDGED = 16, 32  # of a folder, evenly spread over it: beyond that only the time grows
ENOUGH_TO_SPLIT = 4  # with fewer, the images that calibrate are also those that judge


@dataclass(frozen=True)
class Evidence:
    """Images to calibrate on, and images to judge on with their masks where there are any."""

    calibration: tuple[Path, ...]
    judged: tuple[tuple[Path, Path | None], ...]

    def inputs(self, side: int) -> Iterator[NDArray[np.float32]]:
        """Images to calibrate on, (1, 3, S, S) each.

        Raises:
            ImageError: one cannot be read.
        """
        for path in self.calibration:
            yield network_input(read_image(path), side)[None]

    def samples(self, side: int) -> Iterator[Sample]:
        """Images to judge on.

        Raises:
            ImageError: an image or its mask cannot be read.
        """
        for path, mask in self.judged:
            image = read_image(path)
            truth = None if mask is None else read_mask(mask, image, (side, side))
            yield Sample(path.name, network_input(image, side)[None], truth)


def built_in() -> Evidence:
    """The three sample images."""
    paths = tuple(sample_images())
    return Evidence(paths, tuple((path, None) for path in paths))


def from_folders(images: Path, masks: Path | None = None, say: Callable[[str], object] = lambda line: None) -> Evidence:
    """The user's images; every second one calibrates and the others judge, where there are enough.

    Args:
        images: a folder of images, or one image.
        masks: a folder of masks, see :mod:`msformer_deploy.images.pairing`; images without one are not judged.
        say: called with a line about files of the folders that are passed over.

    Raises:
        UsageError: there are no images, or as :func:`msformer_deploy.images.pairing.pair`.
    """
    if not images.exists():
        raise UsageError(f"{printable(images)}: no such file or folder")
    passed_over = PassedOver()
    items = discover([images], passed_over=passed_over)
    pairs: list[tuple[Path, Path | None]]
    if masks is None:
        pairs = [(item.path, None) for item in without_masks(items, say)]
    else:
        pairs = list(pair(items, masks, passed_over).pairs.items())
    line = passed_over.line()
    if line is not None:
        say(line)
    if len(pairs) < ENOUGH_TO_SPLIT:
        return Evidence(tuple(path for path, _ in pairs), tuple(pairs))
    calibration = [path for path, _ in pairs[::2]]
    return Evidence(tuple(_spread(calibration, MOST_CALIBRATED)), tuple(_spread(pairs[1::2], MOST_JUDGED)))


def _spread(items: list[T], most: int) -> list[T]:
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]
