"""What a person shows in a volume: points on and off the object, and boxes around it, in millimetres.

Millimetres count in the coordinates of the volume's format, whatever plane is segmented: X, Y and Z of NIfTI grow to
the patient's right, to the front and to the head (RAS), those of DICOM, NRRD and MetaImage to the left, to the back and
to the head (LPS).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..images.sources import FileSource
from .prompts import Box, Mask, Point, Prompts

if TYPE_CHECKING:
    from ..images.volume import Volume

ENDS = {"RAS": ("to the right", "to the front", "to the head"), "LPS": ("to the left", "to the back", "to the head")}
_ROUNDING = 1e-3  # sides of a voxel by which a place may be off, for people copy numbers that were rounded


class VolumePoint(NamedTuple):
    """A place in millimetres, in the coordinates of the volume's format; ``inside`` the object or not."""

    x: float
    y: float
    z: float
    inside: bool = True


class VolumeBox(NamedTuple):
    """Two opposite corners in millimetres, in the coordinates of the volume's format.

    A voxel belongs to it if the voxel's centre does.
    """

    x0: float
    y0: float
    z0: float
    x1: float
    y1: float
    z1: float


@dataclass(frozen=True)
class VolumePrompts:
    """What is shown in one volume.

    Attributes:
        points: any number. One inside the object prompts its slice, and is carried to the slices beside it as long as
            the object goes on; one outside counts in its slice.
        boxes: around the object, or its parts; nothing outside them is in the mask.
    """

    points: Sequence[VolumePoint] = ()
    boxes: Sequence[VolumeBox] = ()

    def require_fit(self, volume: Volume) -> None:
        """See that the prompts can be obeyed in a volume.

        Raises:
            UsageError: as :class:`Placed`.
        """
        Placed(self, volume)


class _Region(NamedTuple):
    """A box on the voxels: its lowest and highest corner, and the slices that have voxels of it, in order."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    slices: Sequence[int]


def coordinates(volume: Volume) -> str:
    """Where X, Y and Z of a volume's format grow to: ``RAS`` or ``LPS``."""
    return "RAS" if isinstance(volume.source, FileSource) and volume.source.form == "nifti" else "LPS"


