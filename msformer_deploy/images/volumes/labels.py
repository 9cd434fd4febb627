"""Ground truth of volumes: label files, brought to the voxels of a volume."""

from __future__ import annotations

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


def read_labels(path: Path) -> tuple[NDArray[np.integer[Any]], NDArray[np.float64]]:
    """Read labels: NIfTI, NRRD, MetaImage, or a segmentation of 3D Slicer.

    Returns:
        (N, H, W) uint8 or uint16 in stored order; and the affine (4, 4), from (column, row, slice) to millimetres in
        DICOM's coordinates.

    Raises:
        ImageError: it cannot be read, is in colours, or has values that are not whole numbers from 0 to 65535.
        BackendUnavailable: nibabel or pynrrd is missing.
    """
    labels, affine, _ = _read(path)
    return labels, affine


def labels_on(volume: Volume, path: Path) -> NDArray[np.integer[Any]]:
    """Read labels, and bring them to the voxels of a volume.

    The axes of the labels may be in another order or run backwards. A segmentation of 3D Slicer may be cut: outside of
    it is background. Nothing is resampled.

    Returns:
        (N, H, W) uint8 or uint16 in the arrangement of the volume.

    Raises:
        ImageError: as :func:`read_labels`, or the labels are on other voxels than the volume.
    """
    labels, affine, may_be_cut = _read(path)
    name = printable(path)
    steps = np.linalg.inv(volume.affine) @ affine  # from indices of the labels to those of the volume
    order = np.abs(steps[:3, :3]).argmax(axis=0)  # the axis of the volume that each axis of the labels follows
    same_axes = sorted(order) == [0, 1, 2]
    sides = np.array(labels.shape[::-1])
    if same_axes and not may_be_cut:
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
    turned = arranged.apply(labels)
    offset = (np.linalg.inv(volume.affine) @ arranged.affine(affine, labels.shape)[:, 3])[2::-1]
    whole = np.rint(offset).astype(int)
    if (np.abs(offset - whole) > _MAX_APART).any() or (not may_be_cut and whole.any()):
        shift = np.linalg.norm(volume.affine[:3, :3] @ offset[::-1])
        raise ImageError(f"{name}: begins {shift:.3g} mm from the first voxel of the volume; {_ONE_LINE}")
    if not whole.any() and turned.shape == volume.shape:
        return np.ascontiguousarray(turned)
    return _placed(turned, whole, volume.shape, name)


def _product(sides: NDArray[Any]) -> str:
    return " x ".join(f"{side:.6g}" for side in sides)


def _placed(
    labels: NDArray[np.integer[Any]], offset: NDArray[np.intp], shape: tuple[int, int, int], name: str
) -> NDArray[np.integer[Any]]:
    """Labels that are cut, in a volume; what lies outside of it must be background."""
    first, last = np.maximum(offset, 0), np.minimum(offset + labels.shape, shape)
    placed = np.zeros(shape, labels.dtype)
    if (first < last).all():
        inside = tuple(slice(start, end) for start, end in zip(first, last, strict=True))
        own = tuple(slice(start, end) for start, end in zip(first - offset, last - offset, strict=True))
        placed[inside] = labels[own]
    lost = np.count_nonzero(labels) - np.count_nonzero(placed)
    if lost:
        raise ImageError(f"{name}: {lost} of its labelled voxels are outside of the volume; {_ONE_LINE}")
    return placed


def _read(path: Path) -> tuple[NDArray[np.integer[Any]], NDArray[np.float64], bool]:
    """Labels, their affine, and whether the file may hold a part of the volume."""
    with opened(path) as (file, name):
        stored = None
        begins = file.read(len(nrrd.MAGIC))
        file.seek(0)
        if begins != nrrd.MAGIC or not _is_segmentation(file):
            stored = read_stored(file, path, name)
            labels = _whole(stored, name)
    if stored is None:
        found = slicer.read_slicer_segmentation(path)
        return found.labels, found.affine, True
    return labels, stored.affine, False


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
