"""A volume from a file of any of the three formats, ready to segment or as ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ...errors import ImageError
from ...machine.extras import require_extra
from ...registry import Axis
from ..decoders.stored import check_limit
from ..image import MIN_SIDE
from ..sources import FileSource, Form
from ..space import arrangement
from ..volume import Volume
from . import metaimage, nifti, nrrd
from .payload import Packing, Unpacked, opened
from .ranges import find_span
from .stored import StoredVolume, sheared, spacing_of

_GZIP = b"\x1f\x8b"
_HEAD = 1024  # bytes that decide the format


def identify(file: BinaryIO) -> Form | None:
    """The format of a file by its content; None if it is none of the three. The file stands at its start then.

    Raises:
        zlib.error, EOFError: it is compressed, and damaged.
    """
    return _identify(file)[0]


def _identify(file: BinaryIO) -> tuple[Form | None, Packing | None]:
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(_GZIP):
        head = Unpacked(file, "gzip").read(nifti.HEAD)
        file.seek(0)
        return ("nifti" if nifti.is_nifti(head) else None), "gzip"
    if nifti.is_nifti(head):
        return "nifti", None
    if head.startswith(nrrd.MAGIC):
        return "nrrd", None
    return ("mha" if metaimage.is_metaimage(head) else None), None


def files_of(path: Path) -> tuple[Path, ...]:
    """The file of a volume and, if its header names another one, the file of its voxels.

    Raises:
        ImageError: the file cannot be read, or that of its voxels is missing or in another folder.
    """
    with opened(path) as (file, name):
        form, _ = _identify(file)
        named = {"nrrd": nrrd.voxels_file, "mha": metaimage.voxels_file}.get(form or "")
        beside = None if named is None else named(file, path, name)
    return (path,) if beside is None else (path, beside)


def read_volume(path: Path, window: tuple[float, float] | None = None, axis: Axis | None = None) -> Volume:
    """Read a volume: NIfTI (``.nii``, ``.nii.gz``), NRRD (``.nrrd``, ``.nhdr``) or MetaImage (``.mha``, ``.mhd``).

    The content decides the format. Voxels keep their stored type. Those of an uncompressed file stay on the disk and
    are mapped into memory: the file must not become shorter as long as the volume is in use.

    Args:
        path: the file.
        window: centre and width in the file's intensities, which become black and white beyond it. None finds one range
            for all slices, as :func:`.ranges.find_span` says.
        axis: normal to the slices; None for slices as they are stored.

    Raises:
        ImageError: it is none of these formats, is damaged, has several volumes, no number or one value throughout, is
            too small or too large, or has no such slices: its axes are not at right angles, or its orientation is
            unknown.
        UsageError: the window has no width.
        BackendUnavailable: nibabel or pynrrd is missing.
    """
    with opened(path) as (file, name):
        stored = read_stored(file, path, name)
        chosen = arrangement(stored.affine, axis)
        shape = chosen.apply(stored.voxels).shape
        rows, columns = shape[1:3]
        check_limit(columns, rows, name)
        if min(rows, columns) < MIN_SIDE:
            raise ImageError(
                f"{name}: slices of {columns} x {rows} pixels are too small to segment;"
                f" at least {MIN_SIDE} x {MIN_SIDE} is needed"
            )
        if axis is not None and not stored.oriented:
            raise ImageError(f"{name}: its header does not say how the patient lies in it; omit --axis")
        affine = chosen.affine(stored.affine, stored.shape)
        notes = list(stored.notes)
        in_slices, between_slices = sheared(affine)
        if in_slices or between_slices:
            if chosen.order[0] != 0:
                raise ImageError(
                    f"{name}: its axes are not at right angles, so it has no {axis} slices; omit --axis or resample it"
                )
            notes.append("its axes are not at right angles" + ("; sizes are in pixels" if in_slices else ""))
        spacing, thickness = None, None
        if stored.measured is not None and not in_slices:
            spacing, distance = spacing_of(affine, stored.measured)
            thickness = distance if stored.thick else None
        span, said = find_span(stored, window, name)
    return Volume(
        chosen.apply(stored.voxels),
        name,
        affine,
        spacing,
        thickness,
        span,
        FileSource(path, stored.form, stored.header),
        slope=stored.slope,
        intercept=stored.intercept,
        arrangement=chosen,
        notes=(*notes, *said),
        placed=stored.oriented,
    )


def read_stored(file: BinaryIO, path: Path, name: str) -> StoredVolume:
    """Read an opened file as it is stored.

    Raises:
        ImageError: as :func:`read_volume`, but for what concerns slices and intensities.
        BackendUnavailable: nibabel or pynrrd is missing.
    """
    form, packing = _identify(file)
    if form is None:
        if not (Unpacked(file, packing) if packing else file).read(1):
            raise ImageError(f"{name}: the file is empty; copy or export it again")
        raise ImageError(f"{name}: is not NIfTI, NRRD or MetaImage; save the volume in one of these formats")
    if form == "mha":
        return metaimage.read(file, path, name)
    require_extra("volumes", f"{name}: {'NIfTI' if form == 'nifti' else 'NRRD'}")
    return nifti.read(file, name, packing) if form == "nifti" else nrrd.read(file, path, name)
