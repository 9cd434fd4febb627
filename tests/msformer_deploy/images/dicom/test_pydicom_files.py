"""Every file in pydicom's own wheel: read to what independent decoders give, or refused with the right line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut

from msformer_deploy.errors import ImageError
from msformer_deploy.images.decoders.formats import DICOM, HEAD, identify
from msformer_deploy.images.read import read_image

FOLDER = Path(pydicom.__file__).parent / "data" / "test_files"
_NOT = "which is not an image to segment; leave it out"
_DAMAGED = "is DICOM that is damaged or cut short, and cannot be decoded; copy or export it again"
_SMALL = "3 x 3 pixels is too small to segment; at least 8 x 8 is needed"
_NO_ROWS = "its header has no number of rows; copy or export it again"
_WITHOUT = f"is DICOM without an image, {_NOT}"
# What each file that is not read is refused with.
REFUSED = {
    "ExplVR_BigEndNoMeta.dcm": f"is a DICOM RT object, {_NOT}",
    "ExplVR_LitEndNoMeta.dcm": f"is a DICOM RT object, {_NOT}",
    "JPEG2000-embedded-sequence-delimiter.dcm": _DAMAGED,  # pydicom's, GDCM's and ITK's decoders refuse it as well
    "MR_truncated.dcm": "its pixels are cut short, 8130 of 8192 bytes; copy or export it again",
    "SC_rgb_small_odd.dcm": _SMALL,
    "SC_rgb_small_odd_big_endian.dcm": _SMALL,
    "SC_rgb_small_odd_jpeg.dcm": _SMALL,
    "UN_sequence.dcm": _NO_ROWS,
    "badVR.dcm": f"is a DICOM RTDOSE object, {_NOT}",
    "empty_charset_LEI.dcm": _WITHOUT,
    "liver_1frame.dcm": f"is a DICOM SEG object, {_NOT}",
    "liver_expb_1frame.dcm": f"is a DICOM SEG object, {_NOT}",
    "meta_missing_tsyntax.dcm": _WITHOUT,
    "nested_priv_SQ.dcm": _WITHOUT,
    "no_meta_group_length.dcm": _NO_ROWS,
    "priv_SQ.dcm": _NO_ROWS,
    "reportsi.dcm": f"is a DICOM SR object, {_NOT}",
    "reportsi_with_empty_number_tags.dcm": f"is a DICOM SR object, {_NOT}",
    "rtdose.dcm": f"is a DICOM RTDOSE object, {_NOT}",
    "rtdose_1frame.dcm": f"is a DICOM RTDOSE object, {_NOT}",
    "rtdose_expb.dcm": f"is a DICOM RTDOSE object, {_NOT}",
    "rtdose_expb_1frame.dcm": f"is a DICOM RTDOSE object, {_NOT}",
    "rtdose_rle.dcm": f"is a DICOM RTDOSE object, {_NOT}",
    "rtdose_rle_1frame.dcm": f"is a DICOM RTDOSE object, {_NOT}",
    "rtplan.dcm": f"is a DICOM RTPLAN object, {_NOT}",
    "rtplan_truncated.dcm": f"is a DICOM RTPLAN object, {_NOT}",
    "rtstruct.dcm": f"is a DICOM RTSTRUCT object, {_NOT}",
    "test-SR.dcm": f"is a DICOM SR object, {_NOT}",
    "waveform_ecg.dcm": f"is a DICOM waveform object, {_NOT}",
    # Windows in their headers that all of their 16 x 16 pixels are beyond.
    "17166": "every pixel is beyond the window of -20 to 79; pass another --window",
    "17196": "every pixel is beyond the window of -20 to 79; pass another --window",
}
_FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file() and "charset_files" not in path.parts)
OTHERS = {  # not DICOM by their content: texts, a profile, an archive, and a file that begins with a stray byte
    *("README.txt", "crayons.icc", "no_meta.dcm", "rtplan.dump", "rtstruct.dump", "test1.json", "test_PN.json"),
    *("zipMR.gz", "README"),
}


def _is_dicom(path: Path) -> bool:
    return identify(path.read_bytes()[:HEAD]) == DICOM


def test_what_is_not_dicom_is_known() -> None:
    assert {path.name for path in _FILES if not _is_dicom(path)} == OTHERS


@pytest.mark.parametrize("path", [*filter(_is_dicom, _FILES)], ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_every_file(path: Path, tmp_path: Path, capfd: Any) -> None:
    line = REFUSED.get(path.name)
    if path.name.startswith("DICOMDIR"):
        line = f"is DICOMDIR, {_NOT}"
    elif path.parent.name == "SE000000":
        line = _NO_ROWS  # headers alone
    if line is not None:
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert str(caught.value) == f"{path}: {line}"
        return
    result = read_image(path)
    assert capfd.readouterr() == ("", "")
    expected = _expected(path, tmp_path)
    low, high = result.intensity_range
    if expected.ndim == 3:
        np.testing.assert_array_equal(result.pixels, expected)
    elif result.pixels.dtype == np.uint8:
        np.testing.assert_array_equal(result.pixels, np.stack([expected] * 3, axis=2))
    else:  # intensities, cut off by a window; black where they were ignored
        shades = np.clip((expected.astype(np.float64) - low) / (high - low), 0, 1)
        for each in result.ignored:
            shades[(expected >= each.low) & (expected <= each.high)] = 0 if each.padding or each.side == "low" else 1
        np.testing.assert_allclose(result.pixels, shades, atol=1e-5)


def _expected(path: Path, tmp_path: Path) -> np.ndarray:
    """The first frame after the modality LUT or in RGB, by dcmtk where it can, else by ITK, else by pydicom itself."""
    found = pydicom.dcmread(path)
    pixels = _by_dcmtk(path, tmp_path) if found.file_meta.TransferSyntaxUID.is_compressed else None
    if pixels is None and found.file_meta.TransferSyntaxUID.name.startswith("JPEG"):
        pixels = _by_itk(path, found)
    if pixels is None:
        pixels = found.pixel_array
    if int(found.get("NumberOfFrames") or 1) > 1:
        pixels = pixels[0]
    if found.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(pixels, found)
        return np.rint(colours * (255 / np.iinfo(colours.dtype).max)).astype(np.uint8)
    if found.SamplesPerPixel == 3:
        return np.rint(pixels * (255 / (2**found.BitsStored - 1))).astype(np.uint8)
    return np.asarray(apply_modality_lut(pixels, found))


def _by_dcmtk(path: Path, tmp_path: Path) -> np.ndarray | None:
    for tool in ("dcmdjpeg", "dcmdjpls", "dcmdrle"):
        if shutil.which(tool) is None:
            pytest.skip("dcmtk is not installed")
        if subprocess.run([tool, path, tmp_path / "plain"], capture_output=True, check=False).returncode == 0:
            plain = pydicom.dcmread(tmp_path / "plain")
            if not plain.file_meta.TransferSyntaxUID.is_compressed:
                return plain.pixel_array
    return None


def _by_itk(path: Path, found: Any) -> np.ndarray | None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
    if found.SamplesPerPixel == 3:
        return pixels
    slope, intercept = float(found.get("RescaleSlope", 1)), float(found.get("RescaleIntercept", 0))
    return np.rint((pixels - intercept) / slope).astype(np.int64)  # ITK has applied them
