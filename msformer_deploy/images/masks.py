"""Ground truth of images: what mask files hold. :mod:`.pairing` finds the mask of each image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .inputs import printable
from .read import InputImage, failing_by_name, is_slice, read_stored, resize_nearest

MAX_STRETCH = 0.02  # by which a mask's proportions may differ from its image's: rounding, when one was made smaller
MOST_LEVELS = 16  # values of a mask of ids; one of more has soft borders
MAX_TINT = 32  # between the channels of a grey pixel, of 255: lossy compression tints
LARGEST = 65535
DEEP = (1023, 4095, 16383)  # the largest values of 10, 12 and 14 bits


@dataclass(frozen=True, eq=False)
class MaskFile:
    """What a mask file holds.

    Attributes:
        values: (h, w) whole numbers from 0 to :data:`LARGEST`: grey, or of a picture in colours the brightest channel.
        ids: (h, w) class ids, which are grey values or places in a palette; None for a file that holds none.
        lossy: compressed with loss, which leaves small values everywhere.
        coloured: channels differ.
    """

    values: NDArray[np.integer]
    ids: NDArray[np.integer] | None
    lossy: bool
    coloured: bool

    @cached_property
    def soft(self) -> bool:
        """Whether values say how much of a pixel is inside, not what it is."""
        levels = int(np.count_nonzero(np.bincount(self.values.ravel())))
        return self.lossy or (not self.coloured and levels > MOST_LEVELS)


def read_mask(path: Path, image: InputImage, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the mask of an image: bool of ``shape`` (rows, columns), the nearest pixels of its own.

    Raises:
        ImageError: as :func:`read_file` and :func:`check_is_another_picture`.
    """
    file = read_file(path, image)
    check_is_another_picture(path, file, image)
    return resize_nearest(inside(file), *shape)


def check_is_another_picture(path: Path, file: MaskFile, image: InputImage) -> None:
    """See that a mask is not its image, saved in another format: :mod:`.pairing` refuses the same bytes only.

    Raises:
        ImageError: it has the pixels of the image, and more values than a mask of ids.
    """
    if image.pixels.dtype != np.uint8 or file.values.shape != image.pixels.shape[:2]:
        return
    same = np.array_equal(image.pixels.max(axis=2), file.values)
    if same and np.unique(file.values).size > MOST_LEVELS:
        raise ImageError(f"{printable(path)}: the mask has the pixels of its image; replace it with the mask")


def inside(file: MaskFile) -> NDArray[np.bool_]:
    """What is not background, bool (h, w).

    All but 0; of a soft mask what is in the brighter half of its range, where anything is. The range is that of 10, 12
    or 14 bits where the largest value is theirs, else of 8 or 16.
    """
    largest = int(file.values.max())
    half = (largest if largest in DEEP else LARGEST if largest > 255 else 255) // 2 + 1
    return file.values >= (half if file.soft and file.values.max() >= half else 1)


def read_file(path: Path, image: InputImage | None = None) -> MaskFile:
    """Read a mask file: its first page, as it is.

    Args:
        path: of the file.
        image: whose proportions it must have; None for any.

    Raises:
        ImageError: it cannot be read, has a transparency that says something, values that are no ids, or is not of the
            image's shape.
        BackendUnavailable: h5py, which reads HDF5, is missing.
    """
    with failing_by_name(path):
        if is_slice(path):
            return _labels(path, image)
    picture = read_stored(path)
    if picture.alpha is not None and picture.alpha.min() != picture.alpha.max():
        raise ImageError(f"{printable(path)}: a mask with transparency; save it in black and white")
    pixels = picture.values
    if picture.white_is_zero and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    _check_shape(path, (pixels.shape[1], pixels.shape[0]), image)
    # In this order, as NaN compares as false.
    if not (pixels.min() >= 0 and pixels.max() <= LARGEST and (pixels == np.floor(pixels)).all()):
        raise ImageError(
            f"{printable(path)}: a mask with values that are not whole numbers from 0 to {LARGEST}; save it as a PNG"
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
    """The truth of a slice in HDF5, which is of ids whatever they are."""
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
