"""Ground truth of an image: one mask or one per class id, warnings on it, and its form in the publication."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, printable
from . import label_files, masks
from .read import InputImage, resize_nearest
from .volume import Volume

Mask = NDArray[np.bool_]

PUBLISHED_SIDE = 257  # side of the square on which the publication compares masks, pixels


class Truths(NamedTuple):
    """The ground truth in a mask file.

    Attributes:
        masks: masks by class id, bool (H, W) of the image's size, or (N, H, W) of a volume's; the key None holds all
            that is not background.
        notes: how the file was interpreted, where there was a choice.
        warnings: likely mistakes in the file.
    """

    masks: dict[int | None, Mask]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def read_truths(path: Path, image: InputImage, classes: Sequence[int] = ()) -> Truths:
    """Read the ground truth of an image.

    A mask of another size with the image's aspect ratio is resized by nearest neighbour. A soft mask (compressed with
    loss, or with more than :data:`.masks.MAX_LEVELS` values) is cut at half of its range. A mask that looks inverted
    gives a warning and is used unchanged.

    Args:
        path: the mask file.
        image: the image of the mask.
        classes: class ids; each gives a separate mask. Default: one mask of all that is not background.

    Raises:
        ImageError: as :func:`.masks.read_file` and :func:`.masks.check_is_another_picture`, or class ids are given but
            the file has no ids: it is coloured without a palette, compressed with loss, or has labels that are none.
    """
    file = masks.read_file(path, image)
    masks.check_is_another_picture(path, file, image)
    if classes and file.ids is None:
        if file.unnumbered:
            raise ImageError(f"{printable(path)}: {file.unnumbered}")
        why = "compressed with loss" if file.lossy else "in colours"
        raise ImageError(f"{printable(path)}: a mask {why} holds no class ids; save ids as one channel of a PNG")
    height, width = file.values.shape
    notes = list(file.notes)
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


def read_volume_truths(path: Path, volume: Volume, classes: Sequence[int] = ()) -> Truths:
    """Read the ground truth of a volume.

    Args:
        path: the file: NIfTI, NRRD, MetaImage or a DICOM segmentation.
        volume: whose truth it is.
        classes: class ids; each gives a separate mask. Default: one mask of all that is not background.

    Returns:
        masks (N, H, W) on the voxels of the volume.

    Raises:
        ImageError, BackendUnavailable: as :func:`.label_files.of_volume`.
    """
    labels = label_files.of_volume(path, volume)
    found: dict[int | None, Mask] = {each: labels == each for each in classes} or {None: labels > 0}
    return Truths(found, (), tuple(_oddities(found, "volume")))


def _oddities(found: dict[int | None, Mask], of: str = "image") -> list[str]:
    warnings = []
    for class_id, mask in found.items():
        what = "the mask" if class_id is None else f"class {class_id}"
        if mask.all():
            warnings.append(f"{what} covers the whole {of}")
        elif mask.mean() > 0.5 and _rim(mask).mean() > 0.5:
            warnings.append(f"{what} covers more than half of the {of} and most of its rim: inverted? Used unchanged")
    return warnings


def _rim(mask: Mask) -> Mask:
    """The outermost pixels of an image, or of all slices, as one row."""
    sides = (mask[..., 0, :], mask[..., -1, :], mask[..., 1:-1, 0], mask[..., 1:-1, -1])
    return np.concatenate([each.ravel() for each in sides])


def at_published_side(mask: Mask, side: int = PUBLISHED_SIDE) -> Mask:
    """Resize a mask as the publication does: bilinear interpolation, every non-zero pixel is inside.

    Args:
        mask: bool (H, W).
        side: side of the square, pixels.

    Returns:
        bool (side, side); a small object in a large mask may vanish.
    """
    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR)) > 0


def published_truth(path: Path, side: int | None = PUBLISHED_SIDE) -> Mask:
    """Read the ground truth of a file without its image: in its own size for ``side`` None, else as published.

    Raises:
        ImageError: as :func:`.masks.read_file`.
    """
    mask = masks.inside(masks.read_file(path))
    return mask if side is None else at_published_side(mask, side)
