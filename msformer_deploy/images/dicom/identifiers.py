"""Identifiers of patient, study and series, for those who ask for them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import ImageError
from ..sources import DicomSource
from .opened import failing, file_stamp, header_of, opened, silent

KEYWORDS = {
    "patient_id": "PatientID",
    "accession_number": "AccessionNumber",
    "study_date": "StudyDate",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
}

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


class Instance(NamedTuple):
    """The UIDs of an object, and of the study and the series that it is of."""

    study: str
    series: str
    instance: str


def identifiers_of(source: DicomSource) -> dict[str, str]:
    """What the first object says of them, by the names of :data:`KEYWORDS`; those that it has not are empty.

    Raises:
        ImageError: the object cannot be read, or has changed since its pixels were read.
    """
    path = source.files[0]
    with silent(), failing(path), header_of(path, ("SOPInstanceUID", *KEYWORDS.values())) as (header, file):
        source.check_unchanged(path, file_stamp(header, file))
        return {name: str(header.get(keyword) or "") for name, keyword in KEYWORDS.items()}


def instance_of(path: Path) -> str:
    """The SOP Instance UID of an object; empty if it has none.

    Raises:
        ImageError: the object cannot be read.
    """
    with silent(), failing(path), header_of(path, ("SOPInstanceUID",)) as (header, _):
        return str(header.get("SOPInstanceUID") or "")


def image_in(path: Path) -> Instance:
    """The UIDs of an image, if it has pixels as its header says. Nothing is decoded.

    Raises:
        ImageError: it is no image, its pixels are missing, cut short or not supported, or it lacks a UID.
    """
    with opened(path) as found:
        found.check_pixels()
        return _instance(found.header)


def identified(content: bytes) -> Instance:
    """The UIDs of an object that is in memory.

    Args:
        content: of a DICOM file.

    Raises:
        ImageError: it cannot be read, or lacks a UID.
    """
    from pydicom import dcmread

    with silent(), failing(Path(), "an object"):
        return _instance(dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=list(_UIDS)))


def _instance(header: Any) -> Instance:
    for keyword in _UIDS:
        if not header.get(keyword):
            raise ImageError(f"its header has no {keyword}; copy or export it again")
    return Instance(*(str(header[keyword].value) for keyword in _UIDS))
