from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicoms import image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from msformer_deploy.images.dicom import spacing
from msformer_deploy.images.dicom.spacing import find_spacing
from msformer_deploy.images.space import Spacing


def region(down: float = 0.05, across: float = 0.04, form: int = 1, unit: int = 3) -> Dataset:
    found = Dataset()
    found.RegionSpatialFormat = form
    found.PhysicalUnitsXDirection = found.PhysicalUnitsYDirection = unit
    found.PhysicalDeltaX, found.PhysicalDeltaY = across, down
    return found


def regions(*several: Dataset) -> dict[str, Any]:
    return {"SequenceOfUltrasoundRegions": Sequence(several)}


NO_SCALE = ("its ultrasound regions have no common scale, so sizes stay in pixels",)
NOT_VALID = ("its pixel spacing is not valid and is not used",)


@pytest.mark.parametrize(
    ("elements", "expected", "notes"),
    [
        ({}, None, ()),
        ({"PixelSpacing": [0.5, 0.7]}, (0.5, 0.7, spacing.PIXEL), ()),
        ({"PixelSpacing": [0.5, 0.7], "PixelSpacingCalibrationType": "FIDUCIAL"}, (0.5, 0.7, spacing.CALIBRATED), ()),
        ({"PixelSpacing": [0.5, 0.5], "ImagerPixelSpacing": [1, 1]}, (0.5, 0.5, spacing.CALIBRATED), ()),
        ({"PixelSpacing": [1, 1], "ImagerPixelSpacing": [1, 1]}, (1, 1, spacing.IMAGER), ()),
        (
            {"PixelSpacing": [1, 1], "ImagerPixelSpacing": [1, 1], "PixelSpacingCalibrationType": "GEOMETRY"},
            (1, 1, spacing.CALIBRATED),
            (),
        ),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1, spacing.IMAGER), ()),
        (
            {"ImagerPixelSpacing": [0.3, 0.15], "EstimatedRadiographicMagnificationFactor": 1.5},
            (0.2, 0.1, spacing.MAGNIFIED),
            (),
        ),
        (regions(region()), (0.5, 0.4, spacing.ULTRASOUND), ()),
        (regions(region(), region()), (0.5, 0.4, spacing.ULTRASOUND), ()),
        (regions(region(-0.05)), (0.5, 0.4, spacing.ULTRASOUND), ()),
        (regions(region(), region(0.06)), None, NO_SCALE),
        (regions(region(), region(form=3)), None, NO_SCALE),
        (regions(region(unit=4)), None, NO_SCALE),
        (regions(region(0)), None, NO_SCALE),
        ({"PixelSpacing": [2, 3], **regions(region())}, (2, 3, spacing.PIXEL), ()),
        ({"NominalScannedPixelSpacing": [0.1, 0.2]}, (0.1, 0.2, spacing.SCANNED), ()),
        ({"PixelAspectRatio": [4, 3]}, None, ("its pixels are not square: 4 to 3, height to width",)),
        ({"PixelAspectRatio": [1, 1]}, None, ()),
        ({"PixelSpacing": [0, 1]}, None, NOT_VALID),
        ({"PixelSpacing": [-1, 1]}, None, NOT_VALID),
        ({"PixelSpacing": [1]}, None, NOT_VALID),
        ({"PixelSpacing": None}, None, ()),
    ],
    ids=str,
)
def test_the_convention(
    elements: dict[str, Any], expected: tuple[float, float, str] | None, notes: tuple[str, ...]
) -> None:
    header = image(**{keyword: value for keyword, value in elements.items() if value is not None})
    found, remarks = find_spacing(header, header)
    if expected is None:
        assert found is None
    else:
        assert found == Spacing(pytest.approx(expected[0]), pytest.approx(expected[1]), expected[2])
    assert remarks == notes
