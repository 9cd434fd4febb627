"""NRRD, attached (``.nrrd``) and with its data in another file of the same folder (``.nhdr``).

pynrrd parses the fields of the header that matter here. The voxels are read by :mod:`.payload`, at their stored
type and with bounds. The format: https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from ..decoders.stored import DROPPED_ALPHA
from .payload import Packing, opened, packed, read_voxels, slices_of
from .stored import StoredVolume, is_broken

MAGIC = b"NRRD000"
_MAX_HEADER = 1 << 26  # bytes; a segmentation has some hundreds for each of its segments
_FIELDS = {
    *("type", "dimension", "sizes", "endian", "encoding", "data file", "datafile", "line skip", "lineskip"),
    *("byte skip", "byteskip", "space", "space dimension", "space directions", "space origin", "space units"),
    *("spacings", "units", "kinds", "centerings"),
}
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_WRITTEN = {"u1": "unsigned char", "u2": "unsigned short", "f4": "float"}
_ORDERS: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}
_PACKINGS: dict[str, Packing | None] = {"raw": None, "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# Signs that bring the first two coordinates to left and back.
_SPACES = {"left-posterior-superior": (1, 1), "right-anterior-superior": (-1, -1), "left-anterior-superior": (1, -1)}
_SPACE_NAMES = (*_SPACES, "scanner-xyz", "3D-right-handed", "3D-left-handed")
_SHORT = {"lps": "left-posterior-superior", "ras": "right-anterior-superior", "las": "left-anterior-superior"}
_MILLIMETRES = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 0.001),
}
_CENTERINGS = {"cell", "node", "none", "???"}


@dataclass(frozen=True, eq=False)
class Head:
    """The header of a file, and the stream at the end of it.

    Attributes:
        fields: by name, parsed.
        keys: the key/value pairs, which other programs put there; free text.
    """

    fields: Mapping[str, Any]
    keys: Mapping[str, str]


def read_head(file: BinaryIO) -> Head:
    """Read a header up to its empty line; the file stands behind it then.

    Raises:
        Exception: any, for :func:`.payload.opened`, where the header is damaged.
    """
    import nrrd

    lines = [file.readline(_MAX_HEADER).decode("ascii")]
    keys: dict[str, str] = {}
    while line := file.readline(_MAX_HEADER):
        if file.tell() > _MAX_HEADER:
            raise ValueError
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text.strip():
            break
        if text.startswith("#"):
            continue
        field, _, described = text.partition(":")
        if described.startswith("="):
            keys[_unescape(field)] = _unescape(described[1:])
        elif field.strip().lower() in _FIELDS:
            lines.append(f"{field.strip().lower()}: {described}")
    return Head(nrrd.read_header(lines), keys)


def read(file: BinaryIO, path: Path, name: str) -> StoredVolume:
    """Read a file that begins with :data:`MAGIC`.

    Raises:
        ImageError: it has several volumes or vectors, its data is in an unknown encoding, in several files, in another
            folder or missing, or its axes have no inverse.
    """
    head = read_head(file)
    layers, affine, others = read_layers(head, file, path, name, one=True)
    return StoredVolume(layers[0], affine, "nrrd", **others)


def read_layers(
    head: Head, file: BinaryIO, path: Path, name: str, *, one: bool = False
) -> tuple[NDArray[Any], NDArray[np.float64], dict[str, Any]]:
    """The volumes of a file, (L, N, H, W) or (L, N, H, W, 3), their affine, and other attributes of StoredVolume.

    Args:
        head: the header of the file.
        file: positioned behind its header.
        path: of the file.
        name: what messages call it.
        one: whether several volumes are refused.

    Raises:
        ImageError: as :func:`read`.
    """
    fields = head.fields
    sizes = [int(each) for each in fields["sizes"]]
    if len(sizes) != int(fields["dimension"]) or min(sizes) < 1:
        raise ImageError(f"{name}: its header describes no voxels; write it again")
    kind = _TYPES.get(str(fields["type"]).lower())
    if kind is None:
        raise ImageError(f"{name}: its voxels are of a type that is not read; save them as 16-bit integers or floats")
    axes, affine, others = _space(fields, sizes, name)
    extra = [axis for axis in range(len(sizes)) if axis not in axes]
    if len(extra) > 1 and any(sizes[axis] > 1 for axis in extra):
        raise ImageError(f"{name}: has {len(sizes)} axes; save one volume of 3 axes")
    count = int(np.prod([sizes[axis] for axis in extra]))
    several = count > 1 and _is_list(fields, extra[0])
    if several and one:
        raise ImageError(f"{name}: holds {count} volumes; save one of them as a volume of 3 axes, as with 3D Slicer")
    if count > 1 and not several and (count not in (3, 4) or kind != "u1"):
        raise ImageError(f"{name}: has {count} values per voxel; save one of them as a volume of 3 axes")
    voxels, notes = _voxels(fields, kind, sizes, file, path, name)
    last = len(sizes) - 1
    places = [last - axis for axis in (*extra, *reversed(axes))]
    layers = voxels.transpose(places)
    layers = layers.reshape(-1, *layers.shape[len(extra) :]) if len(extra) != 1 else layers
    if len(axes) == 2:
        layers = layers[:, None]
    others["notes"] += notes
    if count > 1 and not several:
        if count == 4:
            others["notes"] += (DROPPED_ALPHA,)
        layers = np.moveaxis(layers[:3], 0, -1)[None]
    return layers, affine, others


def _is_list(fields: Mapping[str, Any], axis: int) -> bool:
    kinds = fields.get("kinds")
    if kinds is None:
        return axis > 0  # colours come first
    return str(kinds[axis]).lower() in ("list", "time", "domain", "space")


def _space(
    fields: Mapping[str, Any], sizes: list[int], name: str
) -> tuple[list[int], NDArray[np.float64], dict[str, Any]]:
    """Which axes are in space, the fastest first; the affine; attributes of StoredVolume."""
    directions = fields.get("space directions")
    space = _space_name(fields)
    if directions is not None:
        directions = np.asarray(directions, np.float64)
        axes = [axis for axis, row in enumerate(directions) if not np.isnan(row).all()]
        if len(axes) == directions.shape[1] == 4:  # with time, as ITK writes it
            axes, directions = axes[:3], directions[:, :3]
    else:
        kinds = [str(each).lower() for each in fields.get("kinds", ())]
        axes = [axis for axis, kind in enumerate(kinds) if kind in ("domain", "space")] or list(range(len(sizes)))
    if len(axes) > 3 and directions is None:
        axes = axes[:3]
    if not 2 <= len(axes) <= 3:
        raise ImageError(f"{name}: has {len(axes)} axes in space; a volume has 3")
    affine = np.eye(4)
    notes: list[str] = []
    measured = "NRRD header"
    if directions is not None:
        vectors = directions[axes]
        if vectors.shape[1] not in (2, 3):
            raise ImageError(f"{name}: its axes have {vectors.shape[1]} coordinates; save one volume in 3 coordinates")
        affine[: vectors.shape[1], : len(axes)] = vectors.T
        if len(axes) == 2:
            affine[:3, 2] = _unit(np.cross(affine[:3, 0], affine[:3, 1]))
        origin = np.asarray(fields.get("space origin", ()), np.float64)[:3]
        affine[: len(origin), 3] = np.where(np.isfinite(origin), origin, 0)
        units = [str(each) for each in fields.get("space units") or ()]
    else:
        spacings = [float(each) for each in fields.get("spacings", ())]
        known = [abs(spacings[axis]) if axis < len(spacings) else 0.0 for axis in axes]
        if not all(np.isfinite(each) and each > 0 for each in known):
            measured = ""
            notes.append("its header gives no distances of voxels; sizes are in pixels")
            known = [1.0] * len(axes)
        for axis, each in enumerate(known):
            affine[axis, axis] = each
        named = [str(each) for each in fields.get("units") or ()]
        units = [named[axis] for axis in axes if axis < len(named)]
    if is_broken(affine):
        raise ImageError(f"{name}: its space directions are not finite or have no inverse; repair them")
    oriented = space in _SPACES and directions is not None and directions.shape[1] == 3
    if oriented:
        affine[:2] *= np.array(_SPACES[str(space)])[:, None]
    else:
        notes.append("its header does not say how the patient lies in it")
    factors = {_MILLIMETRES.get(unit.lower()) for unit in units if unit}
    if factors and measured:
        factor = factors.pop()
        if factor is None or factors:
            measured = ""
            notes.append("its distances are in a unit that is not known; sizes are in pixels")
            affine[:3, :3] /= np.linalg.norm(affine[:3, :3], axis=0)
        else:
            affine[:3] *= factor
    simple = directions is None or np.shape(fields["space directions"])[1] == 3
    header = _geometry(fields, axes) if len(axes) == 3 and simple else None
    others = {
        "header": header,
        "oriented": oriented,
        "measured": measured or None,
        "thick": len(axes) == 3,
        "notes": tuple(notes),
    }
    return axes, affine, others


def _space_name(fields: Mapping[str, Any]) -> str | None:
    """The space in the words of the format, without its axis for time; None if it is not one of three axes."""
    stated = str(fields.get("space", "")).lower().replace(" ", "-").removesuffix("-time")
    stated = _SHORT.get(stated, stated)
    return next((name for name in _SPACE_NAMES if name.lower() == stated), None)


def _geometry(fields: Mapping[str, Any], axes: list[int]) -> tuple[str, ...]:
    """The lines on the geometry of three axes, for results; without words of the file's own."""
    lines = []
    directions = fields.get("space directions")
    if directions is not None:
        space = _space_name(fields)
        lines.append("space dimension: 3" if space is None else f"space: {space}")
        lines.append("space directions: " + " ".join(_vector(directions[axis]) for axis in axes))
        if "space origin" in fields:
            lines.append(f"space origin: {_vector(fields['space origin'])}")
        units = [str(each) for each in fields.get("space units") or ()]
        if units and all(each.lower() in _MILLIMETRES for each in units):
            lines.append("space units: " + " ".join(f'"{each}"' for each in units))
    elif len(fields.get("spacings", ())) > max(axes):
        lines.append("spacings: " + " ".join(repr(float(fields["spacings"][axis])) for axis in axes))
        named = [str(each) for each in fields.get("units") or ()]
        if len(named) > max(axes) and all(named[axis].lower() in _MILLIMETRES for axis in axes):
            lines.append("units: " + " ".join(f'"{named[axis]}"' for axis in axes))
    centerings = [str(each).lower() for each in fields.get("centerings") or ()]
    if len(centerings) > max(axes) and _CENTERINGS.issuperset(centerings):
        lines.append("centerings: " + " ".join(centerings[axis] for axis in axes))
    return tuple(lines)


