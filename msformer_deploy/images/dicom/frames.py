"""Where the values of a frame stand: in its functional groups, in those that all frames share, or in the header."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .values import items

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class Groups(NamedTuple):
    """What has the values of a frame (PS3.3, C.7.6.16): a macro of enhanced objects, or the header itself."""

    measures: Dataset
    position: Dataset
    orientation: Dataset
    transformation: Dataset
    voi: Dataset


_MACROS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)


def groups_of(header: Dataset, frame: int) -> Groups:
    """What has the values of a frame, by its number from 0."""
    own = items(header, "PerFrameFunctionalGroupsSequence")
    shared = items(header, "SharedFunctionalGroupsSequence")
    places = [*own[frame : frame + 1], *shared[:1]]

    def find(macro: str) -> Dataset:
        for place in places:
            found = items(place, macro)
            if found:
                return found[0]
        return header

    return Groups(*map(find, _MACROS))
