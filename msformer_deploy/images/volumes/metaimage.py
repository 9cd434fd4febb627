"""MetaImage, in one file (``.mha``) and with its voxels in another file of the same folder (``.mhd``).

Tests compare with SimpleITK, which reads the format by the library that defines it. It needs 264 MB, and a header is a
dozen lines of text. The format: https://itk.org/Wiki/MetaIO/Documentation
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from ..decoders.stored import DROPPED_ALPHA
from .nrrd import beside
from .payload import opened, packed, read_voxels, slices_of
from .stored import StoredVolume, is_broken

_MAX_HEADER = 1 << 20  # bytes
_FIRST = re.compile(rb"\s*(ObjectType|ObjectSubType|NDims|Comment|Name|ID|TransformType|BinaryData)\s*=")
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_WRITTEN = {"u1": "MET_UCHAR", "u2": "MET_USHORT", "f4": "MET_FLOAT"}
_ALIASES = {
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "Position": "Offset",
    "Origin": "Offset",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}


def is_metaimage(head: bytes) -> bool:
    """Whether bytes are the start of a MetaImage."""
    return _FIRST.match(head) is not None


def read(file: BinaryIO, path: Path, name: str) -> StoredVolume:
    """Read a file that :func:`is_metaimage`.

    Raises:
        ImageError: it has several volumes or vectors, its data is text, in several files, in another folder or missing,
            or its axes have no inverse.
    """
    fields = _fields(file)
    sizes = [int(each) for each in fields["DimSize"].split()]
    if len(sizes) != int(fields["NDims"]) or min(sizes) < 1:
        raise ImageError(f"{name}: its header describes no voxels; write it again")
    if any(size > 1 for size in sizes[3:]):
        raise ImageError(
            f"{name}: holds {math.prod(sizes[3:])} volumes; save one of them as a volume of 3 axes, as with 3D Slicer"
        )
    if len(sizes) < 2:
        raise ImageError(f"{name}: has {len(sizes)} axes in space; a volume has 3")
    voxels, notes = _voxels(fields, sizes, file, path, name)
    affine, known = _affine(fields, len(sizes), name)
    thick = len(sizes) > 2
    if not known:
        notes = (*notes, "its header gives no distances of voxels; sizes are in pixels")
    if not thick:
        notes = (*notes, "its header does not say how the patient lies in it")
    return StoredVolume(
        voxels,
        affine,
        "mha",
        _geometry(fields) if len(sizes) == 3 else None,
        oriented=thick,
        measured="MetaImage header" if known else None,
        thick=thick,
        notes=notes,
    )


def _fields(file: BinaryIO) -> dict[str, str]:
    """The header; the file stands behind it then."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = file.readline(_MAX_HEADER)
        if not line or file.tell() > _MAX_HEADER:
            raise ValueError
        key, _, value = line.decode("utf-8", "replace").partition("=")
        fields[_ALIASES.get(key.strip(), key.strip())] = value.strip()
    return fields


def _is_true(fields: Mapping[str, str], key: str) -> bool:
    return fields.get(key, "").lower() in ("true", "1", "yes", "t", "y")


def _voxels(
    fields: Mapping[str, str], sizes: list[int], file: BinaryIO, path: Path, name: str
) -> tuple[NDArray[Any], tuple[str, ...]]:
    if fields.get("BinaryData") and not _is_true(fields, "BinaryData"):
        raise ImageError(f"{name}: its voxels are written as text; save them as binary data")
    kind = _TYPES.get(fields["ElementType"].upper())
    if kind is None:
        raise ImageError(f"{name}: its voxels are of a type that is not read; save them as 16-bit integers or floats")
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    if channels != 1 and (channels not in (3, 4) or kind != "u1"):
        raise ImageError(f"{name}: has {channels} values per voxel; save one of them as a volume of 3 axes")
    dtype = np.dtype(kind).newbyteorder(">" if _is_true(fields, "BinaryDataByteOrderMSB") else "<")
    columns, rows, slices = (*sizes, 1)[:3]
    shape = (slices, rows, columns, *((channels,) if channels > 1 else ()))
    compressed = _is_true(fields, "CompressedData")
    skip = int(fields.get("HeaderSize", "0"))
    if skip < -1 or (skip and compressed):
        raise ValueError
    apart = _voxels_file(fields, path, name)
    if apart is None:
        voxels, notes = read_voxels(file, name, shape, dtype, min(skip, 0), "zlib" if compressed else None)
    else:
        with opened(apart) as (data, _):
            voxels, notes = read_voxels(data, name, shape, dtype, skip, "zlib" if compressed else None)
    if channels == 4:
        return voxels[..., :3], (*notes, DROPPED_ALPHA)
    return voxels, notes


