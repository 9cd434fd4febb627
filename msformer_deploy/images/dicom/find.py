"""Sort DICOM files into images and volumes by their headers alone; what is no image is counted by kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ImageError
from .opened import failing, frames_of, header_of, is_whole_slide, object_kind, silent
from .values import numbers

# Elements that decide. Those after the geometry are compared with each other alone.
_DECIDING = (
    *("SOPClassUID", "Modality", "Manufacturer", "Rows", "NumberOfFrames", "TotalPixelMatrixRows"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
)
_SERIES = ("StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Found:
    """An image or a volume among files.

    Attributes:
        place: the file; of a series the folder of its files.
        files: of a volume; empty for an image.
        number: of the series, from 1, if the folder has several.
    """

    place: Path
    files: tuple[Path, ...] = ()
    number: int | None = None


def find(files: Sequence[Path], skip: Callable[[Path, str], None]) -> list[Found]:
    """Sort files into images and volumes.

    Files of one series with positions in the patient are one volume, also if they are in several folders; its place is
    then the folder around them. A file of several frames is a volume of its own. A series of one file, a file without
    positions and one that cannot be read is an image.

    Args:
        files: DICOM files.
        skip: is called with each file that is no image, and with its kind.
    """
    found: list[Found] = []
    series: dict[tuple[str, ...], list[Path]] = {}
    entered: set[str] = set()
    for path in sorted(files):
        real = os.path.realpath(path)
        if real in entered:  # several links to a file would be slices at one position
            continue
        entered.add(real)
        with silent():
            try:
                with failing(path), header_of(path, (*_DECIDING, *_SERIES)) as (header, _):
                    kind, frames = object_kind(header), frames_of(header)
                    tiles = is_whole_slide(header)
                    names = tuple(str(header.get(each, "") or "") for each in _SERIES)
                    counts = (
                        len(numbers(header, "ImagePositionPatient")),
                        len(numbers(header, "ImageOrientationPatient")),
                    )
            except (ImageError, OSError, MemoryError):  # reading it as an image says why
                found.append(Found(path))
                continue
        if kind is not None:
            skip(path, kind)
        elif tiles:  # reading it as an image says why it is refused
            found.append(Found(path))
        elif frames > 1:
            found.append(Found(path, (path,)))
        elif names[1] and any(counts):
            series.setdefault(names, []).append(path)
        else:
            found.append(Found(path))
    found.extend(Found(paths[0]) for paths in series.values() if len(paths) == 1)
    return found + _placed([paths for paths in series.values() if len(paths) > 1])


def kind_of_file(path: Path) -> str | None:
    """The kind of an object that is no image, as messages count it; None for an image.

    Raises:
        ImageError: it is damaged.
        OSError: the system cannot read it.
    """
    with silent(), failing(path), header_of(path, _DECIDING) as (header, _):
        return object_kind(header)


def is_volume(path: Path) -> bool:
    """Whether a file has several frames that are no tiles of a slide; no for one that cannot be read."""
    try:
        with silent(), failing(path), header_of(path, _DECIDING) as (header, _):
            return frames_of(header) > 1 and not is_whole_slide(header)
    except (ImageError, OSError, MemoryError):
        return False


def series_of(path: Path) -> str | None:
    """The UID of the series that a slice belongs to; None for an image without a position and what cannot be read."""
    wanted = ("SeriesInstanceUID", "ImagePositionPatient")
    try:
        with silent(), failing(path), header_of(path, wanted) as (header, _):
            return str(header.get(wanted[0], "") or "") if numbers(header, wanted[1]) else None
    except (ImageError, OSError, MemoryError):
        return None


def _placed(series: Sequence[Sequence[Path]]) -> list[Found]:
    """Series with their places. Numbers follow the first file names, which say nothing that folders do not show."""
    folders: dict[Path, list[tuple[Path, ...]]] = {}
    for paths in sorted(map(tuple, series)):
        folders.setdefault(Path(os.path.commonpath([path.parent for path in paths])), []).append(paths)
    found = []
    for folder, several in folders.items():
        for number, paths in enumerate(several, 1):
            found.append(Found(folder, paths, None if len(several) == 1 else number))
    return found
