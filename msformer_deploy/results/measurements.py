"""``measurements.csv``: the sizes of all objects of a run for a spreadsheet, and what a record holds of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import printable

if TYPE_CHECKING:
    from ..measures.physical import Measured

FILE = "measurements.csv"
ALL = "all"  # in place of an object's number: all objects together
DIGITS = 9  # significant ones: more than any image gives, fewer than rounding errors show

_SIZES = ("area", "perimeter", "longest_diameter", "perpendicular_diameter", "volume", "slices", "touches_border")
COLUMNS = (
    *("input", "slice", "object", "objects", "unit", *_SIZES),
    *("spacing_row", "spacing_column", "slice_spacing", "spacing_origin"),
)
_FORMULA = ("=", "+", "-", "@")  # spreadsheets calculate what begins like this


def record(measured: Measured) -> dict[str, Any]:
    """What the record of an image or a volume holds of its sizes; :func:`rows` reads it."""
    spacing = measured.spacing
    return {
        "unit": measured.unit,
        "spacing": None if spacing is None else asdict(spacing),
        "slice_spacing": measured.thickness,
        "object_count": measured.count,
        "all": _rounded(asdict(measured.whole)),
        "objects": [_rounded(asdict(each)) for each in measured.objects],
    }


def rows(images: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """The lines of the table: for each image that has sizes, one for all objects together and one for each object.

    Args:
        images: entries of the report.
    """
    for image in images:
        found = (image.get("foreground") or {}).get("measurements")
        if found is None:  # it failed, or was made by an earlier version
            continue
        spacing = found["spacing"] or {}
        shared = {
            **{name: _text(value) for name, value in image.get("identifiers", {}).items()},
            "input": _text(image["input"]),
            "unit": found["unit"],
            "spacing_row": _cell(spacing.get("row")),
            "spacing_column": _cell(spacing.get("column")),
            "slice_spacing": _cell(found["slice_spacing"]),
            "spacing_origin": _text(spacing.get("origin") or ""),
        }
        yield {**shared, **_cells(found["all"]), "object": ALL, "objects": str(found["object_count"])}
        for number, each in enumerate(found["objects"], 1):
            yield {**shared, **_cells(each), "object": str(number), "objects": ""}


def write(path: Path, images: Iterable[Mapping[str, Any]]) -> None:
    """Write the table, atomically. Identifiers are columns where images have them.

    Raises:
        OSError: the file cannot be written.
    """
    found = list(images)
    identifiers = dict.fromkeys(name for image in found for name in image.get("identifiers", {}))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, (*COLUMNS, *identifiers), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(found))
    files.write_text(path, stream.getvalue())


def area_of(found: Mapping[str, Any]) -> str | None:
    """Area or volume of all objects together, for people; None if there are none.

    A size that may be too small, because the mask reaches the border, is followed by words that say so.
    """
    total, unit = found["all"], found["unit"]
    if total["volume"] is not None:
        size = f"{_short(total['volume'] / 1000)} ml" if unit == "mm" else f"{_short(total['volume'])} voxels"
    elif total["area"]:
        size = f"{_short(total['area'])} {unit}²"
    else:
        return None
    return f"{size}, touches the border" if total["touches_border"] else size


def diameters_of(found: Mapping[str, Any]) -> str | None:
    """The longest diameter and the one across it, for people; None if no object is listed."""
    longest, across = (found["all"][f"{name}_diameter"] for name in ("longest", "perpendicular"))
    return None if longest is None else f"{_short(longest)} × {_short(across)} {found['unit']}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _rounded(sizes: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for name, value in sizes.items()}


def _cells(sizes: Mapping[str, Any]) -> dict[str, str]:
    return {name: _cell(sizes[name]) for name in ("slice", *_SIZES)}


def _cell(value: bool | float | None) -> str:
    if value is None:
        return ""
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.{DIGITS}g}"


def _text(text: str) -> str:
    """A text that a spreadsheet shows as it is, on one line."""
    text = printable(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
