"""NIfTI-1 and NIfTI-2 in one file, ``.nii`` and ``.nii.gz``.

nibabel reads the header. The voxels are read by :mod:`.payload`, at their stored type and with bounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from ..decoders.stored import DROPPED_ALPHA
from .payload import Packing, Unpacked, packed, read_voxels, slices_of
from .stored import RAS_TO_LPS, StoredVolume, is_broken

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

HEAD = 540  # bytes of the larger header, that of NIfTI-2
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by the code of the unit: unknown, metre, millimetre, micrometre
_UNKNOWN = 0
_SCANNER, _ALIGNED = 1, 2  # codes of coordinates: of the scanner, and aligned to another file's
_MAX_APART = 0.1  # in sides of a voxel
_MAX_SIDE = 32767  # of NIfTI-1
# What is carried to results. All else is left behind: free text and extensions may name a patient.
_GEOMETRY = (
    *("dim", "pixdim", "dim_info", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "sform_code", "srow_x", "srow_y", "srow_z"),
)
_TAKE_ONE = "take one volume first, as with nibabel: nibabel.load('in.nii.gz').slicer[..., 0].to_filename('out.nii.gz')"


def is_nifti(head: bytes) -> bool:
    """Whether bytes are the start of a NIfTI file, unpacked; also those of a header without voxels."""
    return _version(head) is not None


def _version(head: bytes) -> tuple[int, str] | None:
    orders: tuple[tuple[Literal["little", "big"], str], ...] = (("little", "<"), ("big", ">"))
    for order, code in orders:
        size = int.from_bytes(head[:4], order)
        if size == 348 and head[344:347] in (b"n+1", b"ni1"):
            return 1, code
        if size == 540 and head[4:7] in (b"n+2", b"ni2"):
            return 2, code
    return None


def read(file: BinaryIO, name: str, packing: Packing | None) -> StoredVolume:
    """Read a file that :func:`is_nifti`.

    Raises:
        ImageError: it has several volumes, voxels that are not real numbers or RGB, or an affine without inverse.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    head = file.read(HEAD) if packing is None else Unpacked(file, packing).read(HEAD)
    version, endianness = _version(head) or (1, "<")
    if head[344:347] == b"ni1" or head[4:7] == b"ni2":
        raise ImageError(f"{name}: is half of a pair of .hdr and .img; save it as one file, .nii or .nii.gz")
    if len(head) < (348 if version == 1 else 540):
        raise EOFError
    header = (
        Nifti1Header(head[:348], endianness, check=False)
        if version == 1
        else Nifti2Header(head, endianness, check=False)
    )
    shape = _shape(header, name)
    dtype, channels = _dtype(header, name)
    offset = int(header.get_data_offset())
    if offset < len(header.binaryblock):
        raise ImageError(f"{name}: its header puts the voxels into the header; write it again")
    file.seek(0)
    voxels, notes = read_voxels(file, name, (*shape, *channels), dtype, offset, packing)
    if channels == (4,):
        voxels, notes = voxels[..., :3], (*notes, DROPPED_ALPHA)
    slope, intercept = (None, None) if channels else header.get_slope_inter()
    low, high = float(header["cal_min"]), float(header["cal_max"])
    code = int(header["xyzt_units"]) & 7
    unit = _MILLIMETRES.get(code)
    affine, oriented, said = _affine(header, unit or 1.0, name)
    measured = "NIfTI header"
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if unit is None or not lengths.all():
        measured = ""
        said = (*said, "its distances are in no unit of length that NIfTI has; sizes are in pixels")
        affine[:3, :3] /= np.where(lengths > 0, lengths, 1)
        affine[:3, :3] += np.diag(lengths == 0)
        affine[:3, 3] = 0
    elif code == _UNKNOWN:
        said = (*said, "its header names no unit of length; millimetres are assumed")
    affine[:3] *= unit or 1.0
    return StoredVolume(
        voxels,
        RAS_TO_LPS @ affine,
        "nifti",
        header,
        oriented,
        measured or None,
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        (low, high) if np.isfinite((low, high)).all() and low < high else None,
        int(header["dim"][0]) > 2,
        (*notes, *said),
    )


def _shape(header: Nifti1Header, name: str) -> tuple[int, int, int]:
    """Slices, rows and columns."""
    count = int(header["dim"][0])
    if not 2 <= count <= 7:
        raise ImageError(f"{name}: its header describes {count} axes; a volume has 3")
    sides = [int(each) for each in header["dim"][1 : count + 1]]
    if min(sides) < 1:
        raise ImageError(f"{name}: its header describes no voxels; write it again")
    if any(side > 1 for side in sides[4:]):
        raise ImageError(f"{name}: has several values per voxel; save one of them as a volume of 3 axes")
    if sides[3:] and sides[3] > 1:
        raise ImageError(f"{name}: holds {sides[3]} volumes; {_TAKE_ONE}")
    columns, rows, slices = (*sides[:3], 1)[:3]
    return slices, rows, columns


