"""Measurements as a DICOM structured report (SR, template 1500)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from ...errors import UsageError
from ...images.sources import DicomSource
from ...machine.extras import require_extra
from ...terminology import DEVICE, IMAGING, MEASUREMENTS, UNITS
from . import headers
from .headers import Headers, Slice
from .identity import MANUFACTURER, MadeBy, series


@dataclass(frozen=True)
class Measured:
    """One number on one segment.

    Attributes:
        segment: its number in the segmentation, from 1.
        name: a key of ``terminology.MEASUREMENTS``.
        value: the number.
        unit: a key of ``terminology.UNITS``.
    """

    segment: int
    name: str
    value: float
    unit: str


def write_measurements(
    path: Path, measured: Sequence[Measured], segmentation: Dataset, source: DicomSource, *, made_by: MadeBy
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


def _check(measured: Sequence[Measured], segments: dict[int, Dataset], name: str) -> None:
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
    measured: Sequence[Measured],
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
        _group([each for each in measured if each.segment == number], segmentation, segment, found, made_by)
        for number, segment in segments.items()
        if any(each.segment == number for each in measured)
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


def _group(
    measured: Sequence[Measured], segmentation: Dataset, segment: Dataset, found: Headers, made_by: MadeBy
) -> Any:
    """The measurements of one segment; of an area where the source is one image, else of a volume."""
    from highdicom import sr

    number = int(segment.SegmentNumber)
    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
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
    if len(found.slices) == 1:
        frame = _frame_of(segmentation, number)
        region = sr.ReferencedSegmentationFrame(
            *reference, frame_number=frame or 1, segment_number=number, source_image=_source(found.slices[0])
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


def _source(image: Slice) -> Any:
    from highdicom import sr

    return sr.SourceImageForSegmentation(
        image.header.SOPClassUID, image.header.SOPInstanceUID, None if image.frame is None else [image.frame]
    )


def _frame_of(segmentation: Dataset, number: int) -> int | None:
    """The frame of the segment alone in the SEG of one image; None if there is none, as in a label map."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for index, group in enumerate(segmentation.PerFrameFunctionalGroupsSequence, 1):
        named = group.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        if named and named[0].ReferencedSegmentNumber == number:
            return index
    return None
