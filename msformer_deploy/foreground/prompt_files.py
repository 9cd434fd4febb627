"""Prompts as a person writes them: on the command line, and in files for the images of a folder.

A JSON file has an object with the prompts of each image, by its path or the end of it::

    {"a.png": {"points": [[60, 45], [5, 5, 0]], "boxes": [[20, 15, 70, 50]], "scribbles": "a-strokes.png"},
     "v.nii.gz": {"points": [[-12.5, 40, 7], [30, 41, 7, 0]], "boxes": [[-30, 20, 0, 5, 60, 25]]}}

A CSV file has a line for each prompt, under the heading ``image,x,y,inside,right,bottom``. A line with ``right`` and
``bottom`` is a box, whose left and top are ``x`` and ``y``; any other is a point, outside the object where ``inside``
is 0. Lines of volumes have ``z`` too, and those of their boxes ``x1``, ``y1`` and ``z1`` in place of ``right`` and
``bottom``.

Numbers are whole pixels of images, and millimetres of volumes, see :mod:`.volume_prompts`.

An image of strokes has the size of its image. Pure green in it is inside the object, pure red outside, and all else
says nothing, so one can paint on a copy of the image.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import ImageError, UsageError, printable
from ..images.decoders.formats import HEAD, identify
from ..images.image import of_stored
from ..images.read import read_stored
from .prompts import Box, Point, Prompts, Scribble
from .volume_prompts import VolumeBox, VolumePoint, VolumePrompts

COLUMNS = ("image", "x", "y", "inside", "right", "bottom", "z", "x1", "y1", "z1")
KEYS = ("points", "boxes", "scribbles")
GREEN, RED = (0, 255, 0), (255, 0, 0)  # of strokes inside and outside
LARGEST = 64 * 2**20  # bytes of a file
LONGEST = 20  # characters of a number

OfKind = Callable[[bool], Prompts | VolumePrompts]  # the prompts of an entry, which is of a volume or not
Number = TypeVar("Number", int, float)


def parse_point(text: str) -> Point:
    """Read ``X,Y`` or ``X,Y,1`` for a point inside the object, ``X,Y,0`` for one outside.

    Raises:
        UsageError: for anything else.
    """
    found = _point(_read(text.split(","), int))
    if found is None:
        raise UsageError(f"point {text!r} is not X,Y or X,Y,0 or X,Y,1 in whole pixels, such as 60,45")
    return found


def parse_box(text: str) -> Box:
    """Read ``X0,Y0,X1,Y1``: left, top, right and bottom.

    Raises:
        UsageError: for anything else.
    """
    found = _whole(_read(text.split(","), int), (4,))
    if found is None:
        raise UsageError(f"box {text!r} is not X0,Y0,X1,Y1 in whole pixels, such as 20,15,70,50")
    return Box(*found)


def parse_volume_point(text: str) -> VolumePoint:
    """Read ``X,Y,Z`` or ``X,Y,Z,1`` in millimetres for a point inside the object, ``X,Y,Z,0`` for one outside.

    Raises:
        UsageError: for anything else.
    """
    found = _volume_point(_read(text.split(","), float))
    if found is None:
        raise UsageError(
            f"point {text!r} of a volume is not X,Y,Z or X,Y,Z,0 or X,Y,Z,1 in millimetres, such as -12.5,40,7"
        )
    return found


def parse_volume_box(text: str) -> VolumeBox:
    """Read ``X0,Y0,Z0,X1,Y1,Z1``: two opposite corners in millimetres.

    Raises:
        UsageError: for anything else.
    """
    found = _millimetres(_read(text.split(","), float), (6,))
    if found is None:
        raise UsageError(f"box {text!r} of a volume is not X0,Y0,Z0,X1,Y1,Z1 in millimetres, such as -30,20,0,5,60,25")
    return VolumeBox(*found)


def read_scribble(path: Path) -> Scribble:
    """Read an image of strokes.

    Raises:
        UsageError: it cannot be read, is in a format that may change colours, or has no stroke.
    """
    try:
        stored = read_stored(path)
        pixels = of_stored(stored, printable(path)).display()
        with path.open("rb") as file:
            form = identify(file.read(HEAD))
    except ImageError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{printable(path)}: cannot be read ({error.strerror})") from error
    # JPEG 2000 has two kinds of compression, and few know which of them a program writes.
    if stored.lossy or (form is not None and form.name == "JPEG 2000"):
        raise UsageError(
            f"{printable(path)}: is in a format that changes colours, such as JPEG, so strokes in it are lost; paint"
            " them again and store them as PNG"
        )
    inside, outside = ((pixels == np.array(colour)).all(axis=2) for colour in (GREEN, RED))
    if not inside.any() and not outside.any():
        raise UsageError(
            f"{printable(path)}: has no stroke; paint pure green (0,255,0) inside the object and pure red (255,0,0)"
            " outside, and store it without loss, as PNG"
        )
    return Scribble(inside, outside)


def read_prompts(
    path: Path, images: Sequence[Path], volumes: Collection[Path] = ()
) -> dict[Path, Prompts | VolumePrompts]:
    """Read the prompts of images and volumes from a JSON or CSV file.

    Args:
        path: of the file.
        images: that there are, and volumes.
        volumes: those of them that are volumes.

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
    places = {each: each.resolve() for each in images}
    found: dict[Path, Prompts | VolumePrompts] = {}
    for key, of_kind in readers[path.suffix.lower()](text, name, path.parent):
        image = _named(key, places, name)
        if image in found:
            raise UsageError(f"{name}: has prompts for {printable(image)} under two names; keep one of them")
        found[image] = of_kind(image in volumes)
    if not found:
        raise UsageError(f"{name}: has no prompts")
    return found


