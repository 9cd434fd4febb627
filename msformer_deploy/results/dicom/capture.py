"""Pictures as DICOM secondary captures, for viewers that do not show segmentations."""

from __future__ import annotations

from pathlib import Path

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


def write_capture(path: Path, pictures: NDArray[np.uint8], source: DicomSource, *, made_by: MadeBy) -> Dataset:
    """Write pictures of a source's slices as one secondary capture.

    One picture becomes a Secondary Capture Image, several become the frames of a Multi-frame True Color Secondary
    Capture Image. They are not compressed, so that every viewer reads them. Burned-in annotation is what the source
    says. Where it does not say it, it is YES for kinds of images that often have text in their pixels, else NO.

    Args:
        path: of the file.
        pictures: RGB (N, H, W, 3), or (H, W, 3) for one image; of any size. Pictures are in the order of the source's
            files and frames, and lie as its pixels are stored.
        source: the images that the pictures show.
        made_by: the software and the bundle.

    Returns:
        The object that was written.

    Raises:
        ImageError: the source cannot be read any more, or has not what a secondary capture needs.
        UsageError: the pictures do not fit the source.
        BackendUnavailable: highdicom is not installed.
        OSError: the file cannot be written.
    """
    require_extra("dicom", "a DICOM secondary capture")
    found = headers.read(source)
    stack = pictures[None] if pictures.ndim == 3 else pictures
    if stack.dtype != np.uint8 or stack.ndim != 4 or stack.shape[3] != 3 or len(stack) != len(found.slices):
        raise UsageError(
            f"{found.name}: pictures of shape {stack.shape} and type {stack.dtype} do not fit"
            f" {len(found.slices)} slices; pass uint8 (N, H, W, 3)"
        )
    with headers.failing_by_name(found.name, "secondary capture"):
        dataset = _build(stack, found, made_by)
        headers.save(path, dataset)
    return dataset


def _build(stack: NDArray[np.uint8], found: Headers, made_by: MadeBy) -> Dataset:
    import highdicom

    capture = highdicom.sc.SCImage.from_ref_dataset(
        found.first,
        pixel_array=stack[0],
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
    if len(stack) > 1:
        capture.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
        capture.file_meta.MediaStorageSOPClassUID = capture.SOPClassUID
        capture.NumberOfFrames = len(stack)
        capture.FrameIncrementPointer = tag_for_keyword("PageNumberVector")
        capture.PageNumberVector = list(range(1, len(stack) + 1))
        capture.PixelData = np.ascontiguousarray(stack).tobytes()
        capture.PixelData += b"\0" * (len(capture.PixelData) % 2)
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
