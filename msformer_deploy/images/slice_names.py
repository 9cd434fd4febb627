"""What the name of a slice's file tells: whose slice it is, of which of their volumes, and its place there."""

from __future__ import annotations

import re
from dataclasses import dataclass

# patient001_frame01_slice_0, patient001_frame01, patient001: whatever comes before frame and slice is the patient.
NAMES = r"(?P<volume>(?P<patient>.+?)(_frame[^_]*)?)(_slice_?(?P<index>\d+))?"


@dataclass(frozen=True)
class SliceName:
    """A name taken apart.

    Attributes:
        patient, volume: whose slice it is, and of which of their volumes; without a volume of its own, the patient's.
        index: place in the volume; None where the name tells none.
    """

    patient: str
    volume: str
    index: int | None


def parse(stem: str, names: str = NAMES) -> SliceName | None:
    """Take a file's name without its suffix apart; None where it tells no patient.

    Args:
        stem: the name.
        names: regular expression for all of it, with a group ``patient`` and perhaps ``volume`` and ``index``.
    """
    match = re.fullmatch(names, stem)
    if match is None or not match["patient"]:
        return None
    groups = match.groupdict()
    index = groups.get("index")
    return SliceName(match["patient"], groups.get("volume") or match["patient"], int(index) if index else None)
