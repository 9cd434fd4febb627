"""Where pixels and voxels are: their distances in millimetres, and the planes in which a volume can be sliced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..registry import AXES, Axis

# For each plane, in DICOM's coordinates (0: to the left, 1: to the back, 2: to the head): the direction of the normal,
# and directions with signs of rows downwards and of columns to the right, as radiologists look at it.
_LOOK: dict[Axis, tuple[int, tuple[int, int], tuple[int, int]]] = {
    "axial": (2, (1, 1), (0, 1)),
    "coronal": (1, (2, -1), (0, 1)),
    "sagittal": (0, (2, -1), (1, 1)),
}


@dataclass(frozen=True)
class Spacing:
    """Distances between the centres of neighbouring pixels, in millimetres.

    Attributes:
        row: between rows.
        column: between columns.
        origin: what gives them, for the report: such as "pixel spacing" or "imager pixel spacing".
    """

    row: float
    column: float
    origin: str


@dataclass(frozen=True)
class Arrangement:
    """How the three axes of a stored array become slices, rows and columns.

    Attributes:
        order: which axis of the array gives slices, rows and columns.
        flipped: which of these three run backwards.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array as slices, rows and columns: a view. Axes behind the first three stay."""
        turned = array.transpose(*self.order, *range(3, array.ndim))
        return turned[tuple(slice(None, None, -1 if each else None) for each in self.flipped)]

    @property
    def inverse(self) -> Arrangement:
        """From slices, rows and columns to the stored array."""
        first, second, third = (self.order.index(axis) for axis in range(3))
        return Arrangement((first, second, third), (self.flipped[first], self.flipped[second], self.flipped[third]))

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """Slices, rows and columns as the array is stored: a view."""
        return self.inverse.apply(array)

    def affine(self, affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """The affine of the arranged array.

        Args:
            affine: (4, 4), from indices of the stored array, the last axis first (column, row, slice), to millimetres.
            shape: of the stored array.
        """
        changed = affine.copy()
        for target, (axis, backwards) in enumerate(zip(self.order, self.flipped, strict=True)):
            direction = affine[:3, 2 - axis]
            changed[:3, 2 - target] = -direction if backwards else direction
            if backwards:
                changed[:3, 3] += direction * (shape[axis] - 1)
        return changed


def arrangement(affine: NDArray[np.float64], axis: Axis | None = None) -> Arrangement:
    """The arrangement in which slices look as radiologists know them.

    Rows and columns are the stored axes that are nearest to the directions of the plane; nothing is resampled.

    Args:
        affine: (4, 4), from (column, row, slice) of the stored array to millimetres in DICOM's coordinates: to the
            patient's left, to the back, to the head.
        axis: normal to the slices. None means the first axis of the array, so that slices stay as they are stored.
    """
    directions = affine[:3, 2::-1] / np.linalg.norm(affine[:3, 2::-1], axis=0)  # columns: axes of the array in order
    nearest = _nearest(directions)
    stored = next(each for each in AXES if _LOOK[each][0] == nearest[0])
    normal, (down, down_sign), (right, right_sign) = _LOOK[axis or stored]
    order = (nearest.index(normal), nearest.index(down), nearest.index(right))
    signs = (1, down_sign, right_sign)
    ends = (normal, down, right)
    flipped = tuple(
        bool(directions[end, place] * sign < 0) for place, sign, end in zip(order, signs, ends, strict=True)
    )
    return Arrangement(order, (flipped[0], flipped[1], flipped[2]))


def _nearest(directions: NDArray[np.float64]) -> list[int]:
    """For each axis of the array the patient's direction that it is nearest to, all different."""
    weights = np.abs(directions).copy()
    found = [0, 0, 0]
    for _ in range(3):
        end, axis = np.unravel_index(weights.argmax(), weights.shape)
        found[int(axis)] = int(end)
        weights[end, :] = weights[:, axis] = -1
    return found
