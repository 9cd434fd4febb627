"""Ground truth of volumes: label files, brought to the voxels of a volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, printable
from ..space import Arrangement
from ..volume import Volume
from . import nrrd, slicer
from .payload import opened
from .read import read_stored
from .stored import StoredVolume

LARGEST = 65535
_MAX_APART = 0.1  # in sides of a voxel: headers round, and a grid that is shifted by half a voxel is another one
_ONE_LINE = "give labels on the voxels of the image"


@dataclass(frozen=True, eq=False)
class StoredLabels:
    """Labels as their file stores them.

    Attributes:
        labels: (N, H, W) uint8 or uint16.
        affine: (4, 4), from (column, row, slice) to millimetres in DICOM's coordinates.
        oriented: whether the file relates its axes to the patient.
        cut: whether the file may hold a part of the volume, as those of 3D Slicer do; all around it is background.
    """

    labels: NDArray[np.integer[Any]]
    affine: NDArray[np.float64]
    oriented: bool
    cut: bool


def read_labels(path: Path) -> tuple[NDArray[np.integer[Any]], NDArray[np.float64]]:
    """Read labels: NIfTI, NRRD, MetaImage, or a segmentation of 3D Slicer.

    Returns:
        (N, H, W) uint8 or uint16 in stored order; and the affine (4, 4), from (column, row, slice) to millimetres in
        DICOM's coordinates.

    Raises:
        ImageError: it cannot be read, is in colours, or has values that are not whole numbers from 0 to 65535.
        BackendUnavailable: nibabel or pynrrd is missing.
    """
    stored = read_stored_labels(path)
    return stored.labels, stored.affine


def labels_on(volume: Volume, path: Path) -> NDArray[np.integer[Any]]:
    """Read labels, and bring them to the voxels of a volume.

    The axes of the labels may be in another order or run backwards. A segmentation of 3D Slicer may be cut: outside of
    it is background. Nothing is resampled.

    Returns:
        (N, H, W) uint8 or uint16 in the arrangement of the volume.

    Raises:
        ImageError: as :func:`read_labels`, or the labels are on other voxels than the volume.
    """
    stored = read_stored_labels(path)
    return put_on(volume, stored.labels, stored.affine, printable(path), cut=stored.cut)


def put_on(
    volume: Volume, labels: NDArray[np.integer[Any]], affine: NDArray[np.float64], name: str, *, cut: bool
) -> NDArray[np.integer[Any]]:
    """Bring labels to the voxels of a volume, as :func:`labels_on` does.

    Args:
        volume: whose labels they are.
        labels: (N, H, W).
        affine: of the labels, (4, 4), from (column, row, slice) to millimetres in DICOM's coordinates.
        name: what messages call them.
        cut: whether they may be a part of the volume.

    Raises:
        ImageError: the labels are on other voxels than the volume.
    """
    arranged, offset = fit(volume, labels.shape, affine, name, cut=cut)
    turned = arranged.apply(labels)
    if not offset.any() and turned.shape == volume.shape:
        return np.ascontiguousarray(turned)
    placed = np.zeros(volume.shape, labels.dtype)
    put_into(placed, turned, offset, name)
    return placed


def fit(
    volume: Volume, shape: tuple[int, ...], affine: NDArray[np.float64], name: str, *, cut: bool
) -> tuple[Arrangement, NDArray[np.intp]]:
    """How labels are turned to lie as the voxels of a volume, and the voxel on which the first of them lies then.

    Args:
        volume: whose labels they are.
        shape: of the labels, (N, H, W).
        affine, name, cut: as of :func:`put_on`.

    Raises:
        ImageError: the labels are on other voxels than the volume.
    """
    steps = np.linalg.inv(volume.affine) @ affine  # from indices of the labels to those of the volume
    order = np.abs(steps[:3, :3]).argmax(axis=0)  # the axis of the volume that each axis of the labels follows
    same_axes = sorted(order) == [0, 1, 2]
    sides = np.array(shape[::-1])
    if same_axes and not cut:
        there = np.array(volume.shape[::-1])[order]
        if tuple(there) != tuple(sides):
            raise ImageError(
                f"{name}: labels of {_product(sides)} voxels for a volume of {_product(there)}; {_ONE_LINE}"
            )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if same_axes:
        expected = np.linalg.norm(volume.affine[:3, :3], axis=0)[order]
        if (np.abs(lengths / expected - 1) * sides > _MAX_APART).any():
            raise ImageError(
                f"{name}: labels of {_product(lengths)} mm for voxels of {_product(expected)} mm; {_ONE_LINE}"
            )
    exact = np.zeros((3, 3))
    exact[order, range(3)] = np.sign(steps[order, range(3)])
    if not same_axes or (np.abs(steps[:3, :3] - exact).sum(axis=0) * sides > 3 * _MAX_APART).any():
        raise ImageError(f"{name}: its axes point in other directions than those of the volume; {_ONE_LINE}")
    flipped = exact[order, range(3)] < 0
    # Which axis of the labels' array gives each axis of the volume's, the slices first.
    follows = [2 - int(np.flatnonzero(order == 2 - axis)[0]) for axis in range(3)]
    arranged = Arrangement(
        (follows[0], follows[1], follows[2]),
        (bool(flipped[2 - follows[0]]), bool(flipped[2 - follows[1]]), bool(flipped[2 - follows[2]])),
    )
    slices, rows, columns = shape
    offset = (np.linalg.inv(volume.affine) @ arranged.affine(affine, (slices, rows, columns))[:, 3])[2::-1]
    whole = np.rint(offset).astype(int)
    if (np.abs(offset - whole) > _MAX_APART).any() or (not cut and whole.any()):
        shift = np.linalg.norm(volume.affine[:3, :3] @ offset[::-1])
        raise ImageError(f"{name}: begins {shift:.3g} mm from the first voxel of the volume; {_ONE_LINE}")
    return arranged, whole


def _product(sides: NDArray[Any]) -> str:
    return " x ".join(f"{side:.6g}" for side in sides)


def put_into(
    placed: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], offset: NDArray[np.intp], name: str
) -> None:
    """Write labels that are cut into those of a volume.

    Args:
        placed: (N, H, W), of the volume.
        labels: turned as it is.
        offset: the voxel on which the first of them lies.
        name: what messages call them.

    Raises:
        ImageError: some of them are outside of the volume.
    """
    first, last = np.maximum(offset, 0), np.minimum(offset + labels.shape, placed.shape)
    lost = int(np.count_nonzero(labels))
    if (first < last).all():
        inside = tuple(slice(start, end) for start, end in zip(first, last, strict=True))
        own = labels[tuple(slice(start, end) for start, end in zip(first - offset, last - offset, strict=True))]
        placed[inside] = own
        lost -= int(np.count_nonzero(own))
    if lost:
        raise ImageError(f"{name}: {lost} of its labelled voxels are outside of the volume; {_ONE_LINE}")


def read_stored_labels(path: Path) -> StoredLabels:
    """Read labels without bringing them to any other voxels.

    Raises:
        ImageError, BackendUnavailable: as :func:`read_labels`.
    """
    with opened(path) as (file, name):
        stored = None
        begins = file.read(len(nrrd.MAGIC))
        file.seek(0)
        if begins != nrrd.MAGIC or not _is_segmentation(file):
            stored = read_stored(file, path, name)
            labels = _whole(stored, name)
    if stored is None:
        found = slicer.read_slicer_segmentation(path)
        return StoredLabels(found.labels, found.affine, oriented=True, cut=True)
    return StoredLabels(labels, stored.affine, stored.oriented, cut=False)


def _is_segmentation(file: Any) -> bool:
    try:
        return slicer.is_segmentation(nrrd.read_head(file))
    finally:
        file.seek(0)


def _whole(stored: StoredVolume, name: str) -> NDArray[np.integer[Any]]:
    """The intensities as labels; slice by slice, because files of floats are large."""
    if stored.voxels.ndim != 3:
        raise ImageError(f"{name}: is in colours; save labels as one whole number per voxel")
    scaled = (stored.slope, stored.intercept) != (1.0, 0.0)
    labels = np.empty(stored.shape, np.uint16)
    for source, target in zip(stored.voxels, labels, strict=True):
        values = source * np.float64(stored.slope) + stored.intercept if scaled else source
        if not (values.min() >= 0 and values.max() <= LARGEST and (values == np.floor(values)).all()):
            raise ImageError(
                f"{name}: has values that are not whole numbers from 0 to {LARGEST}; give labels, not intensities"
            )
        target[:] = values
    return labels if labels.max() > 255 else labels.astype(np.uint8)
