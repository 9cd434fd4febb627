"""A volume: slices of one size that are segmented together, and where they are in the patient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .image import InputImage
from .sources import DicomSource, FileSource
from .space import Arrangement, Spacing


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume ready to segment.

    Attributes:
        voxels: (N, H, W), or (N, H, W, 3) uint8 RGB: slices, rows and columns as people look at them.
        slope, intercept: the intensity of a voxel is its value times slope plus intercept.
        name: what messages call it.
        affine: (4, 4) float64, from (column, row, slice) to millimetres in DICOM's coordinates: to the patient's left,
            to the back, to the head. Where distances are not known, they are 1 in it.
        spacing: of the pixels in a slice, mm; None if it is not known.
        thickness: distance between the centres of neighbouring slices, mm; None if it is not known.
        span: the two intensities that become 0 and 1 in all slices; not used for colour.
        inverted: whether low intensities are white.
        source: where it comes from, which results in the same format need.
        arrangement: how voxels lie in the source; :meth:`Arrangement.undo` brings results back.
        notes: one-line remarks on what was left out or changed in reading.
        placed: whether its source relates it to the patient; if not, the affine has distances alone.
        in_space: whether slices lie beside each other. Not so for frames in time, as in a cine loop, and for frames
            whose places nothing says: nothing can be measured across them.
    """

    voxels: NDArray[Any]
    name: str
    affine: NDArray[np.float64]
    spacing: Spacing | None
    thickness: float | None
    span: tuple[float, float]
    source: FileSource | DicomSource
    slope: float = 1.0
    intercept: float = 0.0
    inverted: bool = False
    arrangement: Arrangement = field(default_factory=Arrangement)
    notes: tuple[str, ...] = ()
    placed: bool = True
    in_space: bool = True

    def __len__(self) -> int:
        return len(self.voxels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        slices, rows, columns = self.voxels.shape[:3]
        return slices, rows, columns

    def picture(self, index: int) -> InputImage:
        """A slice as an image: intensities scaled by ``span``, those beyond it cut off.

        Args:
            index: of the slice, from 0.
        """
        values = self.voxels[index]
        name = f"{self.name}, slice {index + 1}"
        if values.ndim == 3:
            return InputImage(np.ascontiguousarray(values), name, (0.0, 255.0), spacing=self.spacing)
        low, high = self.span
        wide = np.float64 if values.dtype.itemsize > 2 else np.float32  # float32 cannot count beyond 24 bits
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = values.astype(wide) * wide(self.slope) + wide(self.intercept) - wide(low)
            scaled /= max(wide(high - low), np.finfo(wide).tiny)
            if values.dtype.kind == "f":
                scaled[~np.isfinite(values)] = self.inverted  # black
            pixels = np.clip(scaled, 0, 1).astype(np.float32)
        span = (high, low) if self.inverted else (low, high)
        return InputImage(1 - pixels if self.inverted else pixels, name, span, spacing=self.spacing)
