"""DICOM files of a few pixels, built with pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS = 16, 12
SERIES, STUDY = generate_uid(entropy_srcs=["series"]), generate_uid(entropy_srcs=["study"])
PIXELS = (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) * 7 % 1500).astype(np.int16)


def image(pixels: np.ndarray = PIXELS, **elements: Any) -> Dataset:
    """One frame (H, W), several (N, H, W) or colours (H, W, 3); elements are set, and removed by None."""
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = CTImageStorage
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    found.Modality, found.StudyInstanceUID, found.SeriesInstanceUID = "CT", STUDY, SERIES
    shape = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    found.Rows, found.Columns = shape
    found.SamplesPerPixel = 3 if colour else 1
    if colour:
        found.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        found.NumberOfFrames = len(pixels)
    found.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    bits = 8 * pixels.itemsize
    found.BitsAllocated, found.BitsStored, found.HighBit = bits, bits, bits - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    found.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    found["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in elements.items():
        if value is None:
            del found[keyword]
        else:
            setattr(found, keyword, value)
    return found


def slice_at(height: float, pixels: np.ndarray = PIXELS, **elements: Any) -> Dataset:
    """A slice of an axial series at a height in millimetres."""
    placed = {
        "ImagePositionPatient": [-10, -20, height],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.5, 0.75],
    }
    return image(pixels, **(placed | elements))


def save(found: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    syntax = found.file_meta.TransferSyntaxUID
    if syntax.is_private or syntax.is_encapsulated or not syntax.is_transfer_syntax:
        found.save_as(path, implicit_vr=False, little_endian=True)
    else:
        found.save_as(path, enforce_file_format=True)
    return path


def sequence(**elements: Any) -> Sequence:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return Sequence([item])


def series(folder: Path, heights: tuple[float, ...] = (0, 5, 10, 15), **elements: Any) -> list[Path]:
    """Files of a series, named against the order of their heights; the pixels of each begin with its height."""
    paths = []
    for index, height in enumerate(heights):
        pixels = PIXELS.copy()
        pixels[0, 0] = height
        paths.append(save(slice_at(height, pixels, **elements), folder / f"{len(heights) - index:02}.dcm"))
    return paths
