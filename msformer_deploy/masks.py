"""Ground truth of images: masks in a folder of their own, found by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import ImageError, UsageError
from .imaging import InputImage
from .inputs import SUFFIXES, printable

MAX_STRETCH = 0.02  # by which a mask's proportions may differ from its image's: rounding, when one was made smaller
LEAST_INSIDE = 128  # of 255: lossy compression leaves small values everywhere in a mask


def pair(images: Sequence[Path], masks: Path) -> dict[Path, Path]:
    """The mask of every image that has one, in the order of the images.

    Args:
        images: files.
        masks: a folder of masks with the images' names, whatever the suffix.

    Raises:
        UsageError: there is no such folder, names do not tell images or masks apart, or no image has a mask.
    """
    if not masks.exists():
        raise UsageError(f"{printable(masks)}: no such folder")
    by_stem = _by_stem(masks.iterdir() if masks.is_dir() else [])
    _by_stem(images)
    found = {path: by_stem[path.stem] for path in images if path.stem in by_stem}
    if not found:
        folders = ", ".join(dict.fromkeys(printable(path.parent) for path in images))
        raise UsageError(f"{printable(masks)}: no mask has the name of an image in {folders}")
    return found


def read_mask(path: Path, image: InputImage, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the mask of an image: bool of ``shape`` (rows, columns), the nearest pixels of its own.

    Values of 128 and more are inside; where there are none, all but 0 are, as in masks of 0 and 1 or of class ids.

    Raises:
        ImageError: it cannot be read, has a transparency that says something, or is not of the image's shape.
    """
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
    values = np.asarray(mask.resize(shape[::-1], Image.Resampling.NEAREST))
    return values >= (LEAST_INSIDE if values.max(initial=0) >= LEAST_INSIDE else 1)


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Images by name without suffix, which must tell them apart."""
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
