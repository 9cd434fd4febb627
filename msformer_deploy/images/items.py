"""The volumes that items of a run name, whatever their format."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import printable
from ..registry import Axis
from .inputs import Item
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


def read_volume(item: Item, reading: Reading) -> Volume:
    """Read the volume of an item: a file, or the files of a DICOM series.

    Raises:
        ImageError: it cannot be read.
        BackendUnavailable: the package that reads its format is missing.
    """
    if item.files:
        from .dicom import series

        return series.read_volume(item.files, reading.window, reading.axis, printable(item.path))
    from .volumes import read

    return read.read_volume(item.path, reading.window, reading.axis)
