"""What a DICOM object is, if it is no image to segment: by its SOP class (PS3.4, table B.5-1)."""

from __future__ import annotations

DIRECTORY, OTHER = "DICOMDIR", "DICOM without an image"
OVERLAY = "DICOM overlay of msformer-deploy"
MANUFACTURER = "msformer-deploy"  # of the objects that this software makes

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# The longest beginning that fits a SOP class decides. None: images.
_KINDS: dict[str, str | None] = {
    "1.2.840.10008.1.3.10": DIRECTORY,
    f"{_STORAGE}4.2": "DICOM spectroscopy",
    f"{_STORAGE}9.": "DICOM waveform",
    f"{_STORAGE}11.": "DICOM PR",
    f"{_STORAGE}66": "DICOM raw data",
    f"{_STORAGE}66.1": "DICOM registration",
    f"{_STORAGE}66.2": "DICOM fiducials",
    f"{_STORAGE}66.3": "DICOM registration",
    f"{_STORAGE}66.4": "DICOM SEG",
    f"{_STORAGE}66.5": "DICOM SEG",
    f"{_STORAGE}66.6": "DICOM tractography",
    f"{_STORAGE}66.7": "DICOM SEG",
    f"{_STORAGE}67": "DICOM value mapping",
    f"{_STORAGE}68.": "DICOM surface",
    f"{_STORAGE}78.": "DICOM eye measurements",
    f"{_STORAGE}79.": "DICOM eye measurements",
    f"{_STORAGE}80.": "DICOM eye measurements",
    f"{_STORAGE}88.": "DICOM SR",
    f"{_STORAGE}88.59": "DICOM KO",
    f"{_STORAGE}90.": "DICOM assessment",
    f"{_STORAGE}104.1": "DICOM PDF",
    f"{_STORAGE}104.": "DICOM document",
    f"{_STORAGE}200.": "DICOM protocol",
    f"{_STORAGE}481.1": None,  # RT images
    f"{_STORAGE}481.2": "DICOM RTDOSE",
    f"{_STORAGE}481.3": "DICOM RTSTRUCT",
    f"{_STORAGE}481.5": "DICOM RTPLAN",
    f"{_STORAGE}481.": "DICOM RT",
    "1.2.840.10008.5.1.4.34.": "DICOM procedure",
    "1.2.840.10008.5.1.4.38.": "DICOM protocol",
    "1.2.840.10008.5.1.4.39.": "DICOM palette",
    "1.2.840.10008.5.1.4.43.": "DICOM implant",
    "1.2.840.10008.5.1.4.44.": "DICOM implant",
    "1.2.840.10008.5.1.4.45.": "DICOM implant",
}
_MODALITIES = ("SR", "PR", "KO", "SEG", "RTSTRUCT", "RTPLAN", "RTDOSE")  # of files without a SOP class


def kind_of(sop_class: str, modality: str, pixels: bool, manufacturer: str) -> str | None:
    """The kind of an object that is not segmented, as messages count it; None for an image.

    Args:
        sop_class: its UID; empty if it is missing.
        modality: its code; used if the SOP class is missing.
        pixels: whether the header says how large an image is.
        manufacturer: in capitals; an image of this software is a picture of a result, and no image to segment.
    """
    kind = _by_class(sop_class, modality, pixels)
    return OVERLAY if kind is None and manufacturer == MANUFACTURER.upper() else kind


def _by_class(sop_class: str, modality: str, pixels: bool) -> str | None:
    parts = sop_class.split(".")
    for count in range(len(parts), 0, -1):
        for beginning in (".".join(parts[:count]), ".".join(parts[:count]) + "."):
            if beginning in _KINDS and (beginning.endswith(".") or count == len(parts)):
                return _KINDS[beginning]
    if sop_class.startswith(_STORAGE):
        return None
    if modality in _MODALITIES:
        return f"DICOM {modality}"
    return None if pixels else OTHER
