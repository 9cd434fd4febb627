"""HDF5 files of one slice each, with data sets ``image`` and perhaps ``label``, both (H, W): as SSL4MIS keeps ACDC."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import BackendUnavailable, ImageError, printable

MOST_NAMED = 5  # data sets in one line

# Systems without file locks, such as some network file systems, say one of these.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, for reading.

    Raises:
        BackendUnavailable: h5py is missing.
        ImageError: it cannot be read; the line says whether it is damaged or what else it is.
    """
    try:
        import h5py
    except ImportError as error:
        raise BackendUnavailable(f"HDF5 files need h5py ({error}); pip install 'msformer-deploy[train]'") from error
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise ImageError(f"{printable(path)}: is not a regular file; copy the slice to one first")
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ImageError(f"{printable(path)}: {_explain(error)}") from error


def find(file: Any, name: str, path: Path) -> Any:
    """A data set (H, W) of the file, unread.

    Raises:
        ImageError: there is none of that name and shape, or it is a link to nothing.
    """
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        names = [printable(each) for each in file]
        others = ", ".join([*names[:MOST_NAMED], "..."] if len(names) > MOST_NAMED else names)
        there = f"it has {others}" if names else "it is empty"
        raise ImageError(
            f"{printable(path)}: has no data set '{name}' of one slice (H, W), {there}; rename the data set"
            f" that holds the {name}, or move the file away"
        )
    try:
        found = file[name]
    except (KeyError, OSError) as error:
        target = "another place"
        if isinstance(link, h5py.ExternalLink):
            target = f"{printable(link.path)} in the file {printable(link.filename)}"
        elif isinstance(link, h5py.SoftLink):
            target = printable(link.path)
        raise ImageError(
            f"{printable(path)}: '{name}' is a link to {target}, which cannot be opened; put that where the link"
            " leads, or write the values into this file"
        ) from error
    if not isinstance(found, h5py.Dataset) or found.ndim != 2:
        shape = getattr(found, "shape", None)
        told = "a group" if not isinstance(found, h5py.Dataset) else f"of shape {shape}"
        raise ImageError(
            f"{printable(path)}: '{name}' is not one slice (H, W) but {told}; write each slice to its own file"
        )
    return found


def plane(file: Any, name: str, path: Path) -> NDArray[Any]:
    """The values of a data set (H, W) of the file.

    Raises:
        ImageError: as :func:`find`, or its values are in another file that is not there, or need a filter that is not
            installed.
    """
    found = find(file, name, path)
    _check_sources(found, name, path)
    _check_filters(found, name, path)
    values: NDArray[Any] = found[()]
    return values


def _check_sources(found: Any, name: str, path: Path) -> None:
    """See that the files of a virtual data set are there, as HDF5 takes zeros in place of values that are not."""
    if not found.is_virtual:
        return
    for source in found.virtual_sources():
        if source.file_name == "." or "%" in source.file_name:  # in this file, or in a series of files
            continue
        beside = path.parent / source.file_name
        try:
            with opened(beside) as file:
                there = source.dset_name in file
        except ImageError:
            there = False
        if not there:
            raise ImageError(
                f"{printable(path)}: values of '{name}' are in {printable(source.dset_name)} of the file"
                f" {printable(source.file_name)}, which cannot be read; put that beside this one"
            )


def _check_filters(found: Any, name: str, path: Path) -> None:
    """See that every filter by which values were compressed is installed."""
    from h5py import h5z

    created = found.id.get_create_plist()
    for index in range(created.get_nfilters()):
        number, _, _, title = created.get_filter(index)
        if not h5z.filter_avail(number):
            with suppress(ImportError):
                import hdf5plugin  # noqa: F401  # registers its filters
        if not h5z.filter_avail(number):
            called = printable(os.fsdecode(title).partition(";")[0]) or "a filter without a name"  # before its address
            raise ImageError(
                f"{printable(path)}: '{name}' is compressed by {called} (HDF5 filter {number}), which is not installed;"
                " pip install hdf5plugin, or write the file with gzip or lzf"
            )


def _explain(error: Exception) -> str:
    """Why a file cannot be opened or read, and what to do about it."""
    number, text = getattr(error, "errno", None), str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, PermissionError):
        return "permission denied; make the file readable"
    if isinstance(error, BlockingIOError):
        return "is locked, because another process writes it; wait until it is closed"
    if "already open for write" in text:
        return (
            "is marked as being written; wait until the process that writes it has closed it, or run h5clear -s on it"
            " if that process has died"
        )
    if number in _NO_LOCKS or "unable to lock file" in text:
        return "cannot be locked on this file system; set HDF5_USE_FILE_LOCKING=FALSE, or copy it to another disk"
    if "external raw data file" in text:
        return "its values are in another file, which is not there; write them into this one"
    if "filter" in text and ("not registered" in text or "plugin" in text):
        return f"needs an HDF5 filter that is not installed ({printable(text)}); pip install hdf5plugin"
    if "superblock version" in text:
        return "is of a newer HDF5 version than h5py's, or damaged; copy it again, or update h5py"
    if number is not None:
        return f"cannot be read: {os.strerror(number)}; check the path and the disk"
    return "cannot be read as HDF5, damaged or cut short; copy it again"
