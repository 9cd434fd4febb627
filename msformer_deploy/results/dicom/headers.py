"""The headers of a source, without pixels, as the writers of this room need them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from ... import files
from ...errors import ImageError, printable
from ...images import quiet
from ...images.dicom.frames import groups_of
from ...images.dicom.opened import file_stamp
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
_PLACE = (
    *("FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient"),
    *("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# By representation: what a value has to be, how it is checked, and what separated its parts in the old form.
_FORMS: dict[str, tuple[re.Pattern[str], Callable[[str], object], str]] = {
    "DA": (re.compile(r"\d{8}"), DA, "."),
    "TM": (re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"), TM, ":"),
}


@dataclass(frozen=True)
class ImagePlane:
    """Where a slice is in the patient.

    Attributes:
        position: of the centre of its first pixel, mm.
        orientation: directions of a row and of a column, six numbers.
        spacing: between rows and between columns, mm.
        thickness: mm; None if it is not known.
        apart: what its header says of the distance between slices, mm; None if it says nothing.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None
    apart: float | None = None


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
    def placed(self) -> bool:
        """Whether slices lie beside each other: places are known, and are not one place at several times."""
        places = [each.place for each in self.slices if each.place is not None]
        if len(places) < len(self.slices):
            return False
        return len(places) == 1 or len(self.objects) > 1 or bool(np.ptp(_heights(places)) > 0)

    @property
    def objects(self) -> list[Dataset]:
        """The header of each object once."""
        return list({each.header.SOPInstanceUID: each.header for each in self.slices}.values())


def read(source: DicomSource) -> Headers:
    """Read the headers of a source again; pixels stay in the files.

    All of the first file is read, of the others only what identifies and places them.

    Raises:
        ImageError: a file cannot be read any more, has changed since its pixels were read, or lacks what a result must
            refer to.
    """
    known: dict[Path, Dataset] = {}
    slices = []
    for path, frame in zip(source.files, source.frames, strict=True):
        if path not in known:
            tags = () if not known else (*_NEEDED, *_PLACE, *_GROUPS, "SpecificCharacterSet")
            known[path] = _header(path, tags, source)
        with failing_by_name(printable(path), "result"):
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


def thickness_of(places: list[ImagePlane]) -> float | None:
    """How thick slices are in mm: what the first says, else the distance between them; None if neither is known."""
    first = places[0]
    if first.thickness is not None:
        return first.thickness
    return float(np.ptp(_heights(places))) / (len(places) - 1) if len(places) > 1 else first.apart


def equally_far(places: list[ImagePlane]) -> float | None:
    """The distance between neighbouring slices in mm where all are in one row and equally far apart, else None."""
    if len(places) < 2:
        return None
    steps = np.diff(np.array([place.position for place in places]), axis=0)
    distance = float(np.linalg.norm(steps.mean(axis=0)))
    return distance if distance > 0 and np.abs(steps - steps.mean(axis=0)).max() < 0.01 * distance else None


def _heights(places: list[ImagePlane]) -> NDArray[np.float64]:
    """Positions along the normal of the first slice, mm."""
    normal = np.cross(*np.array(places[0].orientation).reshape(2, 3))
    return np.array([place.position for place in places]) @ normal


def _header(path: Path, tags: tuple[str, ...], source: DicomSource) -> Dataset:
    name = printable(path)
    with failing_by_name(name, "result"):
        try:
            with path.open("rb") as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(tags) or None)
                source.check_unchanged(path, file_stamp(header, file))
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
    """Values that the standard does not allow cannot be copied into a valid object.

    Dates and times in the form of before 1993, such as 1997.04.24 and 10:11:12, get the one of today (PS3.5, 6.2).
    """
    for element in header:
        if element.VR in _FORMS:
            form, kind, separator = _FORMS[element.VR]
            value = str(element.value or "").strip().replace(separator, "")
            try:
                kind(value)
            except ValueError:
                value = ""
            element.value = value if form.fullmatch(value) else None
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = None


def _place(header: Dataset, frame: int | None) -> tuple[ImagePlane | None, str | None]:
    """Where a slice is, or the keyword of what is missing."""
    if not header.get("FrameOfReferenceUID"):
        return None, "FrameOfReferenceUID"
    groups = groups_of(header, (frame or 1) - 1)
    numbers = {
        keyword: _numbers(group, keyword, count)
        for group, keyword, count in (
            (groups.position, "ImagePositionPatient", 3),
            (groups.orientation, "ImageOrientationPatient", 6),
            (groups.measures, "PixelSpacing", 2),
        )
    }
    for keyword, values in numbers.items():
        if not values:
            return None, keyword
    thickness, apart = (groups.measures.get(each) for each in ("SliceThickness", "SpacingBetweenSlices"))
    place = ImagePlane(
        numbers["ImagePositionPatient"],
        numbers["ImageOrientationPatient"],
        numbers["PixelSpacing"],
        float(thickness) if thickness else None,
        abs(float(apart)) if apart else None,
    )
    return place, None


def _numbers(item: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    values = item.get(keyword)
    return tuple(map(float, values)) if values is not None and len(values) == count else ()
