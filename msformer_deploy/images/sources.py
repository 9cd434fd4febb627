"""The files that a volume or a DICOM image comes from, for results in the same format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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


@dataclass(frozen=True, eq=False)
class DicomSource:
    """The DICOM objects of an image or a volume.

    Attributes:
        files: for each slice the file that holds it, in the order of the stored voxels; the same file for all frames
            of one object.
        frames: for each slice its number in a file of several frames, from 1; None in a file of one.
    """

    files: tuple[Path, ...]
    frames: tuple[int | None, ...]
