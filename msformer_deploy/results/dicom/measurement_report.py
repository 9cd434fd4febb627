"""Measurements as a DICOM structured report (SR, template 1500).

All numbers in a group of a report are of the same thing. A segment of one object gives one group. A segment of several
objects gives two: area or volume of the whole segment, and those of its largest object, with the diameters of this one.
Frames in time have no volume: the numbers are of the frame in which the segment has its largest area, and refer to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ...errors import UsageError
from ...images.sources import DicomSource
from ...images.volume import Volume
from ...machine.extras import require_extra
from ...measures.physical import Measure, measure, measure_volume
from ...terminology import DEVICE, IMAGING, MEASUREMENTS, UNITS
from . import headers
from .headers import Headers, SourceSlice
from .identity import MANUFACTURER, MadeBy, new_uid, series

Part = Literal["all", "largest"]


@dataclass(frozen=True)
class Quantity:
    """One number on one segment.

    Attributes:
        segment: its number in the segmentation, from 1.
        name: a key of ``terminology.MEASUREMENTS``.
        value: the number.
        unit: a key of ``terminology.UNITS``.
        part: what it is of: the whole segment, or the largest of its objects.
        slice: index of the only slice that it is of, in the order of the source; None for an image and for a volume.
    """

    segment: int
    name: str
    value: float
    unit: str
    part: Part = "all"
    slice: int | None = None


def sizes_of(segmented: NDArray[Any], volume: Volume, segments: int) -> list[Quantity]:
    """Measure segments for a report.

    Args:
        segmented: (N, H, W), the number of the segment of each voxel, from 1; bool where there is one segment.
        volume: that was segmented, whose slices of DICOM lie as they are stored if they are frames in time.
        segments: their number.
    """
    return [each for number in range(1, segments + 1) for each in _sizes(segmented == number, volume, number)]


def _sizes(mask: NDArray[np.bool_], volume: Volume, segment: int) -> Iterator[Quantity]:
    frame = None if volume.in_space else int(mask.sum(axis=(1, 2)).argmax())
    if frame is not None or (len(volume) == 1 and volume.thickness is None):
        found = measure(mask[frame or 0], volume.spacing)
    else:
        found = measure_volume(mask, volume.spacing, volume.thickness)
    length, square, cube = ("mm", "mm2", "mm3") if found.unit == "mm" else ("{pixels}",) * 3

    def numbers(sizes: Measure, part: Part, *, diameters: bool) -> Iterator[Quantity]:
        # Area of an object in a volume is that of a cross-section, so volume goes first.
        in_volume = sizes.volume is not None
        quantities = [("volume", sizes.volume, cube) if in_volume else ("area", sizes.area, square)]
        if diameters:
            quantities.append(("longest diameter", sizes.longest_diameter, length))
            quantities.append(("perpendicular diameter", sizes.perpendicular_diameter, length))
        for name, value, unit in quantities:
            if value is not None:
                yield Quantity(segment, name, value, unit, part, frame)

    yield from numbers(found.whole, "all", diameters=found.count == 1)
    if found.count > 1 and found.objects:
        yield from numbers(found.objects[0], "largest", diameters=True)


def write_measurements(
    path: Path, measured: Sequence[Quantity], segmentation: Dataset, source: DicomSource, *, made_by: MadeBy
) -> Dataset:
    """Write measurements as a Comprehensive SR that refers to the segments and to the images.

    The report is neither complete in the sense of the standard nor verified: no person has seen it.

    Args:
        path: of the file.
        measured: one or more numbers.
        segmentation: as :func:`.write_segmentation` returned it.
        source: the images that were segmented.
        made_by: the software and the bundle.

    Returns:
        The report that was written.

    Raises:
        ImageError: the source cannot be read any more, or has not what a report needs.
        UsageError: there are no measurements, or one has no such segment, name or unit, or is not finite.
        BackendUnavailable: highdicom is not installed.
        OSError: the file cannot be written.
    """
    require_extra("dicom", "a DICOM report of measurements")
    found = headers.read(source)
    segments = {int(each.SegmentNumber): each for each in segmentation.SegmentSequence}
    _check(measured, segments, found.name)
    with headers.failing_by_name(found.name, "SR"):
        dataset = _build(measured, segmentation, segments, found, made_by)
        headers.save(path, dataset)
    return dataset


def _check(measured: Sequence[Quantity], segments: dict[int, Dataset], name: str) -> None:
    if not measured:
        raise UsageError(f"{name}: there is no measurement to report")
    for each in measured:
        if each.segment not in segments or each.name not in MEASUREMENTS or each.unit not in UNITS:
            raise UsageError(
                f"{name}: cannot report {each.name!r} in {each.unit!r} of segment {each.segment} of {len(segments)};"
                f" names are {', '.join(MEASUREMENTS)}, units are {', '.join(UNITS)}"
            )
        if not math.isfinite(each.value):
            raise UsageError(f"{name}: {each.name} of segment {each.segment} is {each.value}; leave it out")


def _build(
    measured: Sequence[Quantity],
    segmentation: Dataset,
    segments: dict[int, Dataset],
    found: Headers,
    made_by: MadeBy,
) -> Dataset:
    from highdicom import sr

    observer = sr.ObserverContext(
        observer_type=headers.coded(DEVICE),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=made_by.device_uid,
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=made_by.model,
            serial_number=made_by.serial,
        ),
    )
    groups = [
        _group([each for each in measured if _thing(each) == thing], segmentation, segments[thing[0]], found, made_by)
        for thing in sorted(dict.fromkeys(map(_thing, measured)), key=lambda thing: thing[0])
    ]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=headers.coded(IMAGING),
        imaging_measurements=groups,
    )
    return sr.ComprehensiveSR(
        evidence=[*found.objects, segmentation],
        content=report,
        specific_character_set=found.first.SpecificCharacterSet,
        **series("measurements"),
        **made_by.equipment(),
    )


def _thing(measured: Quantity) -> tuple[int, Part, int | None]:
    """What a number is of. Numbers of one thing make a group."""
    return measured.segment, measured.part, measured.slice


def _group(
    measured: Sequence[Quantity], segmentation: Dataset, segment: Dataset, found: Headers, made_by: MadeBy
) -> Any:
    """The measurements of one thing; of an area where it lies in one image, else of a volume."""
    from highdicom import sr

    number, part, slice_ = _thing(measured[0])
    tracking = segment.TrackingUID, segment.TrackingID
    if part == "largest":
        tracking = new_uid(), f"{segment.TrackingID}, largest object"
    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(*tracking),
        "finding_type": sr.CodedConcept.from_dataset(segment.SegmentedPropertyTypeCodeSequence[0]),
        "finding_category": sr.CodedConcept.from_dataset(segment.SegmentedPropertyCategoryCodeSequence[0]),
        "algorithm_id": sr.AlgorithmIdentification(
            name=f"{MANUFACTURER} {made_by.model}", version=made_by.version, family=headers.coded(made_by.family)
        ),
        "measurements": [
            sr.Measurement(headers.coded(MEASUREMENTS[each.name]), each.value, headers.coded(UNITS[each.unit]))
            for each in measured
        ],
    }
    reference = (segmentation.SOPClassUID, segmentation.SOPInstanceUID)
    if len(found.slices) == 1 or slice_ is not None:
        image = found.slices[slice_ or 0]
        frame = _frame_of(segmentation, number, image)
        region = sr.ReferencedSegmentationFrame(
            *reference, frame_number=frame or 1, segment_number=number, source_image=_source(image)
        )
        # highdicom writes both numbers, and the standard allows one.
        item = region[0].ReferencedSOPSequence[0]
        del item["ReferencedFrameNumber" if frame is None else "ReferencedSegmentNumber"]
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=region, **common)
    volume = sr.ReferencedSegment(
        *reference,
        segment_number=number,
        source_series=sr.SourceSeriesForSegmentation(found.first.SeriesInstanceUID),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=volume, **common)


def _source(image: SourceSlice) -> Any:
    from highdicom import sr

    return sr.SourceImageForSegmentation(
        image.header.SOPClassUID, image.header.SOPInstanceUID, None if image.frame is None else [image.frame]
    )


def _frame_of(segmentation: Dataset, number: int, image: SourceSlice) -> int | None:
    """The frame of the segment in a slice; None if there is none of it alone, as in a label map."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for index, group in enumerate(segmentation.PerFrameFunctionalGroupsSequence, 1):
        named = group.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        if not named or named[0].ReferencedSegmentNumber != number:
            continue
        of = group.DerivationImageSequence[0].SourceImageSequence[0]
        if (of.ReferencedSOPInstanceUID, of.get("ReferencedFrameNumber")) == (image.header.SOPInstanceUID, image.frame):
            return index
    return None
