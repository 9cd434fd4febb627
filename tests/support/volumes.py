"""Volumes for tests: arrays with a place in the patient, as files and in memory."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msformer_deploy.images.sources import DicomSource
from msformer_deploy.images.volume import Volume

SHAPE = (9, 10, 12)  # slices, rows, columns


def affines() -> list[NDArray[np.float64]]:
    """All 48 orientations, with another spacing along each axis; millimetres in DICOM's coordinates."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = 0
            for axis, (end, sign) in enumerate(zip(order, signs, strict=True)):
                affine[end, axis] = sign * (0.5, 0.75, 2.5)[axis]
            affine[:3, 3] = (-7.25, 11.5, 5)
            found.append(affine)
    return found


def name_of(affine: NDArray[np.float64]) -> str:
    """Such as ``LPS``: where the columns, rows and slices of a stored array go."""
    return "".join("LPS"[axis] if sign > 0 else "RAI"[axis] for axis, sign in map(_end, affine[:3, :3].T))


def _end(column: NDArray[np.float64]) -> tuple[int, float]:
    axis = int(np.abs(column).argmax())
    return axis, float(column[axis])


def stored(dtype: Any = np.int16) -> NDArray[Any]:
    """Another value in every voxel, so that nothing is symmetric."""
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def in_memory(voxels: NDArray[Any], affine: NDArray[np.float64], **others: Any) -> Volume:
    """A volume of a format that is none of ours."""
    return Volume(voxels, "memory", affine, None, None, (0.0, 1.0), DicomSource((), ()), **others)


def simpleitk_image(voxels: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    """A SimpleITK image; its coordinates are DICOM's."""
    import SimpleITK

    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(voxels, isVector=voxels.ndim == 4)
    image.SetSpacing(lengths.tolist())
    image.SetDirection((affine[:3, :3] / lengths).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def simpleitk_affine(image: Any) -> NDArray[np.float64]:
    """The affine of a SimpleITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def nifti(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], unit: str = "mm") -> Path:
    """Write a file with nibabel, with both affines. The axes of ``voxels``: slices, rows, columns."""
    import nibabel

    image = nibabel.Nifti1Image(voxels.T, np.diag([-1.0, -1, 1, 1]) @ affine, dtype=voxels.dtype)
    image.set_qform(image.affine, 1)
    image.header.set_xyzt_units(unit)
    image.to_filename(path)
    return path


def same_places(
    one: NDArray[Any], one_affine: NDArray[np.float64], other: NDArray[Any], other_affine: NDArray[np.float64]
) -> bool:
    """Whether two arrays (N, H, W) have the same values at the same places of the patient."""
    indices = np.stack([*np.indices(one.shape)[::-1], np.ones(one.shape)], -1).reshape(-1, 4)
    there = (np.linalg.inv(other_affine) @ one_affine @ indices.T)[2::-1]
    whole = np.rint(there).astype(int)
    if np.abs(there - whole).max() > 0.01 or (whole < 0).any() or (whole >= np.array(other.shape)[:, None]).any():
        return False
    return one.size == other.size and np.array_equal(one.ravel(), other[tuple(whole)])
