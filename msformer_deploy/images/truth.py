"""Ground truth of an image: one mask, or one for each class id; what is odd about it; its shape in the publication."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, printable
from . import masks
from .read import InputImage, resize_nearest

Mask = NDArray[np.bool_]

PUBLISHED_SIDE = 257  # pixels of the square on which the publication compares


class Truths(NamedTuple):
    """What a mask file says.

    Attributes:
        masks: bool (H, W) of the image's size by class id; under None all that is not background.
        notes: how the file was read, where that was a choice.
        warnings: what is likely to be wrong with it.
    """

    masks: dict[int | None, Mask]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def read_truths(path: Path, image: InputImage, classes: Sequence[int] = ()) -> Truths:
    """Read the ground truth of an image.

    A mask of another size but the image's proportions is resized by nearest neighbour. A soft one (compressed with
    loss, or of more than :data:`.masks.MOST_LEVELS` values) is cut at half of its range. A mask that looks inverted is
    told and used as it is.

    Args:
        path: of the mask file.
        image: whose it is.
        classes: ids, each a truth of its own; by default all that is not background is one.

    Raises:
        ImageError: as :func:`.masks.read_file` and :func:`.masks.check_is_another_picture`, or class ids are asked of a
            file that holds none: one in colours without a palette, or compressed with loss.
    """
    file = masks.read_file(path, image)
    masks.check_is_another_picture(path, file, image)
    if classes and file.ids is None:
        why = "compressed with loss" if file.lossy else "in colours"
        raise ImageError(f"{printable(path)}: a mask {why} holds no class ids; save ids as one channel of a PNG")
    height, width = file.values.shape
    notes = []
    if (height, width) != (image.height, image.width):
        notes.append("of another size than the image, resized by nearest neighbour")
    found: dict[int | None, Mask] = {}
    if classes and file.ids is not None:
        found.update({each: resize_nearest(file.ids == each, image.height, image.width) for each in classes})
    else:
        found[None] = resize_nearest(masks.inside(file), image.height, image.width)
        if file.coloured:
            notes.append("in colours, all but black taken for inside")
        elif file.soft:
            notes.append("with soft values, the brighter half of the range taken for inside")
    return Truths(found, tuple(notes), tuple(_oddities(found)))


def _oddities(found: dict[int | None, Mask]) -> list[str]:
    told = []
    for class_id, mask in found.items():
        what = "the mask" if class_id is None else f"class {class_id}"
        if mask.all():
            told.append(f"{what} covers the whole image")
        elif mask.mean() > 0.5 and _rim(mask).mean() > 0.5:
            told.append(f"{what} covers more than half of the image and most of its rim: inverted? Used as it is")
    return told


def _rim(mask: Mask) -> Mask:
    """The outermost pixels, in a row."""
    return np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])


def at_published_side(mask: Mask, side: int = PUBLISHED_SIDE) -> Mask:
    """A mask as the publication compares it: resized with bilinear interpolation, anything non-zero is inside.

    Args:
        mask: bool (H, W).
        side: of the square, pixels.

    Returns:
        bool (side, side); an object of few pixels of a large mask may vanish.
    """
    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR)) > 0


def published_truth(path: Path, side: int | None = PUBLISHED_SIDE) -> Mask:
    """Ground truth of a file by itself, its image not known: of its own size for ``side`` None, else as published.

    Raises:
        ImageError: as :func:`.masks.read_file`.
    """
    mask = masks.inside(masks.read_file(path))
    return mask if side is None else at_published_side(mask, side)
