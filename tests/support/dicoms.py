"""DICOM files of a few pixels, built with pydicom."""

from __future__ import annotations

import struct
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


def bomb(kind: str, path: Path, megabytes: int) -> bytes:
    """A small file of a small picture, which would take much memory if its pixels were decoded without a look at them.

    Args:
        kind: ``deflated``, ``jpeg``, ``jpeg 2000`` or ``run lengths``.
        path: where it is written.
        megabytes: of what it holds.
    """
    import imagecodecs
    from pydicom import uid
    from pydicom.encaps import encapsulate

    found, size = image(PIXELS.astype(np.uint8)), megabytes << 20
    if kind == "deflated":
        found.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
        found.PixelData = bytes(size)
        return save(found, path).read_bytes()
    if kind == "jpeg":
        stream = bytearray(imagecodecs.jpeg8_encode(PIXELS.astype(np.uint8)))
        place = stream.index(b"\xff\xc0") + 5  # behind marker, length and bits
        stream[place : place + 4] = struct.pack(">HH", 60_000, size // 60_000)
        found.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    elif kind == "jpeg 2000":
        stream = bytearray(imagecodecs.jpeg2k_encode(PIXELS.astype(np.uint8), codecformat="j2k", reversible=True))
        place = stream.index(b"\xff\x4f\xff\x51") + 8  # the right and the lower end, and later those of tiles
        stream[place : place + 8] = struct.pack(">II", 60_000, size // 60_000)
        stream[place + 16 : place + 24] = struct.pack(">II", 60_000, size // 60_000)
        found.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    else:
        packed = b"\x81\x00" * min(size // 128, 240_000)
        stream = bytearray(struct.pack("<16L", 1, 64, *[0] * 14) + packed)
        found.file_meta.TransferSyntaxUID = uid.RLELossless
    found.PixelData = encapsulate([bytes(stream)])
    found["PixelData"].VR = "OB"
    return save(found, path).read_bytes()
