"""Prompts as a person writes them: on the command line, and in files for the images of a folder.

A JSON file has an object with the prompts of each image, by its path or the end of it::

    {"a.png": {"points": [[60, 45], [5, 5, 0]], "boxes": [[20, 15, 70, 50]], "scribbles": "a-strokes.png"}}

A CSV file has a line for each prompt, under the heading ``image,x,y,inside,right,bottom``. A line with ``right`` and
``bottom`` is a box, whose left and top are ``x`` and ``y``; any other is a point, outside the object where ``inside``
is 0.

An image of strokes has the size of its image. Pure green in it is inside the object, pure red outside, and all else
says nothing, so one can paint on a copy of the image.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError, UsageError, printable
from ..images.read import read_image
from .prompts import Box, Point, Prompts, Scribble

COLUMNS = ("image", "x", "y", "inside", "right", "bottom")
KEYS = ("points", "boxes", "scribbles")
GREEN, RED = (0, 255, 0), (255, 0, 0)  # of strokes inside and outside
LARGEST = 64 * 2**20  # bytes of a file


def parse_point(text: str) -> Point:
    """Read ``X,Y`` or ``X,Y,1`` for a point inside the object, ``X,Y,0`` for one outside.

    Raises:
        UsageError: for anything else.
    """
    found = _whole(text.split(","), (2, 3))
    if found is None or (len(found) == 3 and found[2] not in (0, 1)):
        raise UsageError(f"point {text!r} is not X,Y or X,Y,0 or X,Y,1 in whole pixels, such as 60,45")
    return _point(found)


def parse_box(text: str) -> Box:
    """Read ``X0,Y0,X1,Y1``: left, top, right and bottom.

    Raises:
        UsageError: for anything else.
    """
    found = _whole(text.split(","), (4,))
    if found is None:
        raise UsageError(f"box {text!r} is not X0,Y0,X1,Y1 in whole pixels, such as 20,15,70,50")
    return Box(*found)


def read_scribble(path: Path) -> Scribble:
    """Read an image of strokes.

    Raises:
        UsageError: it cannot be read, or has no stroke.
    """
    try:
        pixels = read_image(path).display()
    except ImageError as error:
        raise UsageError(str(error)) from error
    inside, outside = ((pixels == np.array(colour)).all(axis=2) for colour in (GREEN, RED))
    if not inside.any() and not outside.any():
        raise UsageError(
            f"{printable(path)}: has no stroke; paint pure green (0,255,0) inside the object and pure red (255,0,0)"
            " outside, and store it without loss, as PNG"
        )
    return Scribble(inside, outside)


def read_prompts(path: Path, images: Sequence[Path]) -> dict[Path, Prompts]:
    """Read the prompts of images from a JSON or CSV file.

    Args:
        path: of the file.
        images: that there are.

    Raises:
        UsageError: the file cannot be read, has something else, or names no image or several by one name.
    """
    readers = {".json": _of_json, ".csv": _of_csv}
    name = printable(path)
    if path.suffix.lower() not in readers:
        raise UsageError(f"{name}: --prompts takes a .json or .csv file")
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{name}: is too large for a file of prompts")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: is not text in UTF-8") from error
    found: dict[Path, Prompts] = {}
    for key, prompts in readers[path.suffix.lower()](text, name, path.parent):
        image = _named(key, images, name)
        if image in found:
            raise UsageError(f"{name}: has prompts for {printable(image)} under two names; keep one of them")
        found[image] = prompts
    if not found:
        raise UsageError(f"{name}: has no prompts")
    return found


def record(prompts: Prompts) -> dict[str, Any]:
    """Prompts as they stand in a record; of strokes only the number of their pixels."""
    strokes = [{name: int(getattr(each, name).sum()) for name in ("inside", "outside")} for each in prompts.scribbles]
    found = {
        "points": [[x, y, int(inside)] for x, y, inside in prompts.points],
        "boxes": [list(each) for each in prompts.boxes],
        "scribbles": strokes,
    }
    return {name: value for name, value in found.items() if value}


def _of_json(text: str, name: str, folder: Path) -> Iterator[tuple[str, Prompts]]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: is not valid JSON ({' '.join(str(error).split())})") from error
    if not isinstance(told, Mapping):
        raise UsageError(f'{name}: is not an object such as {{"a.png": {{"points": [[60, 45]]}}}}')
    for key, entry in told.items():
        if not isinstance(entry, Mapping) or not entry or not set(entry) <= set(KEYS):
            raise UsageError(f"{name}: {key!r} needs an object with {', '.join(KEYS)}")
        points = [_whole(each, (2, 3)) for each in _listed(entry, "points", name, key)]
        boxes = [_whole(each, (4,)) for each in _listed(entry, "boxes", name, key)]
        if None in points or any(each[2] not in (0, 1) for each in points if each and len(each) == 3):
            raise UsageError(f"{name}: a point of {key!r} is not [x, y] or [x, y, 0] or [x, y, 1] in whole pixels")
        if None in boxes:
            raise UsageError(f"{name}: a box of {key!r} is not [left, top, right, bottom] in whole pixels")
        strokes = entry.get("scribbles")
        if strokes is not None and not isinstance(strokes, str):
            raise UsageError(f"{name}: the scribbles of {key!r} are not the name of an image")
        scribbles = () if strokes is None else (read_scribble(folder / strokes),)
        yield key, Prompts([_point(each) for each in points if each], [Box(*each) for each in boxes if each], scribbles)


def _listed(entry: Mapping[str, Any], kind: str, name: str, key: str) -> list[Any]:
    found = entry.get(kind, [])
    if not isinstance(found, list):
        raise UsageError(f"{name}: the {kind} of {key!r} are not a list")
    return found


def _of_csv(text: str, name: str, folder: Path) -> Iterator[tuple[str, Prompts]]:
    try:
        lines = list(csv.DictReader(text.splitlines(), strict=True))
    except csv.Error as error:
        raise UsageError(f"{name}: is not valid CSV ({error})") from error
    found: dict[str, Prompts] = {}
    for number, line in enumerate(lines, 2):
        values = {key: (value or "").strip() for key, value in line.items() if isinstance(value, str)}
        place = _whole([values.get("x"), values.get("y")], (2,))
        corner = [values.get("right", ""), values.get("bottom", "")]
        inside = values.get("inside", "") or "1"
        end = _whole(corner, (2,)) if any(corner) else []
        if (
            not values.get("image")
            or place is None
            or end is None
            or inside not in ("0", "1")
            or not set(line) <= set(COLUMNS)
        ):
            raise UsageError(
                f"{name}: line {number} is no prompt; the heading is {','.join(COLUMNS)}, and a line has an image and"
                " whole pixels, for a box also right and bottom"
            )
        prompt = Box(*place, *end) if end else Point(place[0], place[1], inside == "1")
        found[values["image"]] = found.get(values["image"], Prompts()).and_also(prompt)
    yield from found.items()


def _whole(values: Any, counts: tuple[int, ...]) -> list[int] | None:
    """Whole numbers, where so many are given, as numbers or as text; else None."""
    if not isinstance(values, list) or len(values) not in counts:
        return None
    if any(isinstance(each, bool) or not isinstance(each, int | str) for each in values):
        return None
    try:
        found = [int(each) for each in values]
    except ValueError:
        return None
    return found if all(abs(each) < 2**31 for each in found) else None


def _point(values: Sequence[int]) -> Point:
    return Point(values[0], values[1], len(values) == 2 or values[2] == 1)


def _named(key: str, images: Sequence[Path], name: str) -> Path:
    """The image that a path, or the end of one, names."""
    parts = Path(key).parts
    found = [each for each in images if parts and each.parts[-len(parts) :] == parts]
    if len(found) != 1:
        which = "none of the inputs" if not found else f"{len(found)} of the inputs; write more of its path"
        raise UsageError(f"{name}: {printable(Path(key))} names {which}")
    return found[0]
