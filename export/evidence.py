"""The real images on which precisions are calibrated and judged: the user's own, or the samples of scikit-image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.imaging import InputImage, network_input, read_image
from msformer_deploy.inputs import SUFFIXES, discover, printable
from msformer_deploy.samples import sample_images

from .judge import Sample

T = TypeVar("T")
MOST_CALIBRATED, MOST_JUDGED = 16, 32  # of a folder, evenly spread over it: beyond that only the time grows
ENOUGH_TO_SPLIT = 4  # with fewer, the images that calibrate are also those that judge
MAX_STRETCH = 0.02  # by which a mask's proportions may differ from its image's: rounding, when one was made smaller
LEAST_INSIDE = 128  # of 255: lossy compression leaves small values everywhere in a mask


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
            truth = None if mask is None else _read_mask(mask, image, side)
            yield Sample(path.name, network_input(image, side)[None], truth)


def built_in() -> Evidence:
    """The three sample images."""
    paths = tuple(sample_images())
    return Evidence(paths, tuple((path, None) for path in paths))


def from_folders(images: Path, masks: Path | None = None) -> Evidence:
    """The user's images; every second one calibrates and the others judge, where there are enough.

    Args:
        images: a folder of images, or one image.
        masks: a folder of masks with the images' names, whatever the suffix; images without one are not judged.

    Raises:
        UsageError: there are no images, or none has a mask.
    """
    if not images.exists():
        raise UsageError(f"{printable(images)}: no such file or folder")
    paths = [item.path for item in discover([images])]
    pairs: list[tuple[Path, Path | None]] = [(path, None) for path in paths]
    if masks is not None:
        by_stem = _by_stem(masks.iterdir() if masks.is_dir() else [], masks)
        _by_stem(paths, images)
        pairs = [(path, by_stem[path.stem]) for path in paths if path.stem in by_stem]
        if not pairs:
            raise UsageError(f"{printable(masks)}: no mask has the name of an image in {printable(images)}")
    if len(pairs) < ENOUGH_TO_SPLIT:
        return Evidence(tuple(path for path, _ in pairs), tuple(pairs))
    calibration = [path for path, _ in pairs[::2]]
    return Evidence(tuple(_spread(calibration, MOST_CALIBRATED)), tuple(_spread(pairs[1::2], MOST_JUDGED)))


def _by_stem(paths: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Images by name without suffix, which must tell them apart where masks are found by it."""
    if not folder.exists():
        raise UsageError(f"{printable(folder)}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in found:
            raise UsageError(
                f"{printable(path)}: a second image of that name, beside {printable(found[path.stem])}; masks are found"
                " by name, so rename one"
            )
        found[path.stem] = path
    return found


def _spread(items: list[T], most: int) -> list[T]:
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]


def _read_mask(path: Path, image: InputImage, side: int) -> NDArray[np.bool_]:
    try:
        with Image.open(path) as file:
            if "A" in file.getbands() and len(set(file.getchannel("A").getextrema())) > 1:
                raise ImageError(f"{printable(path)}: a mask with transparency; save it in black and white")
            mask = file.convert("L")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{printable(path)}: cannot be read as a mask ({error})") from error
    width, height = mask.size
    if abs(width * image.height - height * image.width) > MAX_STRETCH * width * image.height:
        raise ImageError(
            f"{printable(path)}: a mask of {width} x {height} for an image of {image.width} x {image.height};"
            " give one of the image's shape"
        )
    values = np.asarray(mask.resize((side, side), Image.Resampling.NEAREST))
    # Masks of 0 and 1, or of small class ids, are as common as masks of 0 and 255.
    return values >= (LEAST_INSIDE if values.max(initial=0) >= LEAST_INSIDE else 1)