def _vector(values: Iterable[float]) -> str:
    return f"({','.join(repr(float(each)) for each in values)})"


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def _voxels(
    fields: Mapping[str, Any], kind: str, sizes: list[int], file: BinaryIO, path: Path, name: str
) -> tuple[NDArray[Any], tuple[str, ...]]:
    encoding = str(fields["encoding"]).lower()
    if encoding not in _PACKINGS:
        raise ImageError(f"{name}: its voxels are written as text; save them with the encoding gzip or raw")
    dtype = np.dtype(kind)
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder(_ORDERS[str(fields["endian"]).lower()])
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    lines = int(fields.get("line skip", fields.get("lineskip", 0)))
    if skip < -1 or lines < 0 or (skip < 0 and _PACKINGS[encoding]):
        raise ValueError
    apart = _voxels_file(fields, path, name)

    def voxels(data: BinaryIO) -> tuple[NDArray[Any], tuple[str, ...]]:
        for _ in range(lines):
            if not data.readline(_MAX_HEADER):
                raise EOFError
        return read_voxels(data, name, tuple(sizes[::-1]), dtype, skip, _PACKINGS[encoding])

    if apart is None:
        return voxels(file)
    with opened(apart) as (data, _):
        return voxels(data)


def voxels_file(file: BinaryIO, path: Path, name: str) -> Path | None:
    """The file of the voxels that a header names; None if they follow the header.

    Raises:
        ImageError: as :func:`beside`.
    """
    return _voxels_file(read_head(file).fields, path, name)


