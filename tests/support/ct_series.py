"""Small CT series, each with UIDs of its own, for what takes many of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from dicom_files import ct, place, write
from pydicom.dataset import Dataset
from pydicom.uid import UID

ROWS, COLUMNS = 36, 28
NAME = "QQMARK^QQMARK"  # of the patient: must not be seen outside of DICOM


def ct_slices(series: int = 1, slices: int = 3, **more: Any) -> list[Dataset]:
    """The slices of a series, with a bright block off the centre.

    Args:
        series: number of the series, and of its study.
        slices: number of slices.
        more: elements of all slices.
    """
    voxels = np.random.default_rng(series).normal(-100, 10, (slices, ROWS, COLUMNS))
    voxels[:, 5:20, 4:16] += 400
    size = {"Rows": ROWS, "Columns": COLUMNS, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    return [
        ct(
            number,
            **{
                **place(number, spacing=(0.9, 0.7), step=3.0),
                **size,
                "PixelRepresentation": 1,
                "PixelData": (pixels + 1024).astype("<i2").tobytes(),
                "PatientName": NAME,
                "PatientID": NAME,
                "StudyInstanceUID": UID(f"2.25.71{series}"),
                "SeriesInstanceUID": UID(f"2.25.72{series}"),
                "SOPInstanceUID": UID(f"2.25.72{series}.{number}"),
                **more,
            },
        )
        for number, pixels in enumerate(voxels, 1)
    ]


def write_ct_series(folder: Path, series: int = 1, slices: int = 3, **more: Any) -> list[Path]:
    """The same as files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write(folder / f"{series}-{number}.dcm", each)
        for number, each in enumerate(ct_slices(series, slices, **more), 1)
    ]
