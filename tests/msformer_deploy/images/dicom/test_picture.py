from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
import dicoms
from dicoms import COLUMNS, PIXELS, ROWS, image, save, sequence
from pydicom import dcmread
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from msformer_deploy.errors import ImageError
from msformer_deploy.images.image import InputImage
from msformer_deploy.images.read import read_image
from msformer_deploy.images.sources import DicomSource

UNSIGNED = PIXELS.astype(np.uint16)


def read(found: Any, tmp_path: Path, window: tuple[float, float] | None = None) -> InputImage:
    return read_image(save(found, tmp_path / "a"), window)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: syntax.name,
)
@pytest.mark.parametrize("kind", ["i2", "u2", "u1", "colour"])
def test_every_native_transfer_syntax(tmp_path: Path, syntax: Any, kind: str) -> None:
    pixels = np.stack([PIXELS.astype(np.uint8)] * 3, axis=2) if kind == "colour" else PIXELS.astype(kind)
    if kind == "colour":
        pixels[..., 1] += 3
    found = image(pixels)
    found.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        swapped = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        found.PixelData = swapped
    result = read(found, tmp_path)
    if pixels.itemsize == 1:
        shown = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2)
        np.testing.assert_array_equal(result.pixels, shown)
    else:
        low, high = result.intensity_range
        np.testing.assert_allclose(result.pixels * (high - low) + low, pixels, atol=1e-3)


def test_rle(tmp_path: Path) -> None:
    found = image(UNSIGNED)
    found.compress(RLELossless)
    plain = read(image(UNSIGNED), tmp_path)
    np.testing.assert_array_equal(read(found, tmp_path).pixels, plain.pixels)


@pytest.mark.parametrize("preamble", ["none", "none, no meta"])
def test_a_file_without_a_preamble(tmp_path: Path, preamble: str) -> None:
    path = save(image(), tmp_path / "a")
    content = path.read_bytes()[132:]
    if preamble != "none":
        content = content[content.index(b"\x08\0\x16\0UI") :]
    path.write_bytes(content)
    assert read_image(path).pixels.shape == (ROWS, COLUMNS)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024), (2.5, -100), (-1, 300)])
def test_rescale_and_window_are_pydicoms(tmp_path: Path, function: str, slope: float, intercept: float) -> None:
    found = image(
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=[100, 5],
        WindowWidth=[600, 9],
        VOILUTFunction=function,
    )
    result = read(found, tmp_path)
    stored = dcmread(tmp_path / "a")
    shades = apply_windowing(apply_modality_lut(stored.pixel_array, stored), stored, index=0)
    low, high = (limit * slope + intercept for limit in (-(2.0**15), 2.0**15 - 1))
    np.testing.assert_allclose(result.pixels, (shades - low) / (high - low), atol=2e-5)


def test_a_table_is_pydicoms(tmp_path: Path) -> None:
    entries = [int(4095 * (index / 299) ** 2) for index in range(300)]
    tables = sequence(LUTDescriptor=[300, 100, 12], LUTData=entries)
    tables[0]["LUTDescriptor"].VR = tables[0]["LUTData"].VR = "US"
    found = image(UNSIGNED, VOILUTSequence=tables, WindowCenter=1, WindowWidth=2)
    result = read(found, tmp_path)
    stored = dcmread(tmp_path / "a")
    np.testing.assert_allclose(result.pixels, apply_voi(stored.pixel_array, stored) / 4095, atol=1e-6)


def test_a_modality_table_is_pydicoms(tmp_path: Path) -> None:
    tables = sequence(LUTDescriptor=[1500, 0, 16], LUTData=[(index * 31) % 4000 for index in range(1500)])
    tables[0]["LUTDescriptor"].VR = tables[0]["LUTData"].VR = "US"
    found = image(UNSIGNED, ModalityLUTSequence=tables)
    result = read(found, tmp_path)
    stored = dcmread(tmp_path / "a")
    low, high = result.intensity_range
    expected = apply_modality_lut(stored.pixel_array, stored)
    np.testing.assert_allclose(result.pixels * (high - low) + low, expected, atol=1e-2)


def test_the_window_asked_for_wins(tmp_path: Path) -> None:
    found = image(WindowCenter=0, WindowWidth=10, RescaleIntercept=-1000, RescaleSlope=1)
    assert read(found, tmp_path, (-600, 1500)).intensity_range == (-1350.0, 149.0)
    assert read(found, tmp_path).intensity_range == (-5.0, 4.0)