class Placed:
    """Prompts of a volume on its voxels.

    Args:
        prompts: what is shown.
        volume: in which.

    Attributes:
        seeds: indices of the slices that have a point inside the object, in order.

    Raises:
        UsageError: the volume does not say where it is; there is no prompt; a point or a box is not in the volume; a
            box has no voxel; or prompts contradict one another.
    """

    def __init__(self, prompts: VolumePrompts, volume: Volume) -> None:
        self._volume = volume
        _require_place(volume)
        if not prompts.points and not prompts.boxes:
            raise UsageError("the prompts have no point and no box; give one of them, or leave the prompts out")
        turned = np.diag([-1.0, -1, 1, 1]) if coordinates(volume) == "RAS" else np.eye(4)
        self._affine = turned @ volume.affine  # from (column, row, slice) to the format's coordinates
        self._reach = np.abs(self._affine[:3, :3]).sum(axis=1) / 2  # from a voxel's centre to its outermost places
        self._slack = _ROUNDING * float(np.linalg.norm(self._affine[:3, :3], axis=0).min())
        self._regions = [self._region(each) for each in prompts.boxes]
        self._points: dict[int, list[Point]] = defaultdict(list)
        known: dict[tuple[int, ...], bool] = {}
        for point in prompts.points:
            column, row, index = voxel = self._voxel(point)
            named = f"point {_text(point[:3])}"
            if known.setdefault(voxel, point.inside) != point.inside:
                raise UsageError(
                    f"{named} is in a voxel that is shown as inside and as outside; drop one of the points"
                )
            if point.inside and self._regions and not self.bounds(index)[row, column]:
                raise UsageError(
                    f"{named} is shown as inside, but its voxel is not in the box; drop one of these prompts"
                )
            self._points[index].append(Point(column, row, point.inside))
        self.seeds = sorted(index for index, points in self._points.items() if any(each.inside for each in points))

    @property
    def with_boxes(self) -> bool:
        """Whether there is a box, so that nothing outside is in the mask."""
        return bool(self._regions)

    def of(self, index: int) -> Prompts | None:
        """What is shown in a slice: its points, and the smallest rectangle around what it has of each box."""
        rectangles = []
        for region in self._regions:
            mask = self._within(region, index)
            if mask.any():
                rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
                rectangles.append(Box(int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])))
        points = self._points.get(index, [])
        return Prompts(tuple(points), tuple(rectangles)) if points or rectangles else None

    def bounds(self, index: int) -> Mask:
        """Where the mask may be in a slice, bool (H, W): in one of the boxes; everywhere if there is none."""
        if not self._regions:
            return np.ones(self._volume.shape[1:], bool)
        found: Mask = np.logical_or.reduce([self._within(each, index) for each in self._regions])
        return found

    def settles(self, index: int) -> bool:
        """Whether a slice has to have what its prompts ask for: it has a point, or the middle of a box."""
        return index in self._points or any(index == each.slices[len(each.slices) // 2] for each in self._regions)

    def _voxel(self, point: VolumePoint) -> tuple[int, int, int]:
        """Column, row and slice.

        Raises:
            UsageError: the point is not in the volume.
        """
        place = np.linalg.solve(self._affine, (*point[:3], 1.0))[:3]
        sides = np.array(self._volume.shape[::-1])
        if (place < -0.5 - _ROUNDING).any() or (place > sides - 0.5 + _ROUNDING).any():
            raise UsageError(f"point {_text(point[:3])} is not in {self._extent()}")
        column, row, index = np.clip(np.rint(place), 0, sides - 1).astype(int).tolist()
        return column, row, index

    def _region(self, box: VolumeBox) -> _Region:
        """A box on the voxels.

        Raises:
            UsageError: it reaches out of the volume, or has no voxel.
        """
        corners = np.array([box[:3], box[3:]], np.float64)
        low, high = corners.min(axis=0), corners.max(axis=0)
        first, last = self._ends()
        if (low < first - self._slack).any() or (high > last + self._slack).any():
            raise UsageError(f"box {_text(box)} is not in {self._extent()}")
        every = np.array([(*each, 1) for each in itertools.product(*zip(low, high, strict=True))])
        through = np.linalg.solve(self._affine, every.T)[2]
        nearest = range(max(int(through.min()), 0), min(int(through.max()) + 2, len(self._volume)))
        trial = _Region(low, high, nearest)
        slices = [index for index in nearest if self._within(trial, index).any()]
        if not slices:
            raise UsageError(f"box {_text(box)} has no voxel's centre in it; make it larger")
        return trial._replace(slices=slices)

    def _within(self, region: _Region, index: int) -> Mask:
        """Voxels of a slice that have their centres in a box, bool (H, W)."""
        _, height, width = self._volume.shape
        if index not in region.slices:
            return np.zeros((height, width), bool)
        found = np.ones((height, width), bool)
        rows, columns = np.ogrid[:height, :width]
        for (along, down, through, start), low, high in zip(self._affine[:3], region.low, region.high, strict=True):
            places = columns * along + rows * down + (index * through + start)
            found &= (places >= low - self._slack) & (places <= high + self._slack)
        return found

    def _ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The lowest and the highest X, Y and Z of the volume."""
        corners = itertools.product(*((0, side - 1) for side in self._volume.shape[::-1]))
        centres = np.array([(*each, 1) for each in corners]) @ self._affine[:3].T
        return centres.min(axis=0) - self._reach, centres.max(axis=0) + self._reach

    def _extent(self) -> str:
        parts = zip("XYZ", *self._ends(), ENDS[coordinates(self._volume)], strict=True)
        return "the volume, which in millimetres has " + ", ".join(
            f"{axis} from {low:.6g} to {high:.6g} ({end})" for axis, low, high, end in parts
        )


def _require_place(volume: Volume) -> None:
    if not volume.in_space:
        raise UsageError(
            f"{volume.name}: its slices are frames in time, or their places are not known, so it takes no prompts; drop"
            " them"
        )
    if not volume.placed or (volume.spacing is None and volume.thickness is None):
        raise UsageError(
            f"{volume.name}: its header does not say where it lies in millimetres, so it takes no prompts; save it with"
            " its orientation and spacing, or drop the prompts"
        )


def _text(values: Sequence[float]) -> str:
    return ",".join(f"{each:.6g}" for each in values)
