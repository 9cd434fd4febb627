"""LabelMe files: polygons, rectangles, circles and masks of one image."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ImageError, printable
from ...registry import SYSTEMS
from . import shapes
from .shapes import LARGEST, BadShape, Painted

HEAD = 2**20  # bytes in which a LabelMe file names its shapes
BACKGROUND = ("background", "_background_", "__background__")  # labels that cut something out of the shapes before
_IGNORED = "__ignore__"


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None  # early versions had polygons alone
    mask: str | None = None


class _File(msgspec.Struct, rename="camel"):
    shapes: list[_Shape]
    image_height: int | None = None
    image_width: int | None = None


def is_labelme(path: Path) -> bool:
    """Whether a JSON file looks like one of LabelMe; damaged ones do, too."""
    try:
        with path.open("rb") as file:
            return b'"shapes"' in file.read(HEAD)
    except OSError:  # the error comes when it is read
        return True


def read(path: Path, size: tuple[int, int] | None) -> Painted:
    """Paint the mask of a file.

    A label that is a whole number is the id of a class, and so is the name of a class of one of the trained systems.
    The label ``_background_`` cuts a hole.

    Args:
        path: the file.
        size: rows and columns of the image; None takes what the file says.

    Raises:
        ImageError: it cannot be read, is of an image of another size, or has a shape that cannot be used.
    """
    where = printable(path)
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise ImageError(f"{where}: cannot be read ({error.strerror}); check the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ImageError(f"{where}: is not a LabelMe file ({printable(str(error))}); save it again") from error
    try:
        size = shapes.agreed((file.image_width, file.image_height), size)
        masks = [(each.label, _mask(each, size)) for each in file.shapes]
    except BadShape as error:
        raise ImageError(f"{where}: {error}") from error
    ids = {label: _class_id(label) for label, _ in masks}
    unnamed = [label for label, number in ids.items() if number is None]
    if not unnamed:
        values = shapes.paint(size, [(ids[label] or 0, mask) for label, mask in masks])
        return Painted(values, values)
    objects = [label for label, number in ids.items() if number != 0]
    numbers = {label: objects.index(label) + 1 if label in objects else 0 for label in ids}
    return Painted(
        shapes.paint(size, [(numbers[label], mask) for label, mask in masks]),
        None,
        f"the label {printable(unnamed[0])!r} is no class id; use numbers as labels, such as 1",
    )


def _class_id(label: str) -> int | None:
    plain = label.strip().casefold()
    if plain in BACKGROUND:
        return 0
    if plain.isascii() and plain.isdigit():
        return int(plain) if len(plain) <= len(str(LARGEST)) and int(plain) <= LARGEST else None
    return next((each.classes.index(plain) for each in SYSTEMS.values() if plain in each.classes), None)


def _mask(shape: _Shape, size: tuple[int, int]) -> NDArray[np.bool_]:
    if shape.label == _IGNORED:
        raise BadShape(f"a shape has the label {_IGNORED}, but every pixel is judged; delete the shape")
    match shape.shape_type:
        case None | "polygon" | "oriented_rectangle":
            return shapes.polygon(shape.points, size)
        case "rectangle":
            return shapes.rectangle(shape.points, size)
        case "circle":
            return shapes.circle(shape.points, size)
        case "mask":
            return _stored_mask(shape, size)
    raise BadShape(f"a shape of the type {printable(shape.shape_type)!r} has no area; draw a polygon")


def _stored_mask(shape: _Shape, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask that a file holds as a PNG, whose upper left corner is the first point."""
    try:
        stored = base64.b64decode(shape.mask or "", validate=True)
        with Image.open(io.BytesIO(stored), formats=["PNG"]) as file:
            pixels = np.asarray(file.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadShape("a mask that is not a PNG in base64; draw it again") from error
    mask = np.zeros(size, bool)
    left, top = (round(each) for each in shape.points[0]) if shape.points else (0, 0)
    height, width = pixels.shape
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        raise BadShape(
            f"a mask of {width} x {height} at x = {left}, y = {top} is outside the image of {size[1]} x {size[0]}; draw"
            " it again"
        )
    mask[top : top + height, left : left + width] = pixels
    return mask