def test_a_window_beyond_all_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"every pixel is beyond the window of 8999\.5 to 8999\.5; pass another --window"
    ):
        read(image(), tmp_path, (9000, 1))


@pytest.mark.parametrize("window", [None, (700, 400)])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2"])
def test_monochrome1_is_shown_the_other_way_round(tmp_path: Path, kind: str, window: Any) -> None:
    pixels = (PIXELS % 200).astype(kind) if kind == "u1" else PIXELS.astype(kind)
    window = None if window is None else ((100, 80) if kind == "u1" else window)
    plain = read(image(pixels), tmp_path, window)
    turned = read(image(pixels, PhotometricInterpretation="MONOCHROME1"), tmp_path, window)
    white = 255 if plain.pixels.dtype == np.uint8 else 1
    np.testing.assert_allclose(turned.pixels, white - plain.pixels, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(-2000, None), (-2000, -1990), (30000, None)])
def test_padding_does_not_count_and_is_black(tmp_path: Path, photometric: str, value: int, limit: int | None) -> None:
    pixels = PIXELS.copy()
    pixels[3:5, 4:9] = value if limit is None else -1995
    more = {"PixelPaddingValue": value} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
    found = image(pixels, PhotometricInterpretation=photometric)
    for keyword, number in more.items():
        found.add_new(keyword, "SS", number)
    result = read(found, tmp_path)
    assert sorted(result.intensity_range) == [0, 4095]
    assert not result.pixels[3:5, 4:9].any()
    assert [each.pixels for each in result.ignored] == [10]
    assert any("10 pixels" in note and "padding" in note for note in result.notes)


@pytest.mark.parametrize(("high", "overlay"), [(11, 0), (11, 0xF000), (15, 0xF), (13, 0xC003)])
@pytest.mark.parametrize("signed", [False, True])
def test_only_the_bits_stored_count(tmp_path: Path, high: int, overlay: int, signed: bool) -> None:
    values = (PIXELS.astype(np.int64) % 4096) - (2048 if signed else 0)
    stored = (((values & 0xFFF) << (high - 11)) | overlay).astype(np.uint16)
    found = image(stored, BitsStored=12, HighBit=high, PixelRepresentation=int(signed))
    result = read(found, tmp_path)
    low, top = result.intensity_range
    np.testing.assert_allclose(result.pixels * (top - low) + low, values, atol=1e-3)


def test_a_palette_and_sixteen_bits_of_colour(tmp_path: Path) -> None:
    places = (PIXELS % 4).astype(np.uint8)
    found = image(places, PhotometricInterpretation="PALETTE COLOR")
    tables = {"Red": [0, 65535, 257, 0], "Green": [0, 0, 514, 65535], "Blue": [257, 0, 0, 0]}
    for name, entries in tables.items():
        found.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [4, 0, 16])
        found.add_new(f"{name}PaletteColorLookupTableData", "OW", np.array(entries, "<u2").tobytes())
    colours = np.array(list(tables.values())).T / 257
    np.testing.assert_array_equal(read(found, tmp_path).pixels, colours[places])
    deep = np.stack([UNSIGNED * 40, UNSIGNED, UNSIGNED * 3], axis=2).astype(np.uint16)
    np.testing.assert_array_equal(read(image(deep), tmp_path).pixels, np.rint(deep / 257))


def test_colour_has_no_window_and_a_note_says_so(tmp_path: Path) -> None:
    colours = np.stack([PIXELS % 250, PIXELS % 200, PIXELS % 100], axis=2).astype(np.uint8)
    result = read(image(colours), tmp_path, (40, 80))
    assert result.notes == ("the window is not used, because this is colour",)
    np.testing.assert_array_equal(result.pixels, colours)


def test_it_knows_where_it_comes_from(tmp_path: Path) -> None:
    result = read(dicoms.slice_at(3), tmp_path)
    assert isinstance(result.source, DicomSource)
    assert (result.source.files, result.source.frames) == ((tmp_path / "a",), (None,))
    assert result.spacing is not None
    assert (result.spacing.row, result.spacing.column) == (0.5, 0.75)


def test_of_several_frames_the_first_is_used(tmp_path: Path) -> None:
    frames = np.stack([PIXELS, PIXELS[::-1]])
    result = read(image(frames), tmp_path)
    assert result.notes == ("only frame 1 of 2 is used",)
    np.testing.assert_array_equal(result.pixels, read(image(), tmp_path).pixels)
