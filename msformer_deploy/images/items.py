"""The volumes that items of a run name, whatever their format."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError, UsageError, printable, why_unread
from ..registry import Axis
from .inputs import Item, discover
from .volume import Volume


@dataclass(frozen=True)
class Reading:
    """How images and volumes are read.

    Attributes:
        window: centre and width of the intensities that become 0 and 1, of grey; None means the file's own, or a range
            that is found in it.
        axis: normal to the slices of volumes; None keeps slices as they are stored.
    """

    window: tuple[float, float] | None = None
    axis: Axis | None = None


def read_volume(
    path: str | os.PathLike[str], window: tuple[float, float] | None = None, axis: Axis | None = None
) -> Volume:
    """Read a volume: NIfTI, NRRD, MetaImage, a DICOM object of several frames, or a folder with one DICOM series.

    Args:
        path: the file, or the folder.
        window: centre and width of the intensities that become 0 and 1, of grey. None means the window in DICOM, or a
            range that is found in the volume.
        axis: plane of the slices, ``axial``, ``coronal`` or ``sagittal``. None means slices as they are stored.

    Raises:
        UsageError: it is not one volume.
        ImageError: it cannot be read.
        BackendUnavailable: the package that reads its format is missing.
    """
    found = [item for item in discover([Path(path)], volumes=True) if item.kind == "volume"]
    if len(found) != 1:
        count = "no volume" if not found else f"{len(found)} volumes"
        raise UsageError(f"{printable(Path(path))}: has {count}; give the file, or the folder of one series")
    return volume_of(found[0], Reading(window, axis))


def volume_of(item: Item, reading: Reading) -> Volume:
    """Read the volume of an item: a file, or the files of a DICOM series.

    Raises:
        ImageError: it cannot be read.
        BackendUnavailable: the package that reads its format is missing.
    """
    name = printable(item.path)
    try:
        if item.files:
            from .dicom import series

            return series.read_volume(item.files, reading.window, reading.axis, name)
        from .volumes import read

        return read.read_volume(item.path, reading.window, reading.axis)
    except OSError as error:
        of = printable(Path(error.filename)) if isinstance(error.filename, str) else name
        raise ImageError(f"{of}: {why_unread(error)}") from error
