"""The table of sizes, and what records hold for it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msformer_deploy.images.space import Spacing
from msformer_deploy.measures.physical import measure, measure_volume
from msformer_deploy.results import measurements


def entry(name: str = "a.png", spacing: Spacing | None = None, mask: np.ndarray | None = None) -> dict[str, Any]:
    if mask is None:
        mask = np.zeros((20, 30), bool)
        mask[3:10, 4:12] = mask[14:18, 20:30] = True
    found = measurements.record(measure(mask, spacing))
    return {"input": name, "foreground": {"measurements": json.loads(json.dumps(found))}}


def table(tmp_path: Path, *images: dict[str, Any]) -> list[dict[str, str]]:
    path = tmp_path / measurements.FILE
    measurements.write(path, images)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        lines = list(reader)
    assert reader.fieldnames == list(measurements.COLUMNS)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    return lines


def test_one_line_for_all_objects_and_one_for_each(tmp_path: Path) -> None:
    whole, first, second = table(tmp_path, entry(spacing=Spacing(0.5, 0.25, "pixel spacing")))
    assert [each["object"] for each in (whole, first, second)] == ["all", "1", "2"]
    assert [each["objects"] for each in (whole, first, second)] == ["2", "", ""]
    assert (whole["area"], first["area"], second["area"]) == ("12", "7", "5")
    assert (first["touches_border"], second["touches_border"], whole["touches_border"]) == ("no", "yes", "yes")
    assert whole["longest_diameter"] == first["longest_diameter"]
    for each in (whole, first, second):
        assert (each["input"], each["unit"], each["volume"], each["slice"]) == ("a.png", "mm", "", "")
        assert (each["spacing_row"], each["spacing_column"], each["slice_spacing"]) == ("0.5", "0.25", "")
        assert each["spacing_origin"] == "pixel spacing"


def test_without_spacing_the_unit_is_pixels(tmp_path: Path) -> None:
    for each in table(tmp_path, entry()):
        assert (each["unit"], each["spacing_row"], each["spacing_origin"]) == ("px", "", "")


def test_volumes_have_slices_and_volumes(tmp_path: Path) -> None:
    mask = np.zeros((4, 9, 9), bool)
    mask[1:3, 2:6, 2:6] = True
    found = measurements.record(measure_volume(mask, Spacing(0.5, 0.5, "affine"), 2.5))
    whole, first = table(tmp_path, {"input": "v.nii", "foreground": {"measurements": found}})
    assert (whole["volume"], whole["slices"], whole["slice"], whole["area"]) == ("20", "2", "", "")
    assert (first["volume"], first["slices"], first["slice"], first["area"]) == ("20", "2", "2", "4")
    assert first["slice_spacing"] == "2.5"


@pytest.mark.parametrize("image", [{"input": "a", "error": "no"}, {"input": "a", "foreground": {"name": "auto"}}])
def test_failures_and_records_of_earlier_versions_have_no_lines(tmp_path: Path, image: dict[str, Any]) -> None:
    assert table(tmp_path, image) == []


def test_an_empty_mask_has_a_line(tmp_path: Path) -> None:
    (whole,) = table(tmp_path, entry(mask=np.zeros((9, 9), bool)))
    assert (whole["objects"], whole["area"], whole["longest_diameter"]) == ("0", "0", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "\t="])
def test_no_name_is_a_formula(tmp_path: Path, start: str) -> None:
    name = f'{start}HYPERLINK("x"),a.png'
    for line in table(tmp_path, entry(name)):
        assert not line["input"].lstrip().startswith(("=", "+", "-", "@"))
        assert line["input"].endswith('HYPERLINK("x"),a.png')


@pytest.mark.parametrize("name", ["a\nb.png", "a\udcffb.png", "a\rb.png", 'a"b.png', "ä,ö;.png", "a\u202eb.png"])
def test_every_name_is_on_one_line(tmp_path: Path, name: str) -> None:
    lines = table(tmp_path, entry(name))
    assert len(lines) == 3
    assert len((tmp_path / measurements.FILE).read_bytes().splitlines()) == 4


def test_numbers_have_a_point_and_enough_digits(tmp_path: Path) -> None:
    whole, *_ = table(tmp_path, entry(spacing=Spacing(0.123456789, 0.0011, "x")))
    assert float(whole["area"]) == pytest.approx(96 * 0.123456789 * 0.0011, rel=1e-8)
    assert whole["spacing_row"] == "0.123456789"


def test_a_failed_write_leaves_the_table_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path, entry())
    before = (tmp_path / measurements.FILE).read_bytes()
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        measurements.write(tmp_path / measurements.FILE, [])
    assert (tmp_path / measurements.FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("spacing", "area", "diameters"),
    [
        (None, "96 px², touches the border", "10.4 × 4.18 px"),
        (Spacing(2, 2, ""), "384 mm², touches the border", "20.9 × 8.35 mm"),
    ],
)
def test_for_people(spacing: Spacing | None, area: str, diameters: str) -> None:
    found = entry(spacing=spacing)["foreground"]["measurements"]
    assert measurements.area_of(found) == area
    assert measurements.diameters_of(found) == diameters


def test_for_people_of_nothing_and_of_volumes() -> None:
    nothing = entry(mask=np.zeros((9, 9), bool))["foreground"]["measurements"]
    assert measurements.area_of(nothing) is measurements.diameters_of(nothing) is None
    mask = np.ones((10, 50, 50), bool)
    mask[[0, -1]] = mask[:, [0, -1]] = mask[:, :, [0, -1]] = False
    assert measurements.area_of(measurements.record(measure_volume(mask, Spacing(1, 1, ""), 2.0))) == "36.9 ml"
    assert measurements.area_of(measurements.record(measure_volume(mask))) == "18432 voxels"


@pytest.mark.parametrize("place", [(0, 4, 4), (-1, 4, 4), (4, 0, 4), (4, -1, 4), (4, 4, 0), (4, 4, -1)])
def test_people_see_that_a_size_may_be_too_small(place: tuple[int, int, int]) -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[place] = True
    assert measurements.area_of(measurements.record(measure_volume(mask))) == "1 voxels, touches the border"
    if place[0] == 4:
        assert measurements.area_of(measurements.record(measure(mask[4]))) == "1 px², touches the border"
