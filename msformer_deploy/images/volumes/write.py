"""Results of a volume as files that lie on the same voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files import atomic_path
from ...machine.extras import require_extra
from ..sources import FileSource, Form
from ..volume import Volume
from . import metaimage, nifti, nrrd

_SUFFIXES: dict[Form, str] = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha"}
_TYPES = {np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)}


def suffix_of(form: Form) -> str:
    """What the name of a result ends with: ``.nii.gz``, ``.nrrd`` or ``.mha``."""
    return _SUFFIXES[form]


def write_volume(path: Path, array: NDArray[Any], volume: Volume, *, form: Form) -> None:
    """Write a result of a volume, compressed, in the order in which the volume is stored.

    In the volume's own format its geometry is carried unchanged: of NIfTI both affines with their codes, sides and
    units. In another format it is that of ``volume.affine``. Nothing else of the source's header is carried: free text
    may name a patient. Equal results give equal bytes.

    Args:
        path: the file; it appears when it is complete.
        array: (N, H, W) in the arrangement of the volume: labels uint8 or uint16, a mask bool, a probability float32.
        volume: whose result it is.
        form: the format.

    Raises:
        BackendUnavailable: nibabel, which NIfTI needs, is missing.
        OSError: the error of the file system.
    """
    if array.dtype == bool:
        array = array.view(np.uint8)
    if array.shape != volume.shape or array.dtype not in _TYPES:
        raise ValueError(f"{array.dtype} {array.shape} is no result of a volume of {volume.shape}")
    stored = volume.arrangement.undo(array)
    affine = stored_affine(volume)
    same = isinstance(volume.source, FileSource) and volume.source.form == form
    header = volume.source.header if isinstance(volume.source, FileSource) and same else None
    if form == "nifti":
        require_extra("volumes", "NIfTI")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if form == "nifti":
            known = volume.spacing is not None and volume.in_space
            nifti.write(file, stored, affine, header, measured=known, placed=volume.placed)
        elif form == "nrrd":
            nrrd.write(file, stored, header or nrrd.geometry(affine))
        else:
            metaimage.write(file, stored, header or metaimage.geometry(affine))


def stored_affine(volume: Volume) -> NDArray[np.float64]:
    """The affine of a volume as it is stored."""
    return volume.arrangement.inverse.affine(volume.affine, volume.shape)