def _voxels_file(fields: Mapping[str, Any], path: Path, name: str) -> Path | None:
    stated = fields.get("data file", fields.get("datafile"))
    return None if stated is None else beside(path, str(stated), name)


def beside(path: Path, stated: str, name: str) -> Path:
    """The file of the voxels that a header names; it must be in the header's folder.

    Raises:
        ImageError: it is in another folder, missing, or several files.
    """
    if stated.upper().startswith("LIST") or "%" in stated:
        raise ImageError(f"{name}: its voxels are in several files; save them as one")
    if Path(stated).name != stated or "\\" in stated or ":" in stated or stated in (".", ".."):
        raise ImageError(f"{name}: its voxels are in a file of another folder; put both files into one folder")
    found = path.with_name(stated)
    if not found.is_file():
        raise ImageError(
            f"{name}: the file of its voxels, which its header names, is missing; put it beside the header"
        )
    return found


def geometry(affine: NDArray[np.float64]) -> tuple[str, ...]:
    """The lines on the geometry of a volume of another format: an affine in DICOM's coordinates."""
    vectors = ["({})".format(",".join(f"{value:.12g}" for value in column)) for column in affine[:3].T]
    return (
        "space: left-posterior-superior",
        "space directions: " + " ".join(vectors[:3]),
        f"space origin: {vectors[3]}",
    )


def write(file: BinaryIO, array: NDArray[Any], lines: Sequence[str], keys: Mapping[str, str] | None = None) -> None:
    """Write a volume as ``.nrrd``, compressed.

    Args:
        file: to write into.
        array: (N, H, W) in stored order.
        lines: on its geometry.
        keys: key/value pairs.
    """
    dtype = array.dtype.newbyteorder("<")
    header = ["NRRD0005", f"type: {_WRITTEN[dtype.str[1:]]}", "dimension: 3"]
    header += [line for line in lines if line.startswith("space")]
    header.append("sizes: {2} {1} {0}".format(*array.shape))
    header += [line for line in lines if not line.startswith("space")]
    header.append("kinds: domain domain domain")
    header += ["endian: little"] if dtype.itemsize > 1 else []
    header.append("encoding: gzip")
    header += [f"{_escape(key)}:={_escape(value)}" for key, value in (keys or {}).items()]
    file.write("\n".join([*header, "", ""]).encode())
    file.writelines(packed(slices_of(array, dtype), "gzip"))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
