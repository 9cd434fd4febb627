"""The black frame around the picture of an endoscope or fundus camera, which would be a region of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .morphology import filled, grown
from .view import BLACK, View

MARGIN = 2  # pixels beside the frame that its edge has darkened


def without_frame(image: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """The image with its black frame in the colours beside it; itself where it is grey or has no frame.

    With two regions kept, a frame left in place would be one of them, and all of the picture the other.

    Args:
        image: (3, S, S) float32, BGR in 0..1, at any size.
        view: of the same image; it decides whether there are colours and a frame.
    """
    from scipy import ndimage

    if not (view.coloured and view.framed):
        return image
    frame = grown(~filled(image.max(axis=0) >= BLACK), MARGIN)
    if not frame.any() or frame.all():
        return image
    rows, columns = ndimage.distance_transform_edt(frame, return_distances=False, return_indices=True)
    return np.ascontiguousarray(image[:, rows, columns])