def _dtype(header: Nifti1Header, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The type of a number, and how many make a voxel if it is a colour."""
    dtype = header.get_data_dtype()
    if dtype.names in (("R", "G", "B"), ("R", "G", "B", "A")):
        return np.dtype(np.uint8), (len(dtype.names),)
    if dtype.kind == "c":
        raise ImageError(f"{name}: its voxels are complex numbers; save their magnitude")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ImageError(f"{name}: its voxels are of a type that is not read; save them as 16-bit integers or floats")
    return dtype, ()


def _affine(header: Nifti1Header, unit: float, name: str) -> tuple[NDArray[np.float64], bool, tuple[str, ...]]:
    """From (column, row, slice) to the right, the front and the head in the file's unit.

    It is the sform if its code is set, else the qform, as in nibabel.

    Returns:
        the affine; whether the file has one; notes.
    """
    notes: tuple[str, ...]
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not (has_sform or has_qform):
        affine = header.get_base_affine()
        notes = ("its header does not say how the patient lies in it",)
        return np.where(np.isfinite(affine), affine, 0.0), False, notes
    qform = None
    if has_qform:
        try:
            qform = header.get_qform()
        except ValueError:  # a quaternion longer than 1
            qform = np.full((4, 4), np.nan)
    chosen = header.get_sform() if has_sform else qform
    assert chosen is not None
    affine = np.asarray(chosen, np.float64)
    if is_broken(affine):
        which = "sform" if has_sform else "qform"
        raise ImageError(f"{name}: its {which} is not finite or has no inverse; repair it, for example with nibabel")
    notes = ()
    if has_sform and qform is not None:
        apart = _apart(affine, qform, header["dim"][1:4])
        if not apart <= _MAX_APART * np.linalg.norm(affine[:3, :3], axis=0).min():
            by = f" by up to {apart * unit:.3g} mm" if np.isfinite(apart) else ""
            notes = (f"its sform and its qform disagree{by}; the sform is used",)
    return affine, True, notes


def _apart(one: NDArray[np.float64], other: NDArray[np.float64], sides: NDArray[Any]) -> float:
    """The largest distance between the two places of a corner of the volume."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, max(int(n) - 1, 0)) for n in sides))])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def write(
    file: BinaryIO,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    source: Nifti1Header | None,
    *,
    measured: bool,
    placed: bool,
) -> None:
    """Write a volume as ``.nii.gz``.

    Args:
        file: to write into.
        array: (N, H, W) in stored order.
        affine: in DICOM's coordinates; not used if there is a source.
        source: the header of a NIfTI file, whose geometry is carried unchanged, in its byte order.
        measured: whether distances are millimetres; not used if there is a source.
        placed: whether the affine is of a patient, in coordinates of the scanner; not used if there is a source. If
            not, both codes are 2 (aligned to another file: the picture). Codes of 0 (unknown) would drop the affine:
            nibabel then makes one with rows from the bottom to the top, and what it saves comes back upside down.
    """
    header = _made(array, affine, measured, placed) if source is None else _carried(source)
    dtype = array.dtype.newbyteorder(header.endianness)
    header.set_data_dtype(dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.single_vox_offset
    parts: Iterator[bytes] = itertools.chain((header.binaryblock, bytes(4)), slices_of(array, dtype))
    file.writelines(packed(parts, "gzip"))


def _carried(source: Nifti1Header) -> Nifti1Header:
    header = type(source)(endianness=source.endianness)
    for field in _GEOMETRY:
        header[field] = source[field]
    if header["dim"][0] > 3:  # of one volume, which results are without an axis for time
        header["dim"][0], header["dim"][4:] = 3, 1
    return header


def _made(array: NDArray[Any], affine: NDArray[np.float64], measured: bool, placed: bool) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    header = Nifti1Header() if max(array.shape) <= _MAX_SIDE else Nifti2Header()
    header.set_data_shape(array.shape[::-1])
    places, code = RAS_TO_LPS @ affine, _SCANNER if placed else _ALIGNED
    header.set_sform(places, code)
    header.set_qform(places, code, strip_shears=True)
    if not np.allclose(header.get_qform(), places, atol=_MAX_APART * np.linalg.norm(places[:3, :3], axis=0).min()):
        header["qform_code"] = 0  # quaternions have no shear
    if measured:
        header.set_xyzt_units("mm")
    return header
