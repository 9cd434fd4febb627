"""COCO files (cocodataset.org, object detection): polygons, run lengths and boxes of many images."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, UsageError, printable
from . import rle, shapes
from .shapes import LARGEST, BadShape, Painted


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Runs(msgspec.Struct):
    counts: list[int] | str
    size: tuple[int, int]


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int
    segmentation: list[list[float]] | _Runs | None = None
    bbox: tuple[float, float, float, float] | None = None


class _Category(msgspec.Struct):
    id: int
    name: str


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Content(NamedTuple):
    """A COCO file, by the names of its images."""

    images: dict[str, _Image]
    annotations: dict[int | str, list[_Annotation]]
    categories: dict[int, str]


def names(path: Path) -> list[Path]:
    """The images of a COCO file, as paths relative to a folder of images.

    Raises:
        UsageError: it cannot be read, is no such file, names an image twice, or names files outside a folder.
    """
    try:
        return [Path(name) for name in _content(path).images]
    except ImageError as error:
        raise UsageError(str(error)) from error


def read(path: Path, name: str, size: tuple[int, int] | None) -> Painted:
    """Paint the mask of one image.

    Args:
        path: the COCO file.
        name: the image in it.
        size: rows and columns of the image; None takes what the file says.

    Raises:
        ImageError: the image is not in the file or has another size, or an annotation cannot be used.
    """
    content, where = _content(path), f"{printable(path)}: {printable(name)}"
    image = content.images.get(name)
    if image is None:
        raise ImageError(f"{where}: is not among the images of this COCO file; add it there")
    numbers = {category: number for number, category in enumerate(content.categories, 1)}
    try:
        size = shapes.agreed((image.width, image.height), size)
        masks = [(each.category_id, _mask(each, size)) for each in content.annotations.get(image.id, ())]
    except BadShape as error:
        raise ImageError(f"{where}: {error}") from error
    unknown = {category for category, _ in masks} - numbers.keys()
    if unknown:
        raise ImageError(
            f"{where}: an annotation has the category {min(unknown)}, which the file does not list; add it to its"
            " categories"
        )
    values = shapes.paint(size, [(numbers[category], mask) for category, mask in masks])
    wrong = [category for category in content.categories if not 1 <= category <= LARGEST]
    if wrong:
        named = printable(content.categories[wrong[0]])
        return Painted(
            values,
            None,
            f"the category {named!r} has the id {wrong[0]}, and 0 is the background; number categories from 1 to"
            f" {LARGEST}",
        )
    return Painted(values, shapes.paint(size, masks))


def digest(path: Path, name: str) -> bytes:
    """All that decides the mask of one image, as bytes to hash."""
    content = _content(path)
    image = content.images[name]
    return msgspec.json.encode([image, content.annotations.get(image.id, []), content.categories])


def _mask(annotation: _Annotation, size: tuple[int, int]) -> NDArray[np.bool_]:
    found = annotation.segmentation
    if isinstance(found, _Runs):
        if found.size != size:
            raise BadShape(
                f"run lengths of {found.size[1]} x {found.size[0]} in an image of {size[1]} x {size[0]}; export the"
                " annotations again"
            )
        return rle.decode(found.counts, size)
    if found:
        mask = np.zeros(size, bool)
        for numbers in found:
            if len(numbers) % 2:
                raise BadShape("a polygon has an x without a y; export the annotations again")
            mask |= shapes.polygon(np.reshape(numbers, (-1, 2)).tolist(), size)
        return mask
    if annotation.bbox is None:
        raise BadShape("an annotation has neither a segmentation nor a box; draw it again or delete it")
    x, y, width, height = annotation.bbox
    return shapes.rectangle([(x, y), (x + width, y + height)], size)


def _content(path: Path) -> _Content:
    try:
        status = path.stat()
        return _parsed(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise ImageError(f"{printable(path)}: cannot be read ({error.strerror}); check the path") from error


@lru_cache(2)  # one file holds the masks of all images; the other arguments say whether it has changed
def _parsed(path: Path, modified: int, size: int) -> _Content:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ImageError(f"{printable(path)}: is not a COCO file ({printable(str(error))}); export it again") from error
    images: dict[str, _Image] = {}
    for image in file.images:
        name = _relative(path, image.file_name)
        if name in images:
            raise ImageError(f"{printable(path)}: names the image {printable(name)} twice; merge the two entries")
        images[name] = image
    annotations: dict[int | str, list[_Annotation]] = {}
    for annotation in file.annotations:
        annotations.setdefault(annotation.image_id, []).append(annotation)
    unknown = annotations.keys() - {image.id for image in file.images}
    if unknown or len({image.id for image in file.images}) < len(file.images):
        what = f"annotations of an image {min(map(str, unknown))}" if unknown else "two images with one id"
        raise ImageError(
            f"{printable(path)}: has {what}{', which it does not list' if unknown else ''}; export it again"
        )
    return _Content(images, annotations, {each.id: each.name for each in file.categories})


def _relative(path: Path, name: str) -> str:
    """The name of an image with the separators of this system's paths; it may not lead out of its folder."""
    windows = PureWindowsPath(name)
    parts = windows.parts if "\\" in name else PurePosixPath(name).parts
    if not parts or ".." in parts or windows.drive or windows.root or "\0" in name:
        raise ImageError(
            f"{printable(path)}: the file_name {printable(name)!r} leads out of the folder of images; write a path"
            " relative to it"
        )
    return str(Path(*parts))
