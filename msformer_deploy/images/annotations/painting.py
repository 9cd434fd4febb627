"""The mask at a path that is a LabelMe file, or an image in a COCO file."""

from __future__ import annotations

from pathlib import Path

from . import coco, labelme
from .shapes import Painted

SUFFIX = ".json"


def holder(path: Path) -> Path | None:
    """The COCO file that holds the mask of an image; None for other paths."""
    return next((each for each in path.parents if each.suffix.lower() == SUFFIX and each.is_file()), None)


def digest(path: Path) -> bytes | None:
    """All that decides the mask of an image in a COCO file, as bytes to hash; None for other paths.

    Raises:
        ImageError: the file cannot be read.
    """
    file = holder(path)
    return None if file is None else coco.digest(file, str(path.relative_to(file)))


def read(path: Path, size: tuple[int, int] | None) -> Painted | None:
    """Paint a mask; None if the path is of neither kind.

    Args:
        path: of a LabelMe file, or of an image in a COCO file.
        size: rows and columns of the image; None takes what the file says.

    Raises:
        ImageError: as :func:`.coco.read` and :func:`.labelme.read`.
    """
    file = holder(path)
    if file is not None:
        return coco.read(file, str(path.relative_to(file)), size)
    return labelme.read(path, size) if path.suffix.lower() == SUFFIX else None
