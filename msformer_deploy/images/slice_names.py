"""Names of slices: a file's name contains the patient, the volume and the position of the slice in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

# patient001_frame01_slice_0, patient001_frame01, patient001: the part before frame and slice is the patient.
NAMES = r"(?P<volume>(?P<patient>.+?)(_frame[^_]*)?)(_slice_?(?P<index>\d+))?"


@dataclass(frozen=True)
class SliceName:
    """A name taken apart.

    Attributes:
        patient, volume: names of the patient and of the volume; a name without a volume has the patient's name as
            volume.
        index: position in the volume; None if the name has none.
    """

    patient: str
    volume: str
    index: int | None


def parse(stem: str, names: str = NAMES) -> SliceName | None:
    """Parse the name of a file; return None if the name has no patient.

    Args:
        stem: the name without its suffix.
        names: regular expression for the whole name, with a group ``patient``, and optionally ``volume`` and ``index``.
    """
    match = re.fullmatch(names, stem)
    if match is None or not match["patient"]:
        return None
    groups = match.groupdict()
    index = groups.get("index")
    return SliceName(match["patient"], groups.get("volume") or match["patient"], int(index) if index else None)
