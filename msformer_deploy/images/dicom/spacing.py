"""The distance between pixels in millimetres, by the first of these elements of DICOM PS3.3 that a header has.

1. Pixel Spacing (0028,0030), section 10.7.1.3; of enhanced objects that of the frame, C.7.6.16.2.1. It is
   calibrated if Pixel Spacing Calibration Type (0028,0A02) is there, or if Imager Pixel Spacing differs from it:
   section 10.7.1.1. If the two are equal and there is no calibration, both are distances at the detector: see 2.
2. Imager Pixel Spacing (0018,1164), the distance at the detector, divided by the Estimated Radiographic Magnification
   Factor (0018,1114); undivided where that is missing, and ``origin`` says so.
3. Physical Delta X and Y of the ultrasound regions (0018,6011), section C.8.5.5, if all of them are two-dimensional, in
   centimetres and of one scale. If their scales differ there is no spacing, and a note says so.
4. Nominal Scanned Pixel Spacing (0018,2010) of film that was digitised, section C.8.6.1.

Pixel Aspect Ratio (0028,0034) is no distance; a note says that pixels are not square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..space import Spacing
from .values import items, numbers, whole, word

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PIXEL, CALIBRATED = "pixel spacing", "pixel spacing, calibrated"
IMAGER = "imager pixel spacing, at the detector"
MAGNIFIED = "imager pixel spacing, divided by the magnification"
ULTRASOUND, SCANNED = "ultrasound regions", "nominal scanned pixel spacing"

_TWO_DIMENSIONAL, _CENTIMETRES = 1, 3  # codes in C.8.5.5.1
_MILLIMETRES_PER_CENTIMETRE = 10


def find_spacing(header: Dataset, measures: Dataset) -> tuple[Spacing | None, tuple[str, ...]]:
    """Find the spacing of pixels.

    Args:
        header: of the object.
        measures: what has Pixel Spacing: the header itself, or the Pixel Measures of a frame.

    Returns:
        the spacing, None if it is not known, and notes on what could not be used.
    """
    notes = []
    pixel, imager = _pair(measures, "PixelSpacing"), _pair(header, "ImagerPixelSpacing")
    if pixel is None and "PixelSpacing" in measures:
        notes.append("its pixel spacing is not valid and is not used")
    if pixel is not None and imager is None:
        calibrated = bool(word(header, "PixelSpacingCalibrationType"))
        return Spacing(*pixel, CALIBRATED if calibrated else PIXEL), ()
    if pixel is not None and (pixel != imager or word(header, "PixelSpacingCalibrationType")):
        return Spacing(*pixel, CALIBRATED), ()
    if imager is not None:
        factor = numbers(header, "EstimatedRadiographicMagnificationFactor")
        if len(factor) == 1 and factor[0] > 0:
            return Spacing(imager[0] / factor[0], imager[1] / factor[0], MAGNIFIED), tuple(notes)
        return Spacing(*imager, IMAGER), tuple(notes)
    regions = items(header, "SequenceOfUltrasoundRegions")
    if regions:
        scales = {_scale(region) for region in regions}
        scale = scales.pop() if len(scales) == 1 else None
        if scale is not None:
            return Spacing(*scale, ULTRASOUND), tuple(notes)
        notes.append("its ultrasound regions have no common scale, so sizes stay in pixels")
        return None, tuple(notes)
    scanned = _pair(header, "NominalScannedPixelSpacing")
    if scanned is not None:
        return Spacing(*scanned, SCANNED), tuple(notes)
    aspect = numbers(header, "PixelAspectRatio")
    if len(aspect) == 2 and aspect[0] != aspect[1]:
        notes.append(f"its pixels are not square: {aspect[0]:g} to {aspect[1]:g}, height to width")
    return None, tuple(notes)


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    """Distances of rows and columns."""
    found = numbers(dataset, keyword)
    return (found[0], found[1]) if len(found) == 2 and min(found) > 0 else None


def _scale(region: Dataset) -> tuple[float, float] | None:
    """Distances of rows and columns in a region, mm; None if it is no picture in centimetres."""
    codes = [
        whole(region, keyword)
        for keyword in ("RegionSpatialFormat", "PhysicalUnitsXDirection", "PhysicalUnitsYDirection")
    ]
    across, down = numbers(region, "PhysicalDeltaX"), numbers(region, "PhysicalDeltaY")
    if codes != [_TWO_DIMENSIONAL, _CENTIMETRES, _CENTIMETRES] or len(across) != 1 or len(down) != 1:
        return None
    if not across[0] or not down[0]:
        return None
    return abs(down[0]) * _MILLIMETRES_PER_CENTIMETRE, abs(across[0]) * _MILLIMETRES_PER_CENTIMETRE
