"""Mask files, the ground truth of images. :mod:`.pairing` finds the mask of each image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, printable
from . import label_files
from .annotations import painting
from .read import InputImage, failing_by_name, is_slice, read_stored, resize_nearest

MAX_STRETCH = 0.02  # difference between the aspect ratios of mask and image; resizing rounds
MAX_LEVELS = 16  # distinct values of a mask of ids; a mask with more has soft borders
MAX_TINT = 32  # difference between the channels of a grey pixel, of 255: lossy compression tints
LARGEST = 65535
DEEP = (1023, 4095, 16383)  # the largest values of 10, 12 and 14 bits


@dataclass(frozen=True, eq=False)
class MaskFile:
    """Content of a mask file.

    Attributes:
        values: (h, w) whole numbers from 0 to :data:`LARGEST`: grey values, or the brightest channel of colours.
        ids: (h, w) class ids: grey values or indices into a palette; None for a file without ids.
        lossy: compressed with loss, which leaves small values everywhere.
        coloured: whether the channels differ.
        drawn: whether it was painted of the shapes of an annotation or read of a file of labels, so that every value is
            an id or stands for one.
        unnumbered: why such a mask has no ids and what to do.
        notes: how the file was interpreted, where there was a choice.
    """

    values: NDArray[np.integer]
    ids: NDArray[np.integer] | None
    lossy: bool
    coloured: bool
    drawn: bool = False
    unnumbered: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def soft(self) -> bool:
        """Whether a value is the share of a pixel inside the mask, not an id."""
        levels = int(np.count_nonzero(np.bincount(self.values.ravel())))
        return self.lossy or (not self.coloured and not self.drawn and levels > MAX_LEVELS)


def read_mask(path: Path, image: InputImage, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the mask of an image, bool, resized to ``shape`` (rows, columns) by nearest neighbour.

    Raises:
        ImageError: as :func:`read_file` and :func:`check_is_another_picture`.
    """
    file = read_file(path, image)
    check_is_another_picture(path, file, image)
    return resize_nearest(inside(file), *shape)


def check_is_another_picture(path: Path, file: MaskFile, image: InputImage) -> None:
    """Check that a mask is not its image in another file format; :mod:`.pairing` refuses only equal bytes.

    Raises:
        ImageError: the mask has the pixels of the image, and more values than a mask of ids.
    """
    if image.pixels.dtype != np.uint8 or file.values.shape != image.pixels.shape[:2]:
        return
    same = np.array_equal(image.pixels.max(axis=2), file.values)
    if same and np.unique(file.values).size > MAX_LEVELS:
        raise ImageError(f"{printable(path)}: the mask has the pixels of its image; replace it with the mask")


def inside(file: MaskFile) -> NDArray[np.bool_]:
    """Pixels of a mask that are not background, bool (h, w).

    These are all values except 0; in a soft mask, the brighter half of its range. The range is that of 10, 12 or 14
    bits if the largest value is theirs, else that of 8 or 16 bits.
    """
    largest = int(file.values.max())
    half = (largest if largest in DEEP else LARGEST if largest > 255 else 255) // 2 + 1
    return file.values >= (half if file.soft and file.values.max() >= half else 1)


def sha256_of(mask: NDArray[np.bool_]) -> str:
    """SHA-256 of a mask of any shape: the shape in decimal with an x between lengths, then its bits, packed."""
    shape = "x".join(map(str, mask.shape))
    return hashlib.sha256(shape.encode() + np.packbits(mask).tobytes()).hexdigest()


def read_file(path: Path, image: InputImage | None = None) -> MaskFile:
    """Read the first page of a mask file, paint an annotation, or take the labels of a clinical file.

    Args:
        path: the file, also one that :mod:`.label_files` reads, or an image in a COCO file (:mod:`.annotations`).
        image: the image; the mask must have its aspect ratio. None accepts any.

    Raises:
        ImageError: it cannot be read, has a transparency that varies, has values that are not ids, or has another
            aspect ratio than the image; or as :func:`.painting.read` and :func:`.label_files.of_image`.
        BackendUnavailable: a package that reads it, such as h5py for HDF5, is missing.
    """
    painted = painting.read(path, None if image is None else (image.height, image.width))
    if painted is not None:
        return MaskFile(painted.values, painted.ids, False, False, drawn=True, unnumbered=painted.unnumbered)
    with failing_by_name(path):
        if is_slice(path):
            return _labels(path, image)
    if label_files.kind_of(path) is not None:
        labels, notes = label_files.of_image(path, image)
        _check_shape(path, (labels.shape[1], labels.shape[0]), image)
        return MaskFile(labels, labels, False, False, drawn=True, notes=notes)
    picture = read_stored(path)
    if picture.alpha is not None and picture.alpha.min() != picture.alpha.max():
        raise ImageError(f"{printable(path)}: is a mask with transparency; save it in black and white")
    pixels = picture.values
    if picture.white_is_zero and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    _check_shape(path, (pixels.shape[1], pixels.shape[0]), image)
    # In this order, because comparisons with NaN are false.
    if not (pixels.min() >= 0 and pixels.max() <= LARGEST and (pixels == np.floor(pixels)).all()):
        raise ImageError(
            f"{printable(path)}: has values that are not whole numbers from 0 to {LARGEST}; save the mask as a PNG"
        )
    coloured = False
    if pixels.ndim == 3:
        deep = pixels.max() > 255
        coloured = bool(np.ptp(pixels, axis=2).max() > MAX_TINT * (257 if deep else 1))
        pixels = pixels.max(axis=2)
    values = pixels.astype(np.int64)
    ids = None if picture.lossy or coloured else values
    return MaskFile(values, ids if picture.places is None else picture.places, picture.lossy, coloured)


def _labels(path: Path, image: InputImage | None) -> MaskFile:
    """The truth of a slice in HDF5; all its values are ids."""
    from . import hdf5

    with hdf5.opened(path) as file:
        stored = hdf5.plane(file, "label", path)
    _check_shape(path, (stored.shape[1], stored.shape[0]), image)
    if stored.dtype.kind not in "iu" or stored.min() < 0 or stored.max() > LARGEST:
        raise ImageError(f"{printable(path)}: its 'label' holds no ids from 0 to {LARGEST}; write whole numbers")
    ids = stored.astype(np.int64)
    return MaskFile(ids, ids, lossy=False, coloured=False)


def _check_shape(path: Path, size: tuple[int, int], image: InputImage | None) -> None:
    width, height = size
    if image is None or abs(width * image.height - height * image.width) <= MAX_STRETCH * width * image.height:
        return
    raise ImageError(
        f"{printable(path)}: a mask of {width} x {height} for an image of {image.width} x {image.height};"
        " give one of the image's shape"
    )