def voxels_file(file: BinaryIO, path: Path, name: str) -> Path | None:
    """The file of the voxels that a header names; None if they follow the header.

    Raises:
        ImageError: as :func:`.nrrd.beside`.
    """
    return _voxels_file(_fields(file), path, name)


def _voxels_file(fields: Mapping[str, str], path: Path, name: str) -> Path | None:
    stated = fields["ElementDataFile"]
    return None if stated.upper() == "LOCAL" else beside(path, stated, name)


def _affine(fields: Mapping[str, str], count: int, name: str) -> tuple[NDArray[np.float64], bool]:
    """The affine, and whether its distances are known."""
    wide = min(count, 3)
    directions, lengths = np.eye(3), np.ones(3)
    if "TransformMatrix" in fields:
        matrix = np.array(fields["TransformMatrix"].split(), np.float64).reshape(count, count)
        directions[:wide, :wide] = matrix[:wide, :wide].T  # the file has the direction of each axis in turn
    stated = fields.get("ElementSpacing", fields.get("ElementSize"))
    if stated is not None:
        lengths[:wide] = np.array(stated.split(), np.float64)[:wide]
    affine = np.eye(4)
    affine[:3, :3] = directions * lengths
    if "Offset" in fields:
        affine[:wide, 3] = np.array(fields["Offset"].split(), np.float64)[:wide]
    if is_broken(affine):
        raise ImageError(f"{name}: its spacing or its directions are not finite or have no inverse; repair them")
    return affine, stated is not None


def _geometry(fields: Mapping[str, str]) -> tuple[str, ...]:
    """The lines on the geometry, as they are, for results; words of the file's own are left out."""
    keys = ("TransformMatrix", "Offset", "CenterOfRotation", "ElementSpacing", "ElementSize")
    lines = [f"{key} = {fields[key]}" for key in keys if re.fullmatch(r"[-+.eE0-9\s]+", fields.get(key, ""))]
    if re.fullmatch(r"[RLAPIS]{3}", fields.get("AnatomicalOrientation", "")):
        lines.append(f"AnatomicalOrientation = {fields['AnatomicalOrientation']}")
    return tuple(lines)


def geometry(affine: NDArray[np.float64]) -> tuple[str, ...]:
    """The lines on the geometry of a volume of another format: an affine in DICOM's coordinates."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    matrix = (affine[:3, :3] / lengths).T.ravel()
    return (
        f"TransformMatrix = {_numbers(matrix)}",
        f"Offset = {_numbers(affine[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_numbers(lengths)}",
    )


def _numbers(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.12g}" for value in values)


def write(file: BinaryIO, array: NDArray[Any], lines: Sequence[str]) -> None:
    """Write a volume as ``.mha``, compressed.

    Args:
        file: to write into; it can be sought in.
        array: (N, H, W) in stored order.
        lines: on its geometry.
    """
    dtype = array.dtype.newbyteorder("<")
    before = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    file.write("\n".join([*before, "CompressedData = True", "CompressedDataSize = "]).encode())
    place = file.tell()
    shape = "DimSize = {2} {1} {0}".format(*array.shape)
    kind = f"ElementType = {_WRITTEN[dtype.str[1:]]}"
    file.write("\n".join([" " * 20, *lines, shape, kind, "ElementDataFile = LOCAL", ""]).encode())
    start = file.tell()
    file.writelines(packed(slices_of(array, dtype), "zlib"))
    size = file.tell() - start
    file.seek(place)
    file.write(str(size).encode())
