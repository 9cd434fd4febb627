"""A volume as its file stores it, and what its axes say of its place in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sources import Form
from ..space import Spacing

_MAX_COSINE = 1e-3  # between axes at right angles: headers round
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # its own inverse


@dataclass(frozen=True, eq=False)
class StoredVolume:
    """A volume, unchanged.

    Attributes:
        voxels: (N, H, W), or (N, H, W, 3) uint8 RGB: the axes of the file, the one that varies fastest last.
        affine: (4, 4) float64, from (column, row, slice) to millimetres in DICOM's coordinates.
        form: the format.
        header: what :mod:`.write` needs for a volume of the same geometry; None if the file has fewer than three axes
            and the format cannot say so.
        oriented: whether the file relates its axes to the patient.
        measured: what gives the distances, for the report; None if the file gives none.
        slope, intercept: the intensity of a voxel is its value times slope plus intercept.
        shown: the two intensities that the file wants to be black and white; None if it names none.
        thick: whether the file has an axis for slices.
        notes: one-line remarks.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    form: Form
    header: Any
    oriented: bool
    measured: str | None
    slope: float = 1.0
    intercept: float = 0.0
    shown: tuple[float, float] | None = None
    thick: bool = True
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        slices, rows, columns = self.voxels.shape[:3]
        return slices, rows, columns


def is_broken(affine: NDArray[np.float64]) -> bool:
    """Whether an affine leads nowhere: it is not finite, or voxels of different indices have one place."""
    if not np.isfinite(affine).all():
        return True
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((lengths == 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6)


def sheared(affine: NDArray[np.float64]) -> tuple[bool, bool]:
    """Whether rows and columns are not at right angles, and whether slices are not at right angles to both."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(unit.T @ unit)
    return bool(cosines[0, 1] > _MAX_COSINE), bool(cosines[2, :2].max() > _MAX_COSINE)


def spacing_of(affine: NDArray[np.float64], origin: str) -> tuple[Spacing, float]:
    """Distances of pixels in a slice, and of the planes of neighbouring slices."""
    column, row, slice_ = affine[:3, :3].T
    normal = np.cross(column, row)
    distance = abs(float(normal @ slice_)) / float(np.linalg.norm(normal))
    return Spacing(float(np.linalg.norm(row)), float(np.linalg.norm(column)), origin), distance
