"""DICOM segmentations (SEG) as labels, whoever made them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, printable, why_unread
from ..machine.extras import require_extra
from .quiet import failing_by_name

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
_NEAR = 0.01  # share of the distance between slices by which distances may differ


@dataclass(frozen=True)
class Reference:
    """An image that a slice was segmented in.

    Attributes:
        instance: its SOP Instance UID.
        frame: number of the frame in it, from 1; None in an image of one frame.
    """

    instance: str
    frame: int | None


@dataclass(frozen=True, eq=False)
class SegmentationLabels:
    """What a SEG holds.

    Attributes:
        labels: (N, H, W) integers: 0 is the background, others are the numbers of segments. Only slices that the SEG
            has: many leave out those in which nothing is.
        names: label of each segment by its number.
        references: for each slice the image that it belongs to; None if the SEG does not say it.
        affine: (4, 4), from (column, row, slice) to millimetres in DICOM's coordinates; None if the slices have no
            positions or are not equally far apart.
        planes: (N, 4, 4), the same for each slice alone, 1 mm thick; None if the slices have no positions.
        sources: SOP Instance UIDs of all images that were segmented, also of those without a slice here, as far as the
            SEG lists them.
    """

    labels: NDArray[Any]
    names: dict[int, str]
    references: tuple[Reference | None, ...]
    affine: NDArray[np.float64] | None
    planes: NDArray[np.float64] | None = None
    sources: frozenset[str] = frozenset()


def read_segmentation_labels(path: Path) -> SegmentationLabels:
    """Read a SEG of any of its types.

    Slices are in the order of their positions along the normal; where they have none, in that of the source's frames.
    In FRACTIONAL segmentations, pixels belong to a segment from half of the maximum on.

    Raises:
        ImageError: the file cannot be read, is no SEG, is of tiles of a slide, or has segments that overlap, which
            labels cannot say.
        BackendUnavailable: pydicom is not installed.
    """
    require_extra("dicom", "reading a DICOM segmentation")
    import pydicom

    name = printable(path)
    with failing_by_name(name, "cannot be read as a DICOM segmentation", "export it again"):
        try:
            dataset = pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError as error:
            if path.stat().st_size == 0:
                raise ImageError(f"{name}: the file is empty; copy or export it again") from error
            raise ImageError(f"{name}: is not a DICOM file; give a DICOM segmentation") from error
        except OSError as error:
            raise ImageError(f"{name}: {why_unread(error)}") from error
        if dataset.get("SOPClassUID") not in _CLASSES:
            raise ImageError(f"{name}: is not a DICOM segmentation; give a file of the modality SEG")
        if "TotalPixelMatrixRows" in dataset:
            raise ImageError(f"{name}: is a segmentation of tiles of a slide, which cannot be read; export an image")
        return _read(dataset, name)


def _read(dataset: Dataset, name: str) -> SegmentationLabels:
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    groups = dataset.PerFrameFunctionalGroupsSequence
    if len(groups) != len(frames):
        raise ImageError(f"{name}: has {len(frames)} frames and describes {len(groups)}; export it again")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    background = dataset.get("PixelPaddingValue", 0) if dataset.SegmentationType == "LABELMAP" else None
    names = {
        int(each.SegmentNumber): str(each.get("SegmentLabel", ""))
        for each in dataset.SegmentSequence
        if int(each.SegmentNumber) != background
    }
    places, slices, placed = _slices(groups, shared)
    labels = np.zeros((len(places), *frames.shape[1:]), np.uint8 if max(names, default=0) < 256 else np.uint16)
    references: list[Reference | None] = [None] * len(places)
    seen: set[tuple[int, int]] = set()
    for frame, group, index in zip(frames, groups, slices, strict=True):
        references[index] = references[index] or _reference(group)
        segment = _item(group, shared, "SegmentIdentificationSequence") if background is None else None
        if segment is None and background is None:
            raise ImageError(f"{name}: does not say to which segment a frame belongs; export it again")
        place = index, 0 if segment is None else int(segment.ReferencedSegmentNumber)
        if place in seen:
            raise ImageError(
                f"{name}: has several frames of one segment in one place, or does not say where they are; give labels"
                " of one volume"
            )
        seen.add(place)
        if segment is None:
            labels[index] = np.where(frame == background, 0, frame)
            continue
        inside = frame > 0
        if dataset.SegmentationType == "FRACTIONAL":
            inside = frame.astype(np.int64) * 2 >= int(dataset.MaximumFractionalValue)
        if labels[index][inside].any():
            raise ImageError(f"{name}: its segments overlap, which label maps cannot say; give one without overlaps")
        labels[index][inside] = segment.ReferencedSegmentNumber
    sources = frozenset(each.instance for each in references if each is not None) | _sources(dataset)
    planes = _planes(places, groups[0], shared) if placed else None
    affine = None if planes is None else _affine(planes, groups[0], shared)
    return SegmentationLabels(labels, names, tuple(references), affine, planes, sources)


def _sources(dataset: Dataset) -> frozenset[str]:
    return frozenset(
        str(instance.ReferencedSOPInstanceUID)
        for series in dataset.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedInstanceSequence") or ()
    )


def _slices(groups: Any, shared: Dataset) -> tuple[list[Any], list[int], bool]:
    """Sort frames into slices.

    Returns:
        places: positions of the slices, in order along the normal; or the images they are of.
        slices: for each frame the index of its slice.
        placed: whether places are positions.
    """
    positions = [_position(group, shared) for group in groups]
    placed = all(positions)
    keys: list[Any] = positions if placed else [_reference(group) for group in groups]
    places = list(dict.fromkeys(keys))
    if placed:
        normal = np.cross(*_orientation(groups[0], shared))
        places.sort(key=lambda position: float(np.dot(normal, position)))
    else:
        instances = list(dict.fromkeys(each and each.instance for each in places))
        places.sort(key=lambda each: (instances.index(each and each.instance), (each and each.frame) or 0))
    index = {place: number for number, place in enumerate(places)}
    return places, [index[key] for key in keys], placed


def _position(group: Dataset, shared: Dataset) -> tuple[float, ...]:
    item = _item(group, shared, "PlanePositionSequence")
    position = None if item is None else item.get("ImagePositionPatient")
    return tuple(round(float(each), 3) for each in position) if position else ()


def _orientation(group: Dataset, shared: Dataset) -> NDArray[np.float64]:
    """Directions of a row and of a column, (2, 3)."""
    sequence = group.get("PlaneOrientationSequence") or shared.PlaneOrientationSequence
    return np.array(sequence[0].ImageOrientationPatient, np.float64).reshape(2, 3)


def _reference(group: Dataset) -> Reference | None:
    for derivation in group.get("DerivationImageSequence") or ():
        for image in derivation.get("SourceImageSequence") or ():
            frame = image.get("ReferencedFrameNumber")
            return Reference(str(image.ReferencedSOPInstanceUID), None if frame is None else int(frame))
    return None


def _planes(places: list[Any], group: Dataset, shared: Dataset) -> NDArray[np.float64] | None:
    measures = _item(group, shared, "PixelMeasuresSequence")
    if measures is None:
        return None
    row, column = map(float, measures.PixelSpacing)
    directions = _orientation(group, shared)
    planes = np.tile(np.eye(4), (len(places), 1, 1))
    planes[:, :3, 0], planes[:, :3, 1] = directions[0] * column, directions[1] * row
    planes[:, :3, 2], planes[:, :3, 3] = np.cross(*directions), places
    return planes


def _affine(planes: NDArray[np.float64], group: Dataset, shared: Dataset) -> NDArray[np.float64] | None:
    affine: NDArray[np.float64] = planes[0].copy()
    if len(planes) > 1:
        steps = np.diff(planes[:, :3, 3], axis=0)
        affine[:3, 2] = steps.mean(axis=0)
        if np.abs(steps - affine[:3, 2]).max() > _NEAR * np.linalg.norm(affine[:3, 2]):
            return None
    else:
        measures = _item(group, shared, "PixelMeasuresSequence")
        if measures is not None:
            affine[:3, 2] *= float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0)
    return affine


def _item(group: Dataset, shared: Dataset, keyword: str) -> Dataset | None:
    """The first item of a functional group of a frame, or of the one that all frames share."""
    sequence = group.get(keyword) or shared.get(keyword)
    return sequence[0] if sequence else None
