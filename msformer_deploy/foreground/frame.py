"""The black frame around the picture of an endoscope or fundus camera, which would be a region of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLOURED = 0.03  # mean distance of red and blue, on 0..1, above which an image is in colour
BLOCK = 8  # pixels
BLACK = 0.12  # what is darker in every channel is frame
LEAST_FRAME = 0.02  # of the image; skin has less that is black
MARGIN = 2  # pixels beside the frame that its edge has darkened


def is_coloured(image: NDArray[np.float32]) -> bool:
    """Whether an image (3, S, S), BGR in 0..1, has colours."""
    rows, columns = (size // BLOCK * BLOCK for size in image.shape[1:])
    difference = (image[2] - image[0])[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return bool(np.abs(difference.mean(axis=(1, 3))).mean() > COLOURED)  # of blocks: noise is no colour


def has_frame(image: NDArray[np.float32]) -> bool:
    """Whether so much of an image (3, S, S) is black that it is no picture of skin."""
    return bool((image.max(axis=0) < BLACK).mean() >= LEAST_FRAME)


def without_frame(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image (3, S, S), its black frame in the colours nearest to it; grey images and those without one as they are.

    With two regions kept, a frame left in place would be one of them, and all of the picture the other.
    """
    from scipy import ndimage

    if not (is_coloured(image) and has_frame(image)):
        return image
    numbered, _ = ndimage.label(image.max(axis=0) < BLACK)
    border = np.concatenate([numbered[0], numbered[-1], numbered[:, 0], numbered[:, -1]])
    frame = np.isin(numbered, border[border > 0])
    frame = ndimage.binary_dilation(frame, iterations=MARGIN)
    if not frame.any() or frame.all():
        return image
    rows, columns = ndimage.distance_transform_edt(frame, return_distances=False, return_indices=True)
    return np.ascontiguousarray(image[:, rows, columns])