def record(prompts: Prompts | VolumePrompts) -> dict[str, Any]:
    """Prompts as they stand in a record; of strokes the number of their pixels, and a hash that tells them apart."""
    strokes = []
    if isinstance(prompts, Prompts):
        strokes = [
            {"inside": int(each.inside.sum()), "outside": int(each.outside.sum()), "sha256": _hashed(each)}
            for each in prompts.scribbles
        ]
    found = {
        "points": [[*place, int(inside)] for *place, inside in prompts.points],
        "boxes": [list(each) for each in prompts.boxes],
        "scribbles": strokes,
    }
    return {name: value for name, value in found.items() if value}


def _hashed(scribble: Scribble) -> str:
    found = hashlib.sha256(repr(scribble.inside.shape).encode())
    for mask in (scribble.inside, scribble.outside):
        found.update(np.packbits(mask).tobytes())
    return found.hexdigest()


def _of_json(text: str, name: str, folder: Path) -> Iterator[tuple[str, OfKind]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
            raise UsageError(f"{name}: has {twice!r} twice in one object; put all under one of them")
        return found

    try:
        told = json.loads(text, object_pairs_hook=once, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: is not valid JSON ({' '.join(str(error).split())})") from error
    if not isinstance(told, Mapping):
        raise UsageError(f'{name}: is not an object such as {{"a.png": {{"points": [[60, 45]]}}}}')
    for key, entry in told.items():
        if not isinstance(entry, Mapping) or not entry or not set(entry) <= set(KEYS):
            raise UsageError(f"{name}: {key!r} needs an object with {', '.join(KEYS)}")
        yield key, partial(_entry, entry, key, name, folder)


def _integer(text: str) -> float:
    """A whole number; one that is too large for a prompt is a float, which is none."""
    return int(text) if len(text) < LONGEST else float(text)


def _entry(entry: Mapping[str, Any], key: str, name: str, folder: Path, volume: bool) -> Prompts | VolumePrompts:
    """The prompts of an image or a volume in JSON."""
    points, boxes = (_listed(entry, kind, name, key) for kind in ("points", "boxes"))
    strokes = entry.get("scribbles")
    if volume:
        if strokes is not None:
            raise UsageError(f"{name}: {key!r} is a volume, and scribbles are for images; drop them")
        places, regions = [_volume_point(each) for each in points], [_millimetres(each, (6,)) for each in boxes]
        if None in places:
            raise UsageError(
                f"{name}: a point of the volume {key!r} is not [x, y, z] or [x, y, z, 0] or [x, y, z, 1] in millimetres"
            )
        if None in regions:
            raise UsageError(f"{name}: a box of the volume {key!r} is not [x0, y0, z0, x1, y1, z1] in millimetres")
        return VolumePrompts([each for each in places if each], [VolumeBox(*each) for each in regions if each])
    pixels, rectangles = [_point(each) for each in points], [_whole(each, (4,)) for each in boxes]
    if None in pixels:
        raise UsageError(f"{name}: a point of {key!r} is not [x, y] or [x, y, 0] or [x, y, 1] in whole pixels")
    if None in rectangles:
        raise UsageError(f"{name}: a box of {key!r} is not [left, top, right, bottom] in whole pixels")
    if strokes is not None and not isinstance(strokes, str):
        raise UsageError(f"{name}: the scribbles of {key!r} are not the name of an image")
    scribbles = () if strokes is None else (read_scribble(folder / strokes),)
    return Prompts([each for each in pixels if each], [Box(*each) for each in rectangles if each], scribbles)


def _listed(entry: Mapping[str, Any], kind: str, name: str, key: str) -> list[Any]:
    found = entry.get(kind, [])
    if not isinstance(found, list):
        raise UsageError(f"{name}: the {kind} of {key!r} are not a list")
    return found


def _of_csv(text: str, name: str, folder: Path) -> Iterator[tuple[str, OfKind]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        heading = [each.strip() for each in reader.fieldnames or ()]
        if not {"image", "x", "y"} <= set(heading) <= set(COLUMNS) or len(set(heading)) < len(heading):
            raise UsageError(
                f"{name}: its first line is no heading such as {','.join(COLUMNS[:6])}; write these names in small"
                " letters with commas between them, and commas in all other lines"
            )
        reader.fieldnames = heading
        lines = [(reader.reader.line_num, line) for line in reader]
    except csv.Error as error:
        raise UsageError(f"{name}: line {reader.reader.line_num} is not valid CSV ({error})") from error
    found: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for number, line in lines:
        values = {key: (value or "").strip() for key, value in line.items() if isinstance(value, str)}
        if not values.get("image") or not set(line) <= set(COLUMNS):
            raise _no_prompt(name, number)
        found.setdefault(values["image"], []).append((number, values))
    for key, rows in found.items():
        yield key, partial(_rows, rows, name)


def _rows(rows: Sequence[tuple[int, Mapping[str, str]]], name: str, volume: bool) -> Prompts | VolumePrompts:
    """The prompts of an image or a volume in CSV, from the lines with their numbers."""
    corner, opposite = (("x", "y", "z"), ("x1", "y1", "z1")) if volume else (("x", "y"), ("right", "bottom"))
    others = {*COLUMNS} - {"image", "inside", *corner, *opposite}
    points: list[Any] = []
    boxes: list[Any] = []
    for number, values in rows:
        start, end = ([values.get(each, "") for each in names] for names in (corner, opposite))
        inside = values.get("inside", "") or "1"
        if any(values.get(each) for each in others):
            raise _no_prompt(name, number, volume)
        prompt: Any
        if any(end):
            if inside == "0":
                raise UsageError(
                    f"{name}: line {number} is a box with inside 0, but boxes are around the object; leave inside empty"
                )
            corners = [*start, *end]
            if volume:
                region = _millimetres(_read(corners, float), (6,))
                prompt = region and VolumeBox(*region)
            else:
                rectangle = _whole(_read(corners, int), (4,))
                prompt = rectangle and Box(*rectangle)
        else:
            place = [*start, inside]
            prompt = _volume_point(_read(place, float)) if volume else _point(_read(place, int))
        if prompt is None or inside not in ("0", "1"):
            raise _no_prompt(name, number, volume)
        (boxes if any(end) else points).append(prompt)
    return VolumePrompts(points, boxes) if volume else Prompts(points, boxes)


def _no_prompt(name: str, number: int, volume: bool = False) -> UsageError:
    needed = (
        "a line of a volume has x, y and z in millimetres, for a box also x1, y1 and z1"
        if volume
        else f"the heading is {','.join(COLUMNS[:6])}, and a line has an image and whole pixels, for a box also right"
        " and bottom"
    )
    return UsageError(f"{name}: line {number} is no prompt; {needed}")


def _whole(values: Any, counts: tuple[int, ...]) -> list[int] | None:
    """Whole numbers, where so many are given; else None."""
    return _numbers(values, counts, int, 2**31)


def _millimetres(values: Any, counts: tuple[int, ...]) -> list[float] | None:
    """Numbers, where so many are given; else None."""
    return _numbers(values, counts, float, 1e9)


def _numbers(values: Any, counts: tuple[int, ...], kind: type[Number], limit: float) -> list[Number] | None:
    if not isinstance(values, list) or len(values) not in counts:
        return None
    if any(isinstance(each, bool) or not isinstance(each, kind | int) or not abs(each) < limit for each in values):
        return None
    return [kind(each) for each in values]


def _read(texts: Sequence[str], kind: type[Number]) -> list[Number] | None:
    """Numbers from text; None if a text is none."""
    try:
        return [kind(each) for each in texts]
    except ValueError:
        return None


def _point(values: Any) -> Point | None:
    """A pixel, perhaps with 0 or 1; None if it is none."""
    found = _whole(values, (2, 3))
    if found is None or (len(found) == 3 and found[2] not in (0, 1)):
        return None
    return Point(found[0], found[1], len(found) == 2 or found[2] == 1)


def _volume_point(values: Any) -> VolumePoint | None:
    """A place in millimetres, perhaps with 0 or 1; None if it is none."""
    found = _millimetres(values, (3, 4))
    if found is None or (len(found) == 4 and found[3] not in (0, 1)):
        return None
    return VolumePoint(found[0], found[1], found[2], len(found) == 3 or found[3] == 1)


def _named(key: str, images: Mapping[Path, Path], name: str) -> Path:
    """The image that a path, or the end of one, names; of each is given the path where it lies."""
    parts = Path(key).parts
    found = [each for each in images if parts and each.parts[-len(parts) :] == parts]
    if parts and not found:
        try:
            place = Path(key).resolve()
        except (OSError, ValueError, RuntimeError):  # no path, such as one with a null character
            place = None
        found = [each for each, lies in images.items() if lies == place]
    if len(found) != 1:
        which = "none of the inputs" if not found else f"{len(found)} of the inputs; write more of its path"
        raise UsageError(f"{name}: {printable(Path(key))} names {which}")
    return found[0]
