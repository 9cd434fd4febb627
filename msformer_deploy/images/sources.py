"""The files that a volume or a DICOM image comes from, for results in the same format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import ImageError, printable

Form = Literal["nifti", "nrrd", "mha"]


@dataclass(frozen=True, eq=False)
class FileSource:
    """The file of a volume.

    Attributes:
        path: the file.
        form: its format.
        header: what the writers of :mod:`.volumes` need for a volume of the same geometry.
    """

    path: Path
    form: Form
    header: Any


class FileStamp(NamedTuple):
    """What two readings of one file have in common, if nobody replaced or changed it between them.

    Attributes:
        instance: SOP Instance UID; never shown.
        size: of the file, bytes.
        changed: time of the last change, ns.
    """

    instance: str
    size: int
    changed: int


@dataclass(frozen=True, eq=False)
class DicomSource:
    """The DICOM objects of an image or a volume.

    Attributes:
        files: for each slice the file that holds it, in the order of the stored voxels; the same file for all frames
            of one object.
        frames: for each slice its number in a file of several frames, from 1; None in a file of one.
        stamps: for each file what it was when its pixels were read, so that a result is not written of another; a file
            without one is not compared.
    """

    files: tuple[Path, ...]
    frames: tuple[int | None, ...]
    stamps: Mapping[Path, FileStamp] = field(default_factory=dict)

    def check_unchanged(self, path: Path, stamp: FileStamp) -> None:
        """Compare a file that is read again with what it was.

        Raises:
            ImageError: it is another.
        """
        if self.stamps.get(path, stamp) != stamp:
            raise ImageError(f"{printable(path)}: has changed since it was read; run again when it is complete")
