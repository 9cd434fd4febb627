"""Masks and labels as a DICOM segmentation (SEG)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from ...errors import ImageError, UsageError
from ...images.sources import DicomSource
from ...machine.extras import require_extra
from ...registry import SYSTEMS, SegType
from ...terminology import SEGMENTS, SegmentTerm
from . import headers
from .headers import Headers, ImagePlane
from .identity import MANUFACTURER, MadeBy, new_uid, series

_WITHOUT_SEG = "choose other formats than seg and sr"


def write_segmentation(
    path: Path,
    labels: NDArray[Any],
    source: DicomSource,
    segments: Sequence[str],
    *,
    made_by: MadeBy,
    kind: SegType = "binary",
) -> Dataset:
    """Write the labels of a source's slices as one SEG, on the pixels and in the place of the source.

    Frames without a pixel of a segment are left out. Where nothing was found, all frames are written and are empty:
    viewers open such a SEG, and it says that the image was segmented, which a missing file does not.

    Args:
        path: of the file.
        labels: (N, H, W), or (H, W) for one image; bool, or 0 for the background and from 1 on the number of the
            segment. Slices are in the order of the source's files and frames, rows and columns as they are stored.
        source: the images.
        segments: name of each segment, in the order of the labels; a key of ``terminology.SEGMENTS``. Any other name
            is kept as the segment's label, with the term of "object".
        made_by: the software and the bundle.
        kind: ``binary``, one bit per pixel and segment, which most viewers read; or ``labelmap`` (in the standard since
            2024), one number per pixel.

    Returns:
        The SEG that was written, for :func:`.write_measurements`.

    Raises:
        ImageError: the source cannot be read any more, or has not what a SEG needs.
        UsageError: shape or labels do not fit the source or the segments.
        BackendUnavailable: highdicom is not installed.
        OSError: the file cannot be written.
    """
    require_extra("dicom", "a DICOM segmentation")
    found = headers.read(source)
    stack = _checked(labels, found, segments)
    _check_objects(found)
    with headers.failing_by_name(found.name, "SEG"):
        dataset = _build(stack, found, segments, made_by, kind)
        headers.save(path, dataset)
    return dataset


def check(source: DicomSource) -> None:
    """See that a SEG of a source can be written, before it is segmented: with its first slices, empty.

    Raises:
        ImageError: the source cannot be read any more, or has not what a SEG needs; the message says what.
        BackendUnavailable: highdicom is not installed.
    """
    require_extra("dicom", "a DICOM segmentation")
    found = headers.read(source)
    _check_objects(found)
    first = Headers(found.name, found.slices[:2])  # several frames of one object are not as one
    empty = np.zeros((len(first.slices), int(found.first.Rows), int(found.first.Columns)), np.uint8)
    tried = MadeBy(next(iter(SYSTEMS)), "0" * 64)
    with headers.failing_by_name(found.name, "SEG"):
        _build(empty, first, ["object"], tried, "binary")


def _check_objects(found: Headers) -> None:
    """Several images are told apart by their places.

    Raises:
        ImageError: they have none, or have several frames each.
    """
    if len(found.objects) < 2:
        return
    lacking = [each.lacks for each in found.slices if each.lacks is not None]
    if lacking:
        raise ImageError(
            f"{found.name}: {len(lacking)} of its {len(found.slices)} images have no {lacking[0]}, which one SEG of"
            f" them all needs; {_WITHOUT_SEG}"
        )
    if any(each.frame is not None for each in found.slices):
        raise ImageError(f"{found.name}: its slices are in several objects with frames; write a SEG for each object")


def _checked(labels: NDArray[Any], found: Headers, segments: Sequence[str]) -> NDArray[Any]:
    """The labels as (N, H, W) of the smallest unsigned type."""
    stack = labels[None] if labels.ndim == 2 else labels
    expected = (len(found.slices), int(found.first.Rows), int(found.first.Columns))
    if stack.shape != expected:
        raise UsageError(f"{found.name}: labels of shape {stack.shape} do not fit its images of shape {expected}")
    if not segments or stack.min() < 0 or stack.max() > len(segments):
        raise UsageError(f"{found.name}: labels must be in 0..{len(segments)}, as there are {len(segments)} segments")
    return stack.astype(np.uint8 if len(segments) < 256 else np.uint16, copy=False)


def _build(stack: NDArray[Any], found: Headers, segments: Sequence[str], made_by: MadeBy, kind: SegType) -> Dataset:
    import highdicom

    placed = found.placed
    images = _images(found, placed)
    try:
        segmentation = highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=stack,
            segmentation_type=kind.upper(),
            segment_descriptions=[_describe(number, name, made_by) for number, name in enumerate(segments, 1)],
            content_label="SEGMENTATION",
            content_description=made_by.origin,
            **series("segmentation"),
            **made_by.equipment(),
        )
    except ValueError as error:
        lacks = found.slices[0].lacks
        if lacks is None or "Frame Of Reference" not in str(error):
            raise
        raise ImageError(
            f"{found.name}: has no {lacks}, which a SEG of this kind of image needs; {_WITHOUT_SEG}"
        ) from error
    segmentation.ContentCreatorName = None  # has to be there, and no person made the content
    organization = new_uid()  # highdicom's is under its own root
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    _name_frames(segmentation, found)
    if not placed:
        segmentation.PatientOrientation = found.first.get("PatientOrientation")
        _forget_places(segmentation, spaced=_spacing(found.first) is not None)
    return segmentation


def _describe(number: int, name: str, made_by: MadeBy) -> Any:
    import highdicom

    term = SEGMENTS.get(name, SEGMENTS["object"])
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=headers.coded(term.category),
        segmented_property_type=_with_radlex(term),
        algorithm_type="SEMIAUTOMATIC" if made_by.by_person else "AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"{MANUFACTURER} {made_by.model}",
            family=headers.coded(made_by.family),
            version=made_by.version,
            source=MANUFACTURER,
        ),
        tracking_id=f"{name} {number}",
        tracking_uid=new_uid(),
        display_color=highdicom.color.CIELabColor.from_rgb(*term.colour),
    )


def _with_radlex(term: SegmentTerm) -> Any:
    concept = headers.coded(term.type)
    if term.radlex is not None:
        concept.EquivalentCodeSequence = [headers.coded(term.radlex)]
    return concept


def _images(found: Headers, placed: bool) -> list[Dataset]:
    """The headers as highdicom takes them: one for each slice, or one of an object whose frames are the slices.

    highdicom expects functional groups in all objects that may have several frames, and reads those alone that all
    frames share. Ultrasound has none, and others repeat them in each frame. So one object gets groups here, of the
    slices alone and in their order.
    """
    images = found.objects
    thickness = (
        headers.thickness_of([each.place for each in found.slices if each.place is not None]) if placed else None
    )
    for image in images:
        if not placed:
            _drop_places(image)
        elif not image.get("SliceThickness"):
            image.SliceThickness = thickness
    if len(images) == 1:
        _group_frames(images[0], found, placed)
    return images


def _group_frames(image: Dataset, found: Headers, placed: bool) -> None:
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence

    image.NumberOfFrames = len(found.slices)
    shared = Dataset()
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = []
    if placed:
        places = [each.place for each in found.slices if each.place is not None]
    else:
        # Until _forget_places: highdicom writes one frame at most without a place, and sorts frames from head to foot.
        spacing = _spacing(image) or (1.0, 1.0)
        places = [
            ImagePlane((0.0, 0.0, -float(index)), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), spacing, None)
            for index in range(len(found.slices))
        ]
        if len(places) > 1:
            image.FrameOfReferenceUID = new_uid()
    shared.PixelMeasuresSequence = PixelMeasuresSequence(
        places[0].spacing, headers.thickness_of(places) if placed else None, headers.equally_far(places)
    )
    shared.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", places[0].orientation)
    for place in places:
        group = Dataset()
        group.PlanePositionSequence = PlanePositionSequence("PATIENT", place.position)
        image.PerFrameFunctionalGroupsSequence.append(group)


def _spacing(image: Dataset) -> tuple[float, ...] | None:
    spacing = image.get("PixelSpacing")
    return tuple(map(float, spacing)) if spacing else None


def _drop_places(image: Dataset) -> None:
    """Keep a place that is not whole away from highdicom."""
    for keyword in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient"):
        if keyword in image:
            del image[keyword]


def _name_frames(segmentation: Dataset, found: Headers) -> None:
    """Refer to frames by their numbers in the source, which need not be those of the slices."""
    items = {
        id(item): item  # the frames of all segments in a slice share one item
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in group.DerivationImageSequence
        for item in derivation.SourceImageSequence
    }
    for item in items.values():
        frame = found.slices[int(item.get("ReferencedFrameNumber", 1)) - 1].frame
        if frame is not None:
            item.ReferencedFrameNumber = frame
        elif "ReferencedFrameNumber" in item:
            del item.ReferencedFrameNumber


def _forget_places(segmentation: Dataset, spaced: bool) -> None:
    """Take away what only :func:`_group_frames` gave; frames then follow each other in time."""
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator", "DimensionOrganizationType"):
        segmentation.pop(keyword, None)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    shared.pop("PlaneOrientationSequence", None)
    if not spaced:
        shared.pop("PixelMeasuresSequence", None)
    elif "PixelMeasuresSequence" in shared:
        shared.PixelMeasuresSequence[0].pop("SpacingBetweenSlices", None)
    for index in segmentation.DimensionIndexSequence:
        if index.DimensionIndexPointer == tag_for_keyword("ImagePositionPatient"):
            index.DimensionIndexPointer = tag_for_keyword("TemporalPositionIndex")
            index.FunctionalGroupPointer = tag_for_keyword("FrameContentSequence")
            index.DimensionDescriptionLabel = "Temporal Position Index"
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        if group.pop("PlanePositionSequence", None) is not None:
            content = group.FrameContentSequence[0]
            values = content.DimensionIndexValues  # one number alone is no list in pydicom
            content.TemporalPositionIndex = values if isinstance(values, int) else values[-1]
