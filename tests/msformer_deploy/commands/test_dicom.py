"""``run`` on DICOM: images of one frame from files to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicoms import image, save, series, slice_at
from pydicom.uid import BasicTextSRStorage


@pytest.fixture
def scan(picture: np.ndarray) -> np.ndarray:
    """The picture as Hounsfield units, int16 (60, 80)."""
    return picture[..., 0].astype(np.int16) * 8 - 1000


def record_of(out: Path, name: str) -> Any:
    return json.loads((out / f"{name}.json").read_text())


@pytest.mark.parametrize("window", [["--window", "-600,1500"], ["--window=-600,1500"], ["--window", "lung"]], ids=str)
def test_a_window_reaches_the_image(
    segment: Any, scan: np.ndarray, tmp_path: Path, out: Path, window: list[str]
) -> None:
    path = save(slice_at(0, scan, WindowCenter=40, WindowWidth=400), tmp_path / "a.dcm")
    outcome = segment(path, *window)
    assert outcome.code == 0, outcome.err
    assert record_of(out, "a.dcm")["intensity_range"] == [-1350, 149]
    assert np.asarray(Image.open(out / "a.dcm.mask.png")).shape == scan.shape


@pytest.mark.parametrize("window", ["lungs", "1", "40,0"])
def test_a_window_that_is_none_is_one_line(segment: Any, good: Path, window: str) -> None:
    segment(good, "--window", window).error(2, f"window '{window}' is unknown", "lung")


def test_a_window_holds_for_other_grey_files(segment: Any, picture: np.ndarray, tmp_path: Path, out: Path) -> None:
    Image.fromarray(picture[..., 0].astype(np.uint16) * 100).save(tmp_path / "deep.png")
    Image.fromarray(picture).save(tmp_path / "colour.png")
    outcome = segment(tmp_path / "deep.png", tmp_path / "colour.png", "--window", "12000,10001")
    assert outcome.code == 0, outcome.err
    assert record_of(out, "deep.png")["intensity_range"] == [6999.5, 17000.5]
    assert record_of(out, "colour.png")["notes"] == ["the window is not used, because this is colour"]


def test_a_folder_does_what_it_can(segment: Any, scan: np.ndarray, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "scans"
    save(image(scan), folder / "IM1")
    save(image(scan, SOPClassUID=BasicTextSRStorage), folder / "IM2")
    (folder / "cut.dcm").write_bytes(save(image(scan), folder / "cut.dcm").read_bytes()[:-1])
    (folder / "empty.dcm").touch()
    series(folder / "ct")
    outcome = segment(folder)
    assert outcome.code == 5
    lines = outcome.err.splitlines()
    assert lines[0] == "passed over: 1 DICOM SR"
    told = sorted(line.removeprefix(f"error: {folder}/").partition(";")[0] for line in lines[1:])
    assert told == [
        "cut.dcm: its pixels are cut short, 9599 of 9600 bytes",
        "empty.dcm: the file is empty",
    ]
    assert record_of(out, "IM1")["input"].endswith("IM1")
    assert record_of(out, "ct")["slices"] == 4
