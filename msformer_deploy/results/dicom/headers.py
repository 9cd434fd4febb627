"""The headers of a source, without pixels, as the writers of this room need them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from ... import files
from ...errors import ImageError, printable
from ...images import quiet
from ...images.sources import DicomSource
from ...terminology import Concept

# What highdicom reads without asking whether it is there; all may be empty in a result.
_EMPTY_ALLOWED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "Manufacturer",
)
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns")
_PLACE = ("FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness")


@dataclass(frozen=True)
class ImagePlane:
    """Where a slice is in the patient.

    Attributes:
        position: of the centre of its first pixel, mm.
        orientation: directions of a row and of a column, six numbers.
        spacing: between rows and between columns, mm.
        thickness: mm; None if it is not known.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None


@dataclass(frozen=True)
class SourceSlice:
    """One slice of a source.

    Attributes:
        header: of its object.
        frame: its number in the object, from 1; None in an object of one frame.
        place: None where the object does not say it.
        lacks: keyword of what the place needs and the object has not.
    """

    header: Dataset
    frame: int | None
    place: ImagePlane | None
    lacks: str | None

    def reference(self) -> Dataset:
        """An item that refers to the slice."""
        item = Dataset()
        item.ReferencedSOPClassUID = self.header.SOPClassUID
        item.ReferencedSOPInstanceUID = self.header.SOPInstanceUID
        if self.frame is not None:
            item.ReferencedFrameNumber = self.frame
        return item


@dataclass(frozen=True)
class Headers:
    """The headers of a source.

    Attributes:
        name: what messages call the source.
        slices: in the order of the stored voxels.
    """

    name: str
    slices: tuple[SourceSlice, ...]

    @property
    def first(self) -> Dataset:
        """The header with everything on patient and study."""
        return self.slices[0].header

    @property
    def objects(self) -> list[Dataset]:
        """The header of each object once."""
        return list({each.header.SOPInstanceUID: each.header for each in self.slices}.values())


def read(source: DicomSource) -> Headers:
    """Read the headers of a source again; pixels stay in the files.

    All of the first file is read, of the others only what identifies and places them.

    Raises:
        ImageError: a file cannot be read any more, or lacks what a result must refer to.
    """
    known: dict[Path, Dataset] = {}
    slices = []
    for path, frame in zip(source.files, source.frames, strict=True):
        if path not in known:
            known[path] = _header(path, () if not known else (*_NEEDED, *_PLACE, "SpecificCharacterSet"))
        slices.append(SourceSlice(known[path], frame, *_place(known[path], frame)))
    name = printable(source.files[0]) if len(known) == 1 else printable(source.files[0].parent)
    if len({(each.StudyInstanceUID, each.SeriesInstanceUID) for each in known.values()}) > 1:
        raise ImageError(f"{name}: its files are of several series; give the files of one series")
    return Headers(name, tuple(slices))


def coded(concept: Concept) -> Any:
    """A concept as highdicom and pydicom take it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(concept.value, concept.scheme, concept.meaning)


def failing_by_name(name: str, what: str) -> AbstractContextManager[None]:
    """Make one line of whatever goes wrong in writing a result of a source.

    Args:
        name: of the source.
        what: is written.
    """
    return quiet.failing_by_name(
        name, f"no {what} can be made of its header", "check the file with dciodvfy, or use --format png"
    )


def save(path: Path, dataset: Dataset) -> None:
    """Write an object, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with files.atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def equally_far(places: list[ImagePlane]) -> float | None:
    """The distance between neighbouring slices in mm where all are in one row and equally far apart, else None."""
    if len(places) < 2:
        return None
    steps = np.diff(np.array([place.position for place in places]), axis=0)
    distance = float(np.linalg.norm(steps.mean(axis=0)))
    return distance if distance > 0 and np.abs(steps - steps.mean(axis=0)).max() < 0.01 * distance else None


def _header(path: Path, tags: tuple[str, ...]) -> Dataset:
    name = printable(path)
    with failing_by_name(name, "result"):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(tags) or None)
        except pydicom.errors.InvalidDicomError as error:
            raise ImageError(f"{name}: is no DICOM file any more; run again") from error
        except OSError as error:
            raise ImageError(f"{name}: cannot be read again: {error.strerror}; check the path and the disk") from error
        missing = [keyword for keyword in _NEEDED if not header.get(keyword)]
        if missing:
            raise ImageError(f"{name}: has no {missing[0]}, which a DICOM result refers to; use --format png")
        # Whatever the source's characters are, results have them in UTF-8: highdicom takes no lists of character sets.
        header.decode()
        header.SpecificCharacterSet = "ISO_IR 192"
        for keyword in _EMPTY_ALLOWED:
            if keyword not in header:
                setattr(header, keyword, None)
        _empty_what_is_wrong(header)
    return header


def _empty_what_is_wrong(header: Dataset) -> None:
    """Values that the standard does not allow cannot be copied into a valid object."""
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(header[keyword].value)
        except (ValueError, TypeError):
            header[keyword].value = None
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = None


def _place(header: Dataset, frame: int | None) -> tuple[ImagePlane | None, str | None]:
    """Where a slice is, or the keyword of what is missing."""
    if not header.get("FrameOfReferenceUID"):
        return None, "FrameOfReferenceUID"
    if frame is None or "PerFrameFunctionalGroupsSequence" not in header:
        found = {"position": header, "orientation": header, "measures": header} if frame is None else {}
    else:
        found = {
            key: _group(header, frame, keyword)
            for key, keyword in (
                ("position", "PlanePositionSequence"),
                ("orientation", "PlaneOrientationSequence"),
                ("measures", "PixelMeasuresSequence"),
            )
        }
    numbers = {
        keyword: _numbers(found.get(group), keyword, count)
        for group, keyword, count in (
            ("position", "ImagePositionPatient", 3),
            ("orientation", "ImageOrientationPatient", 6),
            ("measures", "PixelSpacing", 2),
        )
    }
    for keyword, values in numbers.items():
        if not values:
            return None, keyword
    thickness = found["measures"].get("SliceThickness")
    position, orientation, spacing = numbers.values()
    return ImagePlane(position, orientation, spacing, float(thickness) if thickness else None), None


def _group(header: Dataset, frame: int, keyword: str) -> Dataset:
    """A functional group of a frame, or else the one that all frames share."""
    groups = header.PerFrameFunctionalGroupsSequence
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for place in (groups[frame - 1] if frame <= len(groups) else Dataset(), shared[0]):
        if place.get(keyword):
            return place[keyword].value[0]
    return Dataset()


def _numbers(item: Dataset | None, keyword: str, count: int) -> tuple[float, ...]:
    values = None if item is None else item.get(keyword)
    return tuple(map(float, values)) if values is not None and len(values) == count else ()
