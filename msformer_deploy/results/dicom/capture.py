"""Pictures as DICOM secondary captures, for viewers that do not show segmentations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from ...errors import UsageError
from ...images.sources import DicomSource
from ...machine.extras import require_extra
from . import headers
from .headers import Headers
from .identity import MadeBy, series

# Their images often have text in their pixels, the patient's name at times, and their headers rarely say so.
_OFTEN_WITH_TEXT = {"US", "ES", "GM", "XC", "OT"}


def write_capture(
    path: Path, pictures: Iterable[NDArray[np.uint8]], source: DicomSource, *, made_by: MadeBy
) -> Dataset:
    """Write pictures of a source's slices as one secondary capture.

    One picture becomes a Secondary Capture Image, several become the frames of a Multi-frame True Color Secondary
    Capture Image. They are not compressed, so that every viewer reads them. Burned-in annotation is what the source
    says. Where it does not say it, it is YES for kinds of images that often have text in their pixels, else NO.

    Pictures are written one at a time, so a few of them are in memory, whatever their number. They pass through a
    nameless file in the folder of ``path``, because the header of the object comes before them.

    Args:
        path: of the file.
        pictures: one for each slice, RGB (H, W, 3) of any size, all of one. Pictures are in the order of the source's
            files and frames, and lie as its pixels are stored.
        source: the images that the pictures show.
        made_by: the software and the bundle.

    Returns:
        The object that was written, without its pixels.

    Raises:
        ImageError: the source cannot be read any more, or has not what a secondary capture needs.
        UsageError: the pictures do not fit the source.
        BackendUnavailable: highdicom is not installed.
        OSError: the file cannot be written.
    """
    require_extra("dicom", "a DICOM secondary capture")
    found = headers.read(source)
    with TemporaryFile(dir=path.parent) as file:
        first = _written(pictures, file, found)
        with headers.failing_by_name(found.name, "secondary capture"):
            dataset = _build(first, found, made_by)
            dataset.PixelData = file  # pydicom reads it when it writes
            headers.save(path, dataset)
            del dataset.PixelData
    return dataset


def _written(pictures: Iterable[NDArray[np.uint8]], file: IO[bytes], found: Headers) -> NDArray[np.uint8]:
    """Write the pixels of all frames; the first one.

    Raises:
        UsageError: the pictures do not fit the source.
    """
    first, count = np.empty((0, 0, 3), np.uint8), 0
    for picture in pictures:
        first = picture if count == 0 else first
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.shape != first.shape:
            raise UsageError(
                f"{found.name}: a picture of shape {picture.shape} and type {picture.dtype} does not fit the others;"
                " pass uint8 (H, W, 3)"
            )
        file.write(np.ascontiguousarray(picture).data)
        count += 1
    if count != len(found.slices):
        raise UsageError(f"{found.name}: {count} pictures do not fit {len(found.slices)} slices; pass one for each")
    file.write(bytes(count * first.size % 2))
    file.seek(0)
    return first


def _build(first: NDArray[np.uint8], found: Headers, made_by: MadeBy) -> Dataset:
    """The object with the first picture."""
    import highdicom

    capture = highdicom.sc.SCImage.from_ref_dataset(
        found.first,
        pixel_array=first,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),  # highdicom asks for one; the source's own is below
        specific_character_set=found.first.SpecificCharacterSet,
        **series("overlay"),
        **made_by.equipment(),
    )
    capture.copy_patient_and_study_information(found.first)
    capture.PatientOrientation = _orientation(found)  # type: ignore[assignment]  # it may be empty
    capture.Laterality = found.first.get("Laterality")
    capture.ConversionType = "WSD"  # made by a workstation, not by a scanner of documents
    capture.BurnedInAnnotation = _burned_in(found.first)
    capture.DerivationDescription = "Overlay of a segmentation"
    capture.SourceImageSequence = [each.reference() for each in found.slices]
    frames = len(found.slices)
    if frames > 1:
        capture.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
        capture.file_meta.MediaStorageSOPClassUID = capture.SOPClassUID
        capture.NumberOfFrames = frames
        capture.FrameIncrementPointer = tag_for_keyword("PageNumberVector")
        capture.PageNumberVector = list(range(1, frames + 1))
    return capture


def _burned_in(header: Dataset) -> str:
    stated = header.get("BurnedInAnnotation")
    if stated in ("YES", "NO"):
        return str(stated)
    return "YES" if header.Modality in _OFTEN_WITH_TEXT else "NO"


def _orientation(found: Headers) -> list[str] | None:
    """Towards which side of the patient rows and columns run; None if the source does not say it."""
    place = found.slices[0].place
    if place is None:
        return found.first.get("PatientOrientation")
    ends = (("L", "R"), ("P", "A"), ("H", "F"))
    directions = np.array(place.orientation).reshape(2, 3)
    axes = np.abs(directions).argmax(axis=1)
    return [ends[axis][int(direction[axis] < 0)] for axis, direction in zip(axes, directions, strict=True)]
