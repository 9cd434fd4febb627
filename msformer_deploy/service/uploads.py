"""Images that a client sends as the bytes of a file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import printable
from ..images.decoders import formats, stored
from ..images.image import InputImage
from ..images.read import image_from_array, read_image
from .refused import Refused, calling

DICOM = "image.dcm"  # file of a request that is DICOM
NAME = "image"  # what messages call it: a client's name for it never reaches the server


class _Upload(io.BytesIO):
    name = NAME


def read_upload(content: bytes, pixels: int, folder: Path) -> InputImage:
    """Read an image file from memory; its content decides the format.

    Args:
        content: of the file.
        pixels: maximum number.
        folder: empty, for this request alone. DICOM is kept in it, because a segmentation refers to its header.

    Raises:
        ImageError: it is no image, is damaged or too large; the size is compared before memory is taken for it.
        Refused: it has a format that is read from paths alone.
        BackendUnavailable: it is DICOM, and pydicom is missing.
    """
    found = formats.identify(content[: formats.HEAD])
    with stored.allowing(pixels):
        if found == formats.DICOM:
            path = folder / DICOM
            path.write_bytes(content)
            with calling(printable(path), NAME):
                return read_image(path)
        if found is not None and found.name == "HDF5":
            raise Refused(415, "image", f"{NAME}: is HDF5, which this service does not take; send it as PNG")
        return read_image(_Upload(content))


def from_array(array: NDArray[np.uint8]) -> InputImage:
    """Take an image of a tensor, uint8 (H, W, 3) or (H, W).

    Raises:
        ImageError: it is too small, or has one value throughout.
    """
    return image_from_array(array, NAME)
