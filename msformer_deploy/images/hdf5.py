"""HDF5 files of one slice, with data sets ``image`` and optionally ``label``, both (H, W), as SSL4MIS stores ACDC."""

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

MAX_NAMED = 5  # data sets in one message

# Error numbers of systems without file locks, such as some network file systems.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open the file for reading.

    Raises:
        BackendUnavailable: h5py is missing.
        ImageError: the file cannot be read; the message says why.
    """
    try:
        import h5py
    except ImportError as error:
        raise BackendUnavailable(f'HDF5 files need h5py ({error}); pip install "msformer-deploy[train]"') from error
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise ImageError(f"{printable(path)}: is not a regular file; copy the slice to one first")
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ImageError(f"{printable(path)}: {_explain(error)}") from error


def find(file: Any, name: str, path: Path) -> Any:
    """Find a data set (H, W) of the file, without reading its values.

    Raises:
        ImageError: there is no data set of that name and shape, or it is a broken link.
    """
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        names = [printable(each) for each in file]
        others = ", ".join([*names[:MAX_NAMED], "..."] if len(names) > MAX_NAMED else names)
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
            f"{printable(path)}: '{name}' is a link to {target}, which cannot be opened; put the target there,"
            " or write the values into this file"
        ) from error
    if not isinstance(found, h5py.Dataset) or found.ndim != 2:
        shape = getattr(found, "shape", None)
        actual = "a group" if not isinstance(found, h5py.Dataset) else f"of shape {shape}"
        raise ImageError(
            f"{printable(path)}: '{name}' is not one slice (H, W) but {actual}; write each slice to its own file"
        )
    return found


def plane(file: Any, name: str, path: Path) -> NDArray[Any]:
    """Read the values of a data set (H, W) of the file.

    Raises:
        ImageError: as :func:`find`, or the values are in another file that is missing, or need a filter that is not
            installed.
    """
    found = find(file, name, path)
    _check_sources(found, name, path)
    _check_filters(found, name, path)
    values: NDArray[Any] = found[()]
    return values


def _check_sources(found: Any, name: str, path: Path) -> None:
    """Check that the source files of a virtual data set exist: HDF5 returns zeros in place of missing values."""
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
                f" {printable(source.file_name)}, which cannot be read; put that file beside this one"
            )


def _check_filters(found: Any, name: str, path: Path) -> None:
    """Check that every compression filter of the values is installed."""
    from h5py import h5z

    created = found.id.get_create_plist()
    for index in range(created.get_nfilters()):
        number, _, _, title = created.get_filter(index)
        if not h5z.filter_avail(number):
            with suppress(ImportError):
                import hdf5plugin  # noqa: F401 - its import registers the filters
        if not h5z.filter_avail(number):
            called = printable(os.fsdecode(title).partition(";")[0]) or "a filter without a name"  # without its address
            raise ImageError(
                f"{printable(path)}: '{name}' is compressed by {called} (HDF5 filter {number}), which is not installed;"
                " pip install hdf5plugin, or write the file with gzip or lzf"
            )


def _explain(error: Exception) -> str:
    """Return why a file cannot be opened or read, and what to do."""
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
        return "its values are in another file, which is missing; write them into this one"
    if "filter" in text and ("not registered" in text or "plugin" in text):
        return f"needs an HDF5 filter that is not installed ({printable(text)}); pip install hdf5plugin"
    if "superblock version" in text:
        return "needs a newer HDF5 version than that of h5py, or is damaged; update h5py, or copy the file again"
    if number is not None:
        return f"cannot be read: {os.strerror(number)}; check the path and the disk"
    return "cannot be read as HDF5, damaged or cut short; copy it again"
