"""Identifiers of patient, study and series, for those who ask for them."""

from __future__ import annotations

from pathlib import Path

from ..sources import DicomSource
from .opened import failing, file_stamp, header_of, silent

KEYWORDS = {
    "patient_id": "PatientID",
    "accession_number": "AccessionNumber",
    "study_date": "StudyDate",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
}


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
