"""Turn pictures upright by the eight values of the orientation in EXIF and TIFF."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ..quiet import warnings_of
from .stored import Stored

ORIENTATION = 274  # the tag's number

UNREADABLE = "its EXIF is damaged and was not read; the image is used as it is stored"


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn a stored array (H, W) or (H, W, C) upright; values other than 2 to 8 leave it unchanged.

    The values are those of TIFF 6.0, page 36: the sides of the picture that the first row and the first column show.
    """
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def turned(picture: Stored, orientation: int) -> Stored:
    """Turn a picture upright, with its palette indices and its alpha."""
    places, alpha = (None if each is None else upright(each, orientation) for each in (picture.places, picture.alpha))
    return replace(picture, values=upright(picture.values, orientation), places=places, alpha=alpha)


def orientation_of(image: Image.Image) -> tuple[int, tuple[str, ...]]:
    """Return the orientation of an image that Pillow opened, 1 by default, and a remark if its EXIF is damaged.

    The caller must silence Pillow's warnings. EXIF comes first, then XMP.
    """
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
        if found is None and "exif" in image.info:
            # Pillow only warns of damage inside EXIF, and then tags are missing.
            with warnings_of(r"PIL\.", "error"):
                Image.Exif().load(image.info["exif"])
    except Exception:  # damaged metadata can raise any error in Pillow
        return 1, (UNREADABLE,)
    return (found if isinstance(found, int) and 1 <= found <= 8 else 1), ()
